"""
Flags from dataclasses: argparse reads the words, pydantic converts and checks the values.

A field's value comes from its default, then from a YAML file (`--config`), then from the command line; the last one
wins. The YAML file may also have a section `env` with environment variables.
"""

import argparse
import dataclasses
import os
import re
import shlex
import types
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Interval


PositiveInt = Annotated[int, Gt(0)]
PositiveFloat = Annotated[float, Gt(0)]
NonNegativeFloat = Annotated[float, Ge(0)]
Probability = Annotated[float, Interval(ge=0, le=1)]


class UsageError(ValueError):
    """A wrong call: flags or values that the command does not accept."""


def flag(help: str, default: Any = dataclasses.MISSING) -> Any:
    """A dataclass field that is a flag, with its text in `--help`. Without a default it is required."""
    return dataclasses.field(default=default, metadata={"help": help})


def parse_arguments(arguments_class: type, argv: list[str], prog: str, description: str):
    """
    An instance of `arguments_class` from the command line, as [`read_arguments`] reads it.

    Example:

    ```python
    >>> from hf_metis_home.cli._arguments import parse_arguments
    >>> from hf_metis_home.cli.report import ReportArguments

    >>> parse_arguments(ReportArguments, ["--outcomes", "runs/outcomes"], "metis-home report", "").outcomes
    'runs/outcomes'
    ```
    """
    return make_arguments(arguments_class, read_arguments([arguments_class], argv, prog, description))


def make_arguments(arguments_class: type, values: dict[str, Any]):
    """An instance of `arguments_class` from those of `values` that are fields of it."""
    return arguments_class(
        **{field.name: values[field.name] for field in dataclasses.fields(arguments_class) if field.name in values}
    )


def read_arguments(classes: Sequence[type], argv: list[str], prog: str, description: str) -> dict[str, Any]:
    """
    The values that the command line and its YAML file give for the fields of some dataclasses.

    Args:
        classes (`Sequence[type]`):
            Dataclasses. A field that several of them have is one flag, with the help and the type of the first.
        argv (`list[str]`):
            Flags and values, without program and verb.
        prog, description (`str`):
            For `--help`, which prints and exits. The first paragraph of the description goes above the flags, the
            rest below them as examples.

    Returns:
        `dict[str, Any]`: name to converted value. Fields that were not given are absent.

    Raises:
        UsageError: unknown flags or keys, values that do not fit, missing ones. All of them in one message.
    """
    fields, types_of = {}, {}
    for each in classes:
        hints = get_type_hints(each, include_extras=True)
        for field in dataclasses.fields(each):
            if field.init and field.name not in fields:
                fields[field.name], kind = field, hints[field.name]
                if choices := field.metadata.get("choices"):  # as transformers' `HfArgumentParser` reads it
                    allowed: Any = Literal[tuple(filter(None, choices))]
                    kind = allowed | None if types.NoneType in get_args(kind) else allowed
                types_of[field.name] = kind

    # The words, as text; `--learning-rate` is `--learning_rate`. `SUPPRESS` leaves out what was not given.
    argv = [re.sub("^--[^=]+", lambda flag: "--" + flag[0][2:].replace("-", "_"), word) for word in argv]
    parser = _parser(fields, types_of, prog, description)
    try:
        namespace, unknown = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise UsageError(f"`{error.argument_name}`: {error.message}. See {prog} --help.") from None
    given, errors = vars(namespace), []
    for before, word in zip(["", *unknown], unknown, strict=False):
        if word.startswith("-"):
            name = word.split("=")[0]
            hint = _hint(name.lstrip("-"), [*fields, "config"], "--") or f" See {prog} --help."
            errors.append(f"unknown flag {name}.{hint}")
        elif not before.startswith("-") or "=" in before:  # otherwise it is the value of an unknown flag
            errors.append(f"unexpected positional argument {word!r}. Every value follows a --flag.")

    # The YAML file, which they override.
    values: dict[str, Any] = {}
    path = given.pop("config")
    for name, value in (read_yaml(path) if path is not None else {}).items():
        if name in fields:
            values[name] = value
        elif name == "env" and not isinstance(value, dict):
            errors.append(f"{path}: `env` is {value!r}, but must be `NAME: value` lines.")
        elif name == "env":
            os.environ.update({variable: str(text) for variable, text in value.items()})
        else:
            errors.append(f"{path}: unknown key {name!r}.{_hint(str(name), list(fields))}")
    values |= given

    # The values, as the types of their fields.
    for name, field in fields.items():
        if name in values:
            try:
                values[name] = converted(values[name], types_of[name])
            except ValueError as error:
                errors.append(f"`--{name}` is {values[name]!r}, but {error}.")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            errors.append(f"`--{name}` is required: {field.metadata['help']}.")
    if errors:
        raise UsageError("\n".join(errors))
    return values


