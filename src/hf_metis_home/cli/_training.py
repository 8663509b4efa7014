"""
What `metis-home sft` and `metis-home grpo` share: flags, data, a dry run, and what is said at the end.

Flags are the fields of the stage's arguments here, of its configuration and of TRL's `ModelConfig`, read by TRL's
parser: defaults, then the YAML file, then the command line.
"""

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path

from .._extras import require_extra
from ._arguments import UsageError, read_yaml
from ._run import report_errors


@dataclass
class RunArguments:
    """The flags of both verbs that no configuration of TRL has."""

    dataset_name: list[str] | None = field(
        default=None, metadata={"help": "rows: files, folders or Hub ids, one or several (required)"}
    )
    dataset_weights: list[float] | None = field(
        default=None, metadata={"help": "how often rows of each dataset come, relative to the others"}
    )
    dataset_train_split: str = field(default="train", metadata={"help": "split to train on"})
    dataset_test_split: str = field(default="test", metadata={"help": "split to evaluate on"})
    dry_run: bool = field(
        default=False, metadata={"help": "check everything and say what would train, without loading weights"}
    )


def run_training(
    verb: str, arguments_class: type, config: str, description: str, function: Callable, argv: list[str] | None
) -> int:
    """
    Run a training verb on its words.

    Args:
        verb (`str`):
            Name after `metis-home`.
        arguments_class (`type`):
            Dataclass of the flags that no configuration has.
        config (`str`):
            Name of the configuration whose fields are flags too, for `--help`.
        description (`str`):
            Shown by `--help`.
        function (`Callable`):
            Takes the words.
        argv (`list[str]`, *optional*):
            Flags and values; the process's own by default.

    Returns:
        `int`: exit code, as [`~cli._run.run_verb`] gives it.
    """
    argv = sys.argv[1:] if argv is None else argv
    if any(word in ("-h", "--help") for word in argv):
        print_help(verb, arguments_class, config, description)
        return 0

    def run():
        require_extra("train", "trl", "datasets")
        function(argv)

    return report_errors(f"metis-home {verb}", run)


def print_help(verb: str, arguments_class: type, config: str, description: str) -> None:
    """Help in half a second: without importing TRL, whose many hundred flags are in its documentation."""
    lines = [f"usage: metis-home {verb} [--config FILE] [--flag value ...]", "", description.strip(), "", "flags:"]
    flags = [("--config FILE", "YAML file with the names of flags, which win over it")]
    flags.append(("--model_name_or_path NAME", "folder or Hub id of the model (required)"))
    flags += [(f"--{flag.name}", flag.metadata["help"]) for flag in fields(arguments_class)]
    lines += [f"  {flag:<26} {text}" for flag, text in flags]
    lines += [
        "",
        f"Every field of {config}, and so of TRL's and of transformers' TrainingArguments, and of TRL's ModelConfig",
        f"(dtype, attn_implementation, use_peft, lora_r, ...) is a flag too: `metis-home {verb} --help_all`.",
    ]
    print("\n".join(lines))


def parse(verb: str, classes: tuple[type, ...], argv: list[str]):
    """
    Instances of the dataclasses from a YAML file and the command line.

    Raises:
        UsageError: unknown flags or keys, missing ones, values that do not fit.
    """
    from trl import TrlParser

    class Parser(TrlParser):
        def error(self, message: str):
            raise UsageError(message)

    parser = Parser(dataclass_types=classes, prog=f"metis-home {verb}", allow_abbrev=False)
    if "--help_all" in argv:
        parser.print_help()
        sys.exit(0)
    _refuse_repeated(argv, parser._option_string_actions)
    if "--config" in argv:
        position = argv.index("--config") + 1
        if position == len(argv):
            raise UsageError("`--config` is given without a file.")
        config = read_yaml(argv[position])  # for its errors; an `env` section is TRL's
        config.pop("env", None)
        known = {action.dest for action in parser._actions}
        _refuse_unknown([name for name in config if name not in known], sorted(known), f"in {argv[position]}: ", "")
    try:
        *parsed, remaining = parser.parse_args_and_config(argv, return_remaining_strings=True)
    except (ValueError, TypeError) as error:  # the parser's, or of a configuration that checks itself
        raise UsageError(str(error)) from error
    options = sorted(option.lstrip("-") for option in parser._option_string_actions)
    _refuse_unknown([word.lstrip("-") for word in remaining if word.startswith("-")], options, "", "--")
    if remaining:
        raise UsageError(f"{remaining[0]!r} stands alone, but every value follows a flag.")
    required = {"model_name_or_path": parsed[-1].model_name_or_path, "dataset_name": parsed[0].dataset_name}
    if missing := [name for name, value in required.items() if not value]:
        raise UsageError(
            "\n".join(f"`--{name}` is required, on the command line or in the YAML file." for name in missing)
        )
    return parsed


