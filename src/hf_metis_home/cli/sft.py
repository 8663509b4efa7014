"""
Train branches and router on rows of both modes (Stage-SFT). Every field of MetisHomeSFTConfig (TRL's SFTConfig
and more) and of TRL's ModelConfig (dtype, use_peft, lora_r, ...) is a flag too: --help_all lists them.

    metis-home sft --model_name_or_path runs/hybrid --dataset_name runs/data --output_dir runs/sft

From a recipe, with one field changed, on two GPUs:

    metis-home sft --config recipes/3b/stage_sft.yaml --learning_rate 5e-6 --num_processes 2

Sharded over the GPUs by DeepSpeed:

    metis-home sft --config recipes/3b/stage_sft.yaml --accelerate_config zero2 --num_processes 8
"""

from dataclasses import dataclass

from ._arguments import flag
from ._training import RunArguments, build_trainer, load_data, meta_model, print_dry_run, run_training, train_and_save


@dataclass
class SFTArguments(RunArguments):
    eval_generation_rows: int = flag("evaluation rows to answer at every evaluation, with the router deciding", 0)
    eval_max_new_tokens: int = flag("longest of these answers, in tokens", 1024)


def main(argv: list[str] | None = None) -> int:
    """Run `metis-home sft`."""
    return run_training("sft", SFTArguments, "MetisHomeSFTConfig", _sft, argv, __doc__)


def _sft(arguments: SFTArguments, config, model_config) -> None:
    from ..evaluation.generation_callback import GenerationCallback
    from ..trainers import MetisHomeSFTTrainer
    from ..trainers.parameter_groups import freeze, trained_groups
    from ..trainers.sft_trainer import check_rows

    train, evaluate = load_data(arguments, config)
    if arguments.dry_run:
        check_rows(train, evaluate, config)
        model = meta_model(config, model_config)
        if not model_config.use_peft:
            freeze(model, trained_groups(config.trainable, config.train_router))
        print_dry_run(model, f"{len(train)} training rows")
        return
    data = {"train_dataset": train, "eval_dataset": evaluate}
    trainer = build_trainer(MetisHomeSFTTrainer, model_config, config, arguments, **data)
    if arguments.eval_generation_rows:
        trainer.add_callback(GenerationCallback(trainer, arguments.eval_generation_rows, arguments.eval_max_new_tokens))
    train_and_save(trainer, next_verb="validate")


if __name__ == "__main__":
    raise SystemExit(main())
