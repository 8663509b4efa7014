"""
Train branches and router on rows of both modes (Stage-SFT).

    metis-home sft --model_name_or_path runs/hybrid --dataset_name runs/data --output_dir runs/sft

From a recipe, with one field changed, on two processes:

    accelerate launch --config_file accelerate_configs/ddp.yaml --num_processes 2 -m hf_metis_home.cli.sft \\
        --config recipes/3b/stage_sft.yaml --learning_rate 5e-6
"""

import dataclasses
import sys

from ._training import RunArguments, build_trainer, load_data, meta_model, parse, run_training, train_and_save


@dataclasses.dataclass
class SFTArguments(RunArguments):
    eval_generation_rows: int = dataclasses.field(
        default=0, metadata={"help": "evaluation rows that are answered, with the router deciding, at every evaluation"}
    )
    eval_max_new_tokens: int = dataclasses.field(default=1024, metadata={"help": "longest of those answers, in tokens"})


def main(argv: list[str] | None = None) -> int:
    """`metis-home sft`. Takes the flags, gives the exit code."""
    return run_training("sft", SFTArguments, "MetisHomeSFTConfig", __doc__, _sft, argv)


def _sft(argv: list[str]) -> None:
    from trl import ModelConfig

    from ..evaluation.generation_callback import GenerationCallback
    from ..trainers import MetisHomeSFTConfig, MetisHomeSFTTrainer
    from ..trainers.parameter_groups import describe_trainable, freeze, trained_groups
    from ..trainers.sft_trainer import check_rows

    arguments, config, model_config = parse("sft", (SFTArguments, MetisHomeSFTConfig, ModelConfig), argv)
    train, evaluate = load_data(arguments, config)
    if arguments.dry_run:
        check_rows(train, evaluate, config)
        model = meta_model(model_config.model_name_or_path, config, model_config)
        if not model_config.use_peft:
            freeze(model, trained_groups(config.trainable, config.train_router))
        print(describe_trainable(model))
        print(f"{len(train)} training rows. Everything fits; nothing was written. Next: run it without --dry_run.")
        return
    names = arguments.dataset_name
    trainer = build_trainer(
        MetisHomeSFTTrainer, model_config, config, names, train_dataset=train, eval_dataset=evaluate
    )
    if arguments.eval_generation_rows:
        trainer.add_callback(GenerationCallback(trainer, arguments.eval_generation_rows, arguments.eval_max_new_tokens))
    train_and_save(
        trainer, config.resume_from_checkpoint, f"metis-home validate --model_name_or_path {config.output_dir}"
    )


if __name__ == "__main__":
    sys.exit(main())
