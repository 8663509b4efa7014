"""The examples that `--help` shows are commands that the verb takes."""

import re
import shlex
from dataclasses import is_dataclass
from importlib import import_module
from pathlib import Path

import pytest

from hf_metis_home.cli import VERBS
from hf_metis_home.cli._arguments import parse_arguments
from hf_metis_home.cli._launch import LAUNCHED


def examples(verb: str, printed: str) -> list[list[str]]:
    """Flags and values of the verb's commands in a text, without what is the shell's."""
    commands = re.findall(rf"^ +metis-home {verb}\b(.*)$", printed.replace("\\\n", " "), re.M)
    return [shlex.split(re.split(" [<>] ", command)[0]) for command in commands]


def module_of(verb: str):
    return import_module("hf_metis_home.cli." + verb.replace("-", "_"))


@pytest.mark.parametrize("verb", VERBS)
def test_examples_of_the_help(verb, capsys, monkeypatch):
    module = module_of(verb)
    try:
        assert module.main(["--help"]) == 0
    except SystemExit as end:
        assert end.code == 0
    printed = capsys.readouterr().out
    assert f"usage: metis-home {verb}" in printed
    commands = examples(verb, printed)
    assert commands
    if hasattr(module, "run_training"):
        for words in commands:
            assert is_dataclass(parse_training(module, monkeypatch, words)[0])
        return
    arguments_class = module.main.__wrapped__.__annotations__["arguments"]
    for words in commands:
        assert is_dataclass(parse_arguments(arguments_class, words, verb, ""))


class Parsed(Exception):
    pass


def parse_training(module, monkeypatch, words: list[str]):
    """What a training verb makes of its flags, in the process that trains."""

    def stop(*given):
        raise Parsed(given)

    monkeypatch.setenv(LAUNCHED, "1")
    monkeypatch.setattr(module, "_" + module.__name__.rpartition(".")[2], stop)
    monkeypatch.chdir(Path(__file__).parents[2])  # for the recipes
    with pytest.raises(Parsed) as caught:
        module.main([*words, "--use_cpu", "--bf16", "false"])
    return caught.value.args[0]


def test_an_unknown_flag_has_the_nearest_named(capsys):
    assert module_of("upcycle").main(["--model_name_or_paht", "x", "--output_dir", "y"]) == 2
    assert "Did you mean --model_name_or_path?" in capsys.readouterr().err
