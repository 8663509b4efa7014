"""
Train a dense model, a branch or the router on rewards (Stage-RL). Every field of MetisHomeGRPOConfig (TRL's GRPOConfig
and more) and of TRL's ModelConfig (dtype, use_peft, lora_r, ...) is a flag too: --help_all lists them.

The dense model before it is upcycled, as published:

    metis-home grpo --model_name_or_path Qwen/Qwen2.5-VL-3B-Instruct --dataset_name runs/prompts --output_dir runs/rl

Only the thinking branch of a two-branch model, on 8 GPUs:

    metis-home grpo --model_name_or_path runs/sft --rollout_branch thinking --dataset_name runs/prompts \\
        --output_dir runs/sft-rl --accelerate_config zero3 --num_processes 8
"""

from dataclasses import dataclass
from typing import Literal

from ._arguments import flag
from ._training import RunArguments, build_trainer, load_data, meta_model, print_dry_run, run_training, train_and_save


@dataclass
class GRPOArguments(RunArguments):
    rewards: list[Literal["accuracy", "format", "thought_leak", "soft_overlong"]] | None = flag(
        "what to reward, of accuracy, format, thought_leak, soft_overlong (default: accuracy format); weigh them with "
        "--reward_weights; for your own rewards, use MetisHomeGRPOTrainer in Python",
        None,
    )


def main(argv: list[str] | None = None) -> int:
    """Run `metis-home grpo`."""
    return run_training("grpo", GRPOArguments, "MetisHomeGRPOConfig", _grpo, argv, __doc__)


def _grpo(arguments: GRPOArguments, config, model_config) -> None:
    from peft import PeftModel

    from ..modeling import MetisHomeConfig
    from ..trainers import MetisHomeGRPOTrainer
    from ..trainers.grpo_checks import check_model, check_prompts, check_vllm
    from ..trainers.parameter_groups import freeze

    rewards = [reward_function(name, config) for name in arguments.rewards or ("accuracy", "format")]
    train, evaluate = load_data(arguments, config)
    if arguments.dry_run:
        model = meta_model(config, model_config)
        two_branch, adapted = model.config.model_type == MetisHomeConfig.model_type, isinstance(model, PeftModel)
        check_model(model, config, two_branch)
        check_vllm(model, config, two_branch, adapted)
        check_prompts(train, evaluate, rewards, config, two_branch)
        freeze(model, config.groups, unfreeze=not adapted)
        print_dry_run(model, f"{len(train)} prompts")
        return
    data = {"train_dataset": train, "eval_dataset": evaluate, "reward_funcs": rewards}
    trainer = build_trainer(MetisHomeGRPOTrainer, model_config, config, arguments, **data)
    train_and_save(trainer, next_verb="validate" if trainer.two_branch else "upcycle")


def reward_function(name: str, config):
    """A reward by its name on the command line."""
    from ..rewards import accuracy_reward, format_reward, get_soft_overlong_punishment, thought_leak_penalty

    if name == "soft_overlong":
        longest = config.max_completion_length
        # A fifth of the length, the proportion of DAPO (arXiv 2503.14476).
        return get_soft_overlong_punishment(max_completion_len=longest, soft_punish_cache=longest // 5)
    return {"accuracy": accuracy_reward, "format": format_reward, "thought_leak": thought_leak_penalty}[name]


if __name__ == "__main__":
    raise SystemExit(main())
