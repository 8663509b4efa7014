"""Flags from dataclasses: order of sources, types, and errors that name everything wrong at once."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from hf_metis_home.cli._arguments import UsageError, parse_arguments


@dataclass
class Arguments:
    output_dir: str = field(metadata={"help": "folder to write"})
    seed: int = field(default=0, metadata={"help": "seed"})
    rate: float = field(default=0.1, metadata={"help": "rate, in % of something"})
    depth: int | None = field(default=None, metadata={"help": "depth"})
    mode: Literal["fast", "slow"] | None = field(default=None, metadata={"help": "mode"})


def parse(*argv: str) -> Arguments:
    return parse_arguments(Arguments, list(argv), "metis-home test", "A test.")


@pytest.fixture
def config(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return str(path)

    return write


def test_defaults():
    assert parse("--output_dir", "x") == Arguments("x", 0, 0.1, None, None)


def test_types():
    found = parse("--output_dir=1", "--seed", "-3", "--rate", "1e-3", "--depth", "2", "--mode", "slow")
    assert found == Arguments("1", -3, 0.001, 2, "slow")


def test_command_line_wins_over_yaml_over_default(config):
    path = config("output_dir: here\nseed: 1\nrate: 1e-3\ndepth: null\n")
    assert parse("--config", path, "--seed", "2") == Arguments("here", 2, 0.001, None, None)


@dataclass
class Switches:
    quick: bool = field(default=False, metadata={"help": "quick"})
    check: bool = field(default=True, metadata={"help": "check"})
    parts: list[str] | None = field(default=None, metadata={"help": "parts"})


def switches(*argv: str) -> Switches:
    return parse_arguments(Switches, list(argv), "metis-home test", "A test.")


def test_switches_and_lists(config):
    assert switches() == Switches(False, True, None)
    assert switches("--quick", "--check", "false", "--parts", "a", "b") == Switches(True, False, ["a", "b"])
    assert switches("--parts", "a", "--quick") == Switches(True, True, ["a"])
    assert switches("--parts", "a", "--quick", "--parts", "b", "c") == Switches(True, True, ["a", "b", "c"])
    assert switches("--config", config("parts: [z]\n"), "--parts", "a") == Switches(False, True, ["a"])
    assert switches("--config", config("quick: true\nparts: [a, b]\n")) == Switches(True, True, ["a", "b"])


@pytest.mark.parametrize(
    "text, reason",
    [
        ("quick: 1", "`--quick` is 1, but must be true or false"),
        ("parts: a", "`--parts` is 'a', but must be one or more"),
    ],
)
def test_switches_and_lists_are_not_guessed(config, text, reason):
    with pytest.raises(UsageError, match=reason):
        switches("--config", config(text))
    with pytest.raises(UsageError, match="`--check` is 'maybe', but must be true or false"):
        switches("--check", "maybe")


def test_all_errors_at_once(config):
    path = config("sed: 1\nseed: [1]\n")
    with pytest.raises(UsageError) as caught:
        parse("--config", path, "--dept", "3", "--mode", "quick", "--rate", "x")
    message = str(caught.value)
    assert "there is no --dept; there are --output_dir, --seed, --rate, --depth, --mode, --config." in message
    assert "Did you mean --depth?" in message
    assert f"in {path}: there is no sed; there are output_dir, seed" in message and "Did you mean seed?" in message
    assert "`--seed` is [1], but must be a whole number." in message
    assert "`--mode` is 'quick', but must be one of fast, slow." in message
    assert "`--rate` is 'x', but must be a number." in message
    assert "`--output_dir` is required: folder to write." in message
    assert len(message.splitlines()) == 6


@pytest.mark.parametrize("value", ["1.5", "true", "null", "x"])
def test_whole_numbers_are_not_guessed(config, value):
    with pytest.raises(UsageError, match="`--seed` is .*, but must be a whole number"):
        parse("--output_dir", "x", "--config", config(f"seed: {value}"))


@pytest.mark.parametrize("value", ["true", "null", "[a]", "{a: b}"])
def test_text_is_not_guessed(config, value):
    with pytest.raises(UsageError, match="`--output_dir` is .*, but must be text"):
        parse("--config", config(f"output_dir: {value}"))


def test_abbreviations_are_refused():
    with pytest.raises(UsageError, match="there is no --out;.* Did you mean --output_dir?"):
        parse("--out", "x", "--output_dir", "y")


def test_a_value_without_flag():
    with pytest.raises(UsageError, match="'y' stands alone"):
        parse("--output_dir", "x", "y")


def test_a_flag_without_value():
    with pytest.raises(UsageError, match="--seed: expected one argument. Write its value behind it"):
        parse("--output_dir", "x", "--seed")


@pytest.mark.parametrize("text, reason", [("- 1", "holds a list"), ("a: [", "not valid YAML")])
def test_broken_yaml(config, text, reason):
    with pytest.raises(UsageError, match=f"`--config` is .*{reason}"):
        parse("--output_dir", "x", "--config", config(text))


def test_missing_yaml(tmp_path):
    with pytest.raises(UsageError, match="not a file"):
        parse("--output_dir", "x", "--config", str(tmp_path / "absent.yaml"))


def test_empty_yaml(config):
    assert parse("--output_dir", "x", "--config", config("")).output_dir == "x"


def test_help_shows_defaults_and_choices(capsys):
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert caught.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "--mode {fast,slow}" in printed
    assert "folder to write (required)" in printed
    assert "rate, in % of something (default: 0.1)" in printed
