# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-metis-home[train]"]
# ///
r"""
Stage-RL: GRPO on verifiable prompts, for the dense model before it is upcycled, as in the paper.

    python examples/grpo_stage_rl.py --model_name_or_path Qwen/Qwen2.5-VL-3B-Instruct --dataset_name runs/prompts \
        --output_dir runs/rl --num_generations 8

For one branch of a two-branch model; the other branch answers as before:

    python examples/grpo_stage_rl.py --model_name_or_path runs/sft --rollout_branch thinking \
        --dataset_name runs/prompts --output_dir runs/sft-rl

Rows have `prompt`, `images` (a list, empty for text) and `solution`.
"""

from datasets import load_dataset
from trl import ModelConfig, ScriptArguments, TrlParser, get_peft_config

from hf_metis_home import MetisHomeGRPOConfig, MetisHomeGRPOTrainer
from hf_metis_home.rewards import accuracy_reward, format_reward


def short_thought_reward(completions: list, **columns) -> list[float]:
    """A custom reward with TRL's signature, one number per completion: a small bonus for fewer than 200 words."""
    texts = [text if isinstance(text, str) else text[0]["content"] for text in completions]
    return [0.1 * (len(text.split()) < 200) for text in texts]


if __name__ == "__main__":
    parser = TrlParser((ScriptArguments, MetisHomeGRPOConfig, ModelConfig))
    script_args, training_args, model_args = parser.parse_args_and_config()
    training_args.model_init_kwargs = {"dtype": model_args.dtype, "attn_implementation": model_args.attn_implementation}

    trainer = MetisHomeGRPOTrainer(
        model=model_args.model_name_or_path,
        reward_funcs=[accuracy_reward, format_reward, short_thought_reward],
        args=training_args,
        train_dataset=load_dataset(script_args.dataset_name, split=script_args.dataset_train_split),
        peft_config=get_peft_config(model_args),
    )
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    trainer.save_model()
