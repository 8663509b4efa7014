"""
What `metis-home sft` and `metis-home grpo` share: flags, data, the dry run, and the last line.

Their flags are the fields of their own arguments, of their configuration and of TRL's `ModelConfig`.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .._extras import require_extra
from ._arguments import PositiveInt, UsageError, flag, make_arguments, read_arguments
from ._launch import LAUNCHED, config_file, launch
from ._run import report_errors


@dataclass
class RunArguments:
    """The flags of both verbs besides the fields of their configurations."""

    model_name_or_path: str = flag("model to train: folder or Hub id")
    dataset_name: list[str] = flag("training rows: files, folders or Hub ids")
    dataset_weights: list[float] | None = flag("sampling weight of each dataset, relative to the others", None)
    dataset_train_split: str = flag("split to train on", "train")
    dataset_test_split: str = flag("split to evaluate on", "test")
    resume_from_checkpoint: str | bool | None = flag("true for the last checkpoint in --output_dir, or a folder", None)
    dry_run: bool = flag("check everything and print what would be trained, without loading weights", False)
    num_processes: PositiveInt | None = flag("processes on this machine, one per GPU (default: one)", None)
    accelerate_config: str | None = flag(
        "how to distribute training: one_gpu, ddp, fsdp2, zero2, zero3, or an accelerate config file", None
    )


def run_training(
    verb: str, arguments_class: type, config_name: str, function: Callable, argv: list[str] | None, description: str
) -> int:
    """
    Run a training verb, in several processes if its flags say so.

    Args:
        verb (`str`):
            Name after `metis-home`.
        arguments_class (`type`):
            Dataclass of the verb's own flags.
        config_name (`str`):
            Class in `hf_metis_home.trainers`; its fields are flags too.
        function (`Callable`):
            Takes the arguments, the configuration and TRL's `ModelConfig`.
        argv (`list[str]`, *optional*):
            Flags and values; the process's own by default.
        description (`str`):
            Shown by `--help`.

    Returns:
        `int`: exit code, as for other verbs.
    """
    prog = f"metis-home {verb}"
    argv = sys.argv[1:] if argv is None else argv

    def run():
        if "-h" in argv or "--help" in argv:  # without the imports of TRL
            read_arguments([arguments_class], ["--help"], prog, description)
        require_extra("train", "trl", "datasets")
        from trl import ModelConfig

        from .. import trainers

        classes = [arguments_class, getattr(trainers, config_name), ModelConfig]
        words = ["--help"] if {"--help_all", "--help-all"} & {*argv} else argv
        values = read_arguments(classes, words, prog, description)
        arguments = make_arguments(arguments_class, values)
        several = arguments.num_processes or arguments.accelerate_config
        if arguments.accelerate_config is not None:
            config_file(arguments.accelerate_config)  # also in a dry run
        if several and not arguments.dry_run and LAUNCHED not in os.environ and "WORLD_SIZE" not in os.environ:
            return launch(verb, argv, arguments, values.get("use_cpu", False))
        try:
            configs = [make_arguments(each, values) for each in classes[1:]]
        except (ValueError, TypeError) as error:  # of a configuration that checks itself
            raise UsageError(str(error)) from error
        return function(arguments, *configs)

    return report_errors(prog, run)


def load_data(arguments: RunArguments, config):
    """Training rows, mixed by weight, and evaluation rows (None without `eval_strategy`)."""
    from datasets import concatenate_datasets

    from ..data.loading import load_rows
    from ..data.mixing import mix_datasets

    names, weights = arguments.dataset_name, arguments.dataset_weights
    if weights is not None and len(weights) != len(names):
        raise ValueError(
            f"`dataset_weights` has {len(weights)} values, but `dataset_name` has {len(names)} datasets. Give one "
            "weight per dataset, or no weights."
        )

    def read(split: str) -> dict:
        return {name: load_rows(name, split, "dataset_name") for name in names}

    parts = read(arguments.dataset_train_split)
    if weights is None:
        train = concatenate_datasets(list(parts.values()))
    else:
        train = mix_datasets(parts, dict(zip(names, weights, strict=True)), seed=config.seed)
    if config.eval_strategy == "no":
        return train, None
    if files := [name for name in names if Path(name).is_file()]:
        raise ValueError(
            f"`dataset_name` has {files[0]!r}, a file without splits, so `eval_strategy` would evaluate on the "
            f"training rows. Give a folder with the splits {arguments.dataset_train_split!r} and "
            f"{arguments.dataset_test_split!r}, or set `eval_strategy` to no."
        )
    return train, concatenate_datasets(list(read(arguments.dataset_test_split).values()))


def meta_model(config, model_config):
    """The model without its weights, to see what would be trained."""
    import torch
    from peft import get_peft_model
    from transformers import AutoConfig, AutoModelForImageTextToText
    from trl import get_peft_config

    from .. import modeling

    modeling.MetisHomeConfig  # noqa: B018  registers the classes
    name, trust = model_config.model_name_or_path, config.trust_remote_code
    own = AutoConfig.from_pretrained(name, revision=model_config.model_revision, trust_remote_code=trust)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(own, trust_remote_code=trust)
    if (peft_config := get_peft_config(model_config)) is not None:
        model = get_peft_model(model, peft_config)
    return model


def print_dry_run(model, rows: str) -> None:
    """What would be trained, after all checks passed."""
    from ..trainers.parameter_groups import describe_trainable

    print(describe_trainable(model))
    print(f"{rows}. All checks passed; nothing was written. Next: run it without --dry_run.")


def build_trainer(trainer_class: type, model_config, config, arguments: RunArguments, **more):
    """
    A trainer of the model that the flags name, with adapters and quantisation as the flags say.

    Raises:
        UsageError: what the libraries refuse, in their words (with the traceback: `METIS_HOME_DEBUG=1`).
    """
    from trl import get_peft_config, get_quantization_config

    config.model_init_kwargs = {
        "revision": model_config.model_revision,
        "attn_implementation": model_config.attn_implementation,
        "dtype": model_config.dtype,
        **(config.model_init_kwargs or {}),
    }
    if (quantization := get_quantization_config(model_config)) is not None:
        more["quantization_config"] = quantization
    try:
        trainer = trainer_class(
            model_config.model_name_or_path, args=config, peft_config=get_peft_config(model_config), **more
        )
    except (OSError, ValueError) as error:
        raise UsageError(str(error)) from error
    trainer.dataset_names = tuple(arguments.dataset_name)
    return trainer


def train_and_save(trainer, next_verb: str) -> None:
    """Train, save a complete folder, and print what was written where."""
    trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
    trainer.save_model()
    output = trainer.args.output_dir
    trainer.accelerator.print(
        f"Wrote the model after {trainer.state.global_step} steps to {output} (run settings: {output}/run.json). "
        f"Next: metis-home {next_verb} --model_name_or_path {output}"
    )