def read_yaml(path: str, argument: str = "config") -> dict:
    """The values in a YAML file, which `argument` names."""
    import yaml

    if not Path(path).is_file():
        raise UsageError(f"`--{argument}` is {path!r}, which is not a file. Give the path of a YAML file.")
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"`--{argument}` is {path!r}, which cannot be read as YAML: {error}") from None
    if not isinstance(values, dict | None):
        raise UsageError(f"`--{argument}` is {path!r}, which holds a {type(values).__name__}, not `name: value` lines.")
    return values or {}


def command_line(verb: str, arguments) -> str:
    """The shortest command with these arguments, for records and cards."""
    words = ["metis-home", verb]
    for field in dataclasses.fields(arguments):
        value = getattr(arguments, field.name)
        if value != field.default:
            words += [f"--{field.name}", *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(words)


def _parser(fields: dict, types_of: dict, prog: str, description: str) -> argparse.ArgumentParser:
    description, _, examples = description.strip().partition("\n\n")
    parser = argparse.ArgumentParser(
        prog=prog,
        usage=f"{prog} [--config FILE] [--flag value ...]",
        description=description,
        epilog=examples and f"examples:\n\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file with values for flags; the command line wins")
    for name, field in fields.items():
        alternatives = _alternatives(types_of[name])
        first = alternatives[0]
        shape: dict[str, Any] = {"metavar": getattr(first, "__name__", "value").upper()}
        if get_origin(first) is Literal:
            shape = {"metavar": "{" + ",".join(map(str, get_args(first))) + "}"}
        elif get_origin(first) is list and str not in alternatives:  # a flag that is given twice adds its values
            shape = {"metavar": "VALUE", "nargs": "+", "action": "extend"}
        elif bool in alternatives and str not in alternatives:
            shape = {"metavar": "true|false", "nargs": "?", "const": True}
        parser.add_argument(f"--{name}", help=_help(field), default=argparse.SUPPRESS, **shape)
    return parser


def _help(field: dataclasses.Field) -> str:
    text = field.metadata.get("help", "").replace("%", "%%")
    if field.default is dataclasses.MISSING:
        return f"{text} (required)" if field.default_factory is dataclasses.MISSING else text
    return text if field.default is None or field.default is False else f"{text} (default: {field.default})"


def _alternatives(kind: Any) -> list:
    """What a field may hold, without None and conditions: `[int]` for `Annotated[int, Gt(0)] | None`."""
    members = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    plain = [get_args(member)[0] if get_origin(member) is Annotated else member for member in members]
    return [member for member in plain if member is not types.NoneType]


def converted(value: Any, kind: Any):
    """`value`, text from the command line or a value from YAML, as `kind`."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError  # not needed for `--help`

    alternatives = _alternatives(kind)
    if str not in alternatives:
        if str(value).lower() in ("none", "null") and types.NoneType in get_args(kind):
            return None
        if get_origin(alternatives[0]) is list and isinstance(value, str):
            value = [value]
        # Pydantic reads true and 1.0 as the integer 1.
        if isinstance(value, bool) and bool not in alternatives:
            value = str(value)
        if alternatives == [int] and "." in str(value):
            raise ValueError("must be a valid integer")
    elif bool in alternatives and str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    # A number in YAML may be meant as text. TRL's fields may have classes that pydantic does not know.
    config = ConfigDict(coerce_numbers_to_str=True, arbitrary_types_allowed=True)
    try:
        return TypeAdapter(kind, config=config).validate_python(value)
    except ValidationError as error:
        message = error.errors()[0]["msg"].partition(", unable")[0].replace("a valid boolean", "true or false")
        raise ValueError(message.replace("Input should be", "must be")) from None


def _hint(name: str, known: list[str], dashes: str = "") -> str:
    close = [other for other in known if name and other.startswith(name)] or get_close_matches(name, known, n=1)
    return f" Did you mean {dashes}{close[0]}?" if close else ""
