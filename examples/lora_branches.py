# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-metis-home[train]"]
# ///
"""
LoRA branches: a small thinking branch on top of a model that does not change.

    python examples/lora_branches.py --model_name_or_path my-qwen --dataset_name runs/thoughts --output_dir runs/lora

Only the thinking branch trains, so direct answers stay those of the dense model. At the end, the branch is exported as
a standard PEFT adapter of the dense model, for engines that serve adapters.
"""

from pathlib import Path

from datasets import load_dataset
from trl import ModelConfig, ScriptArguments, TrlParser

from hf_metis_home import MetisHomeSFTConfig, MetisHomeSFTTrainer, export_checkpoint, upcycle_checkpoint


if __name__ == "__main__":
    parser = TrlParser((ScriptArguments, MetisHomeSFTConfig, ModelConfig))
    script_args, training_args, model_args = parser.parse_args_and_config()
    training_args.trainable = "thinking"
    output_dir = Path(training_args.output_dir)

    # Skills such as reading text backwards also need attention: add its projections to `branch_projections`.
    upcycle_checkpoint(
        model_args.model_name_or_path, output_dir / "upcycled", branch_kind="lora", branch_rank=16, branch_alpha=32.0
    )
    trainer = MetisHomeSFTTrainer(
        model=str(output_dir / "upcycled"),
        args=training_args,
        train_dataset=load_dataset(script_args.dataset_name, split=script_args.dataset_train_split),
    )
    trainer.train()
    trainer.save_model(str(output_dir / "hybrid"))
    export_checkpoint(
        output_dir / "hybrid", output_dir / "adapter", format="peft", branch="thinking",
        base_model=model_args.model_name_or_path,
    )  # fmt: skip
