"""Flags from dataclasses: order of sources, types, and errors that name everything wrong at once."""

import os
from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest
from pydantic import Field

from hf_metis_home.cli._arguments import UsageError, command_line, make_arguments, parse_arguments, read_arguments


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
    assert parse("--output-dir=a-b") == parse("--output-dir", "a-b") == Arguments("a-b", 0, 0.1, None, None)


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
    assert switches("--config", config("quick: true\nparts: a\n")) == Switches(True, True, ["a"])


@pytest.mark.parametrize(
    "text, reason",
    [
        ("quick: 2", "`--quick` is 2, but must be true or false"),
        ("parts: {a: b}", "`--parts` is {'a': 'b'}, but must be a valid list"),
    ],
)
def test_switches_and_lists_are_not_guessed(config, text, reason):
    with pytest.raises(UsageError, match=reason):
        switches("--config", config(text))
    with pytest.raises(UsageError, match="`--check` is 'maybe', but must be true or false\\.$"):
        switches("--check", "maybe")


def test_all_errors_at_once(config):
    path = config("sed: 1\nseed: [1]\n")
    with pytest.raises(UsageError) as caught:
        parse("--config", path, "--dept", "3", "--mode", "quick", "--rate", "x")
    message = str(caught.value)
    assert "unknown flag --dept. Did you mean --depth?" in message
    assert f"{path}: unknown key 'sed'. Did you mean seed?" in message
    assert "`--seed` is [1], but must be a valid integer." in message
    assert "`--mode` is 'quick', but must be 'fast' or 'slow'." in message
    assert "`--rate` is 'x', but must be a valid number" in message
    assert "`--output_dir` is required: folder to write." in message
    assert len(message.splitlines()) == 6


@pytest.mark.parametrize("value", ["1.5", "1.0", "'1.0'", "true", "null", "x"])
def test_whole_numbers_are_not_guessed(config, value):
    with pytest.raises(UsageError, match="`--seed` is .*, but must be a valid integer\\.$"):
        parse("--output_dir", "x", "--config", config(f"seed: {value}"))


@pytest.mark.parametrize("value", ["1.0", "1e3", "true", "none", ""])
def test_whole_numbers_on_the_command_line(value):
    with pytest.raises(UsageError, match=f"`--seed` is '{value}', but must be a valid integer\\.$"):
        parse("--output_dir", "x", "--seed", value)


@pytest.mark.parametrize("word", ["none", "None", "null"])
def test_none_on_the_command_line(word):
    assert parse("--output_dir", word, "--depth", word) == Arguments(word, depth=None)


@pytest.mark.parametrize("value", ["true", "null", "[a]", "{a: b}"])
def test_text_is_not_guessed(config, value):
    with pytest.raises(UsageError, match="`--output_dir` is .*, but must be a valid string"):
        parse("--config", config(f"output_dir: {value}"))


def test_abbreviations_are_refused():
    with pytest.raises(UsageError, match="unknown flag --out. Did you mean --output_dir?"):
        parse("--out", "x", "--output_dir", "y")


def test_a_value_without_flag():
    with pytest.raises(UsageError, match="unexpected positional argument 'y'"):
        parse("--output_dir", "x", "y")


def test_a_flag_without_value():
    with pytest.raises(UsageError, match="`--seed`: expected one argument. See metis-home test --help"):
        parse("--output_dir", "x", "--seed")


@pytest.mark.parametrize("text, reason", [("- 1", "holds a list"), ("a: [", "cannot be read as YAML")])
def test_broken_yaml(config, text, reason):
    with pytest.raises(UsageError, match=f"`--config` is .*{reason}"):
        parse("--output_dir", "x", "--config", config(text))


def test_missing_yaml(tmp_path):
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(UsageError, match="`--config` is .*, which is not a file. Give the path of a YAML file."):
            parse("--output_dir", "x", "--config", str(path))


def test_empty_yaml(config):
    assert parse("--output_dir", "x", "--config", config("")).output_dir == "x"


def test_values_of_unknown_flags_are_not_reported_again():
    with pytest.raises(UsageError) as caught:
        parse("--output_dir", "x", "--xyz", "1", "--abc=2", "y")
    assert str(caught.value).splitlines() == [
        "unknown flag --xyz. See metis-home test --help.",
        "unknown flag --abc. See metis-home test --help.",
        "unexpected positional argument 'y'. Every value follows a --flag.",
    ]


def test_an_unknown_flag_far_from_all_others():
    with pytest.raises(UsageError, match="unknown flag --xyz. See metis-home test --help"):
        parse("--output_dir", "x", "--xyz", "1")


def test_the_environment_of_a_yaml_file(config, monkeypatch):
    monkeypatch.setenv("METIS_HOME_TEST", "before")
    assert parse("--config", config("output_dir: x\nenv: {METIS_HOME_TEST: 7}\n")).output_dir == "x"
    assert os.environ["METIS_HOME_TEST"] == "7"
    with pytest.raises(UsageError, match="`env` is 7, but must be `NAME: value` lines"):
        parse("--config", config("output_dir: x\nenv: 7\n"))


@dataclass
class More:
    seed: int = field(default=1, metadata={"help": "another seed"})
    limit: Annotated[int, Field(gt=0)] | None = field(default=None, metadata={"help": "limit"})


@dataclass
class Others:
    resume: str | bool | None = field(default=None, metadata={"help": "true or a folder"})
    branch: str | None = field(default=None, metadata={"help": "branch", "choices": [None, "left", "right"]})
    kind: str = field(default="a", metadata={"help": "kind", "choices": ["a", "b"]})


def test_fields_as_trl_writes_them(config):
    def others(*argv: str) -> Others:
        return parse_arguments(Others, list(argv), "metis-home test", "A test.")

    assert others("--resume", "true", "--branch", "left", "--kind", "b") == Others(True, "left", "b")
    assert others("--resume", "runs/5", "--branch", "none") == Others("runs/5", None, "a")
    assert others("--config", config("resume: true\nbranch: null\n")) == Others(True, None, "a")
    with pytest.raises(UsageError) as caught:
        others("--branch", "up", "--kind", "none")
    assert str(caught.value).splitlines() == [
        "`--branch` is 'up', but must be 'left' or 'right'.",
        "`--kind` is 'none', but must be 'a' or 'b'.",
    ]


def test_several_dataclasses_share_a_flag():
    values = read_arguments([Arguments, More], ["--output_dir", "x", "--seed", "3"], "metis-home test", "")
    assert values == {"output_dir": "x", "seed": 3}
    assert make_arguments(Arguments, values) == Arguments("x", 3) and make_arguments(More, values) == More(3, None)
    with pytest.raises(UsageError, match="`--limit` is '0', but must be greater than 0"):
        read_arguments([Arguments, More], ["--output_dir", "x", "--limit", "0"], "metis-home test", "")


def test_the_shortest_command():
    assert command_line("test", Arguments("x y", depth=3)) == "metis-home test --output_dir 'x y' --depth 3"
    assert command_line("test", Switches(parts=["a", "b"])) == "metis-home test --parts a b"


def test_help_shows_defaults_and_choices(capsys):
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert caught.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "--mode {fast,slow}" in printed
    assert "folder to write (required)" in printed
    assert "rate, in % of something (default: 0.1)" in printed