def _refuse_repeated(argv: list[str], actions: dict) -> None:
    """An error for a list that is given twice: the parser takes the last, and drops the words behind the others."""
    given = [actions[flag] for word in argv if (flag := word.split("=")[0]) in actions]
    counts = Counter(action.dest for action in given if action.nargs in ("+", "*"))
    if errors := [
        f"`--{name}` is given {count} times, of which only the last would count. Give all its values behind one."
        for name, count in counts.items()
        if count > 1
    ]:
        raise UsageError("\n".join(errors))


def _refuse_unknown(names: list[str], known: list[str], where: str, dashes: str) -> None:
    errors = []
    for name in names:
        close = get_close_matches(name.split("=")[0], known, n=1)
        hint = f" Did you mean {dashes}{close[0]}?" if close else ""
        errors.append(f"{where}there is no {dashes}{name}.{hint} `--help_all` lists what there is.")
    if errors:
        raise UsageError("\n".join(errors))


def load_data(arguments: RunArguments, config):
    """Training rows, mixed by weight where there are several datasets, and evaluation rows where they are wanted."""
    from datasets import concatenate_datasets

    from ..data.loading import load_rows
    from ..data.mixing import mix_datasets

    names, weights = arguments.dataset_name, arguments.dataset_weights
    if weights is not None and len(weights) != len(names):
        raise ValueError(
            f"`dataset_weights` has {len(weights)} values for {len(names)} datasets in `dataset_name`: give one for "
            "each, or none."
        )

    def read(split: str) -> dict:
        return {name: load_rows(name, split, "dataset_name") for name in names}

    parts = read(arguments.dataset_train_split)
    if weights is None:
        train = concatenate_datasets(list(parts.values()))
    else:
        train = mix_datasets(parts, dict(zip(names, weights, strict=True)), seed=config.seed)
    evaluate = None
    if config.eval_strategy != "no":
        if files := [name for name in names if Path(name).is_file()]:
            raise ValueError(
                f"`dataset_name` has {files[0]!r}, a file without splits, so `eval_strategy` would "
                "evaluate on the training rows. Give a folder with the splits "
                f"{arguments.dataset_train_split!r} and {arguments.dataset_test_split!r}, or set it to no."
            )
        evaluate = concatenate_datasets(list(read(arguments.dataset_test_split).values()))
    return train, evaluate


def model_options(config, model_config) -> dict:
    """What a trainer is given beside its configuration, from TRL's `ModelConfig`."""
    from trl import get_peft_config, get_quantization_config

    config.model_init_kwargs = {
        "revision": model_config.model_revision,
        "attn_implementation": model_config.attn_implementation,
        "dtype": model_config.dtype,
        **(config.model_init_kwargs or {}),
    }
    options = {"peft_config": get_peft_config(model_config)}
    if (quantization := get_quantization_config(model_config)) is not None:
        options["quantization_config"] = quantization
    return options


def meta_model(name: str, config, model_config):
    """The model without its weights, to see what would train, and its configuration."""
    import torch
    from peft import get_peft_model
    from transformers import AutoConfig, AutoModelForImageTextToText
    from trl import get_peft_config

    from .. import modeling

    modeling.MetisHomeConfig  # noqa: B018  registers the classes
    trust = {"trust_remote_code": True} if config.trust_remote_code else {}
    found = AutoConfig.from_pretrained(name, revision=model_config.model_revision, **trust)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(found, **trust)
    if (peft_config := get_peft_config(model_config)) is not None:
        model = get_peft_model(model, peft_config)
    return model


def build_trainer(trainer_class: type, model_config, config, dataset_names: list[str], **more):
    """
    A trainer of the model that the flags name, with the adapters and the quantisation that they ask for. The names of
    the datasets are for its record.

    Raises:
        UsageError: what the libraries refuse, in their words (the traceback: `METIS_HOME_DEBUG=1`).
    """
    try:
        trainer = trainer_class(
            model_config.model_name_or_path, **more, args=config, **model_options(config, model_config)
        )
    except (OSError, ValueError) as error:
        raise UsageError(str(error)) from error
    trainer.dataset_names = tuple(dataset_names)
    return trainer


def train_and_save(trainer, resume: str | bool | None, next_step: str) -> None:
    """Train, save a complete folder, and say what was written where."""
    if resume is not None and str(resume).lower() in ("true", "false"):
        resume = str(resume).lower() == "true"
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model()
    output = Path(trainer.args.output_dir)
    trainer.accelerator.print(
        f"Wrote the model after {trainer.state.global_step} steps to {output}, what it ran with to {output}/run.json. "
        f"Next: {next_step}"
    )
