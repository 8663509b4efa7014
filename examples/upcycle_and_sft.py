# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-metis-home[train]"]
# ///
r"""
Turns a dense Qwen2.5-VL into a two-branch model and trains branches and router together (Stage-SFT).

    python examples/upcycle_and_sft.py --model_name_or_path Qwen/Qwen2.5-VL-3B-Instruct --dataset_name runs/data \
        --output_dir runs/sft

Rows have `prompt`, `images`, `completion` and `thinking`, as `metis-home build-data` writes them. Every flag of
TRL's `SFTConfig` and `ModelConfig` works. Use `accelerate launch` for several GPUs.
"""

from pathlib import Path

from accelerate import PartialState
from datasets import load_dataset
from trl import ModelConfig, ScriptArguments, TrlParser, get_peft_config

from hf_metis_home import MetisHomeSFTConfig, MetisHomeSFTTrainer, upcycle_checkpoint


if __name__ == "__main__":
    parser = TrlParser((ScriptArguments, MetisHomeSFTConfig, ModelConfig))
    script_args, training_args, model_args = parser.parse_args_and_config()

    # Both branches start as copies of the dense model; the router knows nothing yet. One process does this, on disk.
    hybrid = Path(training_args.output_dir) / "upcycled"
    with PartialState().main_process_first():
        if not hybrid.exists():
            upcycle_checkpoint(model_args.model_name_or_path, hybrid, router_layer=1)

    training_args.model_init_kwargs = {"dtype": model_args.dtype, "attn_implementation": model_args.attn_implementation}
    dataset = load_dataset(script_args.dataset_name)
    trainer = MetisHomeSFTTrainer(
        model=str(hybrid),
        args=training_args,
        train_dataset=dataset[script_args.dataset_train_split],
        eval_dataset=dataset[script_args.dataset_test_split] if training_args.eval_strategy != "no" else None,
        peft_config=get_peft_config(model_args),
    )
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    trainer.save_model()  # a complete Hub folder: weights, code, processor, card
    if training_args.push_to_hub:
        trainer.push_to_hub()
