"""
Train a dense model, a branch, both or the router on rewards (Stage-RL).

The dense model, before it is upcycled, as published:

    metis-home grpo --model_name_or_path Qwen/Qwen2.5-VL-3B-Instruct --dataset_name runs/prompts --output_dir runs/rl

The thinking branch alone, of a two-branch model:

    metis-home grpo --model_name_or_path runs/sft --rollout_branch thinking --dataset_name runs/prompts \\
        --output_dir runs/sft-rl
"""

import dataclasses
import sys

from ._training import RunArguments, build_trainer, load_data, meta_model, parse, run_training, train_and_save


REWARDS = ("accuracy", "format", "thought_leak", "soft_overlong")


@dataclasses.dataclass
class GRPOArguments(RunArguments):
    rewards: list[str] = dataclasses.field(
        default_factory=lambda: ["accuracy", "format"],
        metadata={"help": f"what is rewarded, of {', '.join(REWARDS)}; their weights: --reward_weights"},
    )


def main(argv: list[str] | None = None) -> int:
    """`metis-home grpo`. Takes the flags, gives the exit code."""
    return run_training("grpo", GRPOArguments, "MetisHomeGRPOConfig", __doc__, _grpo, argv)


def _grpo(argv: list[str]) -> None:
    from peft import PeftModel
    from trl import ModelConfig

    from ..modeling import MetisHomeConfig
    from ..trainers import MetisHomeGRPOConfig, MetisHomeGRPOTrainer
    from ..trainers.grpo_checks import check_model, check_prompts, check_vllm
    from ..trainers.parameter_groups import describe_trainable, freeze

    arguments, config, model_config = parse("grpo", (GRPOArguments, MetisHomeGRPOConfig, ModelConfig), argv)
    rewards = [reward_function(name, config) for name in arguments.rewards]
    train, evaluate = load_data(arguments, config)
    if arguments.dry_run:
        model = meta_model(model_config.model_name_or_path, config, model_config)
        two_branch = model.config.model_type == MetisHomeConfig.model_type
        check_model(model, config, two_branch)
        check_vllm(model, config, two_branch, isinstance(model, PeftModel))
        check_prompts(train, evaluate, rewards, config, two_branch)
        freeze(model, config.groups, unfreeze=not isinstance(model, PeftModel))
        print(describe_trainable(model))
        print(f"{len(train)} prompts. Everything fits; nothing was written. Next: run it without --dry_run.")
        return
    data = {"train_dataset": train, "eval_dataset": evaluate}
    trainer = build_trainer(
        MetisHomeGRPOTrainer, model_config, config, arguments.dataset_name, reward_funcs=rewards, **data
    )
    verb = "validate" if trainer.two_branch else "upcycle"
    train_and_save(
        trainer, config.resume_from_checkpoint, f"metis-home {verb} --model_name_or_path {config.output_dir}"
    )


def reward_function(name: str, config):
    """A reward by its name on the command line."""
    from .. import rewards

    if name not in REWARDS:
        raise ValueError(f"`rewards` has {name!r}, but may have {', '.join(REWARDS)}. Rewards of your own: in Python.")
    if name == "soft_overlong":
        longest = config.max_completion_length
        # A fifth of the length, the proportion of DAPO (arXiv 2503.14476).
        return rewards.get_soft_overlong_punishment(max_completion_len=longest, soft_punish_cache=longest // 5)
    return {
        "accuracy": rewards.accuracy_reward,
        "format": rewards.format_reward,
        "thought_leak": rewards.thought_leak_penalty,
    }[name]


if __name__ == "__main__":
    sys.exit(main())
