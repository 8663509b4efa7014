"""
Flags from a dataclass, in the style of transformers' `HfArgumentParser`, without importing transformers for it.

Values come from the dataclass's defaults, then from a YAML file (`--config`), then from the command line; the later one
wins. Fields may be `str`, `int`, `float`, `bool` (`--flag` or `--flag false`), a `Literal` of strings, `list[str]`
(several words), or one of these `| None`: what the verbs need so far.
"""

import argparse
import dataclasses
import types
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin


class UsageError(ValueError):
    """A wrong call: flags or values that the verb does not take."""


def parse_arguments(arguments_class: type, argv: list[str], prog: str, description: str):
    """
    An instance of `arguments_class` from the command line.

    Args:
        arguments_class (`type`):
            A dataclass; the help of a flag stands in `field(metadata={"help": ...})`.
        argv (`list[str]`):
            Flags and values, without program and verb.
        prog, description (`str`):
            For `--help`, which prints and exits. What follows the first paragraph of the description, the examples,
            stands below the flags.

    Returns:
        The instance.

    Raises:
        UsageError: unknown flags or keys, values of the wrong type, missing ones. All of them in one message.
    """
    fields = {field.name: field for field in dataclasses.fields(arguments_class)}
    description, _, examples = description.strip().partition("\n\n")
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=f"examples:\n\n{examples}" if examples else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file with the names of the flags, which win over it")
    for field in fields.values():
        kind, _ = _without_none(field.type)
        shape: dict = {"nargs": "?", "const": True} if kind is bool else {}
        if kind == list[str]:  # a flag that stands twice adds its words
            shape = {"nargs": "+", "action": "extend"}
        parser.add_argument(
            f"--{field.name}", metavar=_metavar(field), help=_help(field), default=argparse.SUPPRESS, **shape
        )
    try:
        namespace, unknown = parser.parse_known_args(argv)
    except argparse.ArgumentError as error:  # a flag without its value
        name = error.argument_name or "the command line"
        remedy = f" Write its value behind it, or see --help for what {name} takes." if error.argument_name else ""
        raise UsageError(f"{name}: {error.message}.{remedy}") from None
    given = vars(namespace)
    config = given.pop("config")

    errors = _unknown_arguments(unknown, fields)
    values = {}
    if config is not None:
        for name, value in read_yaml(config).items():
            if name in fields:
                values[name] = value
            else:
                errors.append(f"in {config}: " + _unknown_name(str(name), list(fields), dashes=""))
    values.update(given)

    arguments = {}
    for name, field in fields.items():
        if name in values:
            try:
                arguments[name] = _convert(field.type, values[name])
            except ValueError as error:
                errors.append(f"`--{name}` is {values[name]!r}, but must be {error}.")
        elif field.default is dataclasses.MISSING:
            errors.append(f"`--{name}` is required: {field.metadata['help']}.")
    if errors:
        raise UsageError("\n".join(errors))
    return arguments_class(**arguments)


def _unknown_arguments(arguments: list[str], fields: dict) -> list[str]:
    errors = []
    for index, argument in enumerate(arguments):
        if argument.startswith("-"):
            errors.append(_unknown_name(argument.lstrip("-").split("=")[0], [*fields, "config"], dashes="--"))
        elif index == 0 or not arguments[index - 1].startswith("-"):  # else it is the value of an unknown flag
            errors.append(f"{argument!r} stands alone, but every value follows a flag.")
    return errors


def _unknown_name(name: str, known: list[str], dashes: str) -> str:
    close = [other for other in known if name and other.startswith(name)] or get_close_matches(name, known, n=1)
    hint = f" Did you mean {dashes}{close[0]}?" if close else ""
    return f"there is no {dashes}{name}; there are {', '.join(dashes + other for other in known)}.{hint}"


def read_yaml(path: str) -> dict:
    import yaml

    if not Path(path).is_file():
        raise UsageError(f"`--config` is {path!r}, which is not a file. Give the path of a YAML file.")
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"`--config` is {path!r}, which is not valid YAML: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"`--config` is {path!r}, which holds a {type(values).__name__}, not `name: value` lines.")
    return values


def _convert(kind: Any, value: object):
    """`value`, a string from the command line or whatever YAML made of it, as `kind`."""
    kind, optional = _without_none(kind)
    if value is None and optional:
        return None
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ValueError("one of " + ", ".join(get_args(kind)))
        return value
    if kind == list[str]:
        if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
            raise ValueError("one or more words")
        return value
    if kind is bool:
        if not isinstance(value, bool) and str(value).lower() not in ("true", "false"):
            raise ValueError("true or false")
        return str(value).lower() == "true"
    expected = {str: "text", int: "a whole number", float: "a number"}[kind]
    if value is None or isinstance(value, (bool, list, dict)):
        raise ValueError(expected)
    try:
        return kind(str(value))  # YAML reads `1e-3` as text, which must work like on the command line
    except ValueError:
        raise ValueError(expected) from None


def _without_none(kind: Any) -> tuple[Any, bool]:
    if get_origin(kind) not in (Union, types.UnionType):
        return kind, False
    return next(part for part in get_args(kind) if part is not types.NoneType), True


def _metavar(field: dataclasses.Field) -> str:
    kind, _ = _without_none(field.type)
    if get_origin(kind) is Literal:
        return "{" + ",".join(get_args(kind)) + "}"
    return "WORD" if kind == list[str] else "true|false" if kind is bool else kind.__name__.upper()


def _help(field: dataclasses.Field) -> str:
    text = field.metadata["help"].replace("%", "%%")
    if field.default is dataclasses.MISSING:
        return f"{text} (required)"
    return text if field.default is None else f"{text} (default: {field.default})"
