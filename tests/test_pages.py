"""Every code block of README and docs is run by a test or says why not, and no command has a flag that is not there."""

import ast
import dataclasses
import importlib
import inspect
import itertools
import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from hf_metis_home.cli import VERBS
from hf_metis_home.cli._arguments import UsageError, make_arguments, parse_arguments, read_arguments

from .pages import ROOT, RUNNABLE, all_blocks, all_pages, split_commands


BLOCKS = [block for page in all_pages() for block in all_blocks(page) if block.language in RUNNABLE]
TESTS = {path: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}


def is_claimed(page: str, language: str) -> bool:
    """
    Whether a test runs a page's blocks of a language: one that asks `pages` for them, or `test_{page}_page.py` with the
    language's fence in it.
    """
    asked = [
        f'blocks("{page}", "{language}")',
        f'all_blocks("{page}")',
        *[f'commands("{page}")'] * (language == "bash"),
    ]
    own = f"test_{Path(page).stem}_page.py"
    return any(
        any(call in text for call in asked) or (path.name == own and re.search(rf"```\(?[\w|]*\b{language}\b", text))
        for path, text in TESTS.items()
    )


@pytest.mark.parametrize("page", all_pages())
def test_every_block_is_run_or_says_why_not(page):
    found = [block for block in BLOCKS if block.page == page and block.reason is None]
    missing = sorted({block.language for block in found if not is_claimed(page, block.language)})
    assert not missing, (
        f"{page} has {missing} blocks that no test runs. Run them in a test that takes them from "
        f'`pages.blocks("{page}", ...)`, or write `<!-- not run: reason -->` before each.'
    )


def test_reasons_are_reasons():
    assert all(len(block.reason.split()) >= 3 for block in BLOCKS if block.reason is not None)
    for page in all_pages():  # a comment that stands before nothing would excuse nothing
        text = (ROOT / page).read_text(encoding="utf-8")
        fences = sum(block.reason is not None for block in all_blocks(page))
        assert len(re.findall(r"^<!-- not run", text, re.M)) == fences, page


COMMANDS = [
    (block.page, words)
    for block in BLOCKS
    if block.language in ("bash", "sh")
    for words in split_commands(block.code)
]  # fmt: skip
TOOLS = {
    "curl",
    "make",
    "git",
    "pip",
    "metis-home",
    "accelerate",
    "torchrun",
    "python",
    "python3.11",
    "uv",
    "vllm",
    "hf",
    "lmms-eval",
}


def verb_and_flags(words: list[str]) -> tuple[str, list[str]] | None:
    """Of a command line the verb of ours and its words, whatever launches it and wherever its output goes."""
    words = list(itertools.takewhile(lambda word: word not in ("<", ">", "|"), words))
    for index, word in enumerate(words):
        if word.split("/")[-1] == "metis-home" and index + 1 < len(words):
            return words[index + 1], words[index + 2 :]
        if word.startswith("hf_metis_home.cli."):
            return word.rsplit(".", 1)[-1].replace("_", "-"), words[index + 1 :]
    return None


def own_dataclasses(module) -> list[type]:
    classes = [thing for _, thing in inspect.getmembers(module, dataclasses.is_dataclass)]
    return [thing for thing in classes if thing.__module__ == module.__name__]


def configurations(verb: str) -> list[type]:
    """What the training verbs take beside their own arguments."""
    from trl import ModelConfig

    from hf_metis_home import MetisHomeGRPOConfig, MetisHomeSFTConfig

    return [{"sft": MetisHomeSFTConfig, "grpo": MetisHomeGRPOConfig}[verb], ModelConfig]


def check_flags(verb: str, words: list[str]) -> None:
    """Parse the words as the verb does, without running it."""
    module = importlib.import_module(f"hf_metis_home.cli.{verb.replace('-', '_')}")
    [arguments] = own_dataclasses(module)
    if verb not in ("sft", "grpo"):
        parse_arguments(arguments, words, f"metis-home {verb}", "")
        return
    classes = [arguments, *configurations(verb)]
    values = read_arguments(classes, [*words, "--use_cpu", "--bf16", "false"], "", "")  # what this machine lacks
    assert all(make_arguments(each, values) for each in classes)


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=[f"{page}-{i}" for i, (page, _) in enumerate(COMMANDS)])
def test_commands_are_taken(page, words, monkeypatch):
    monkeypatch.chdir(ROOT)  # for the files that `--config` names
    while words and re.match(r"^[A-Z_]+=", words[0]):
        words = words[1:]
    assert words[0].split("/")[-1] in TOOLS, f"{page}: {shlex.join(words)}"
    if (found := verb_and_flags(words)) is None:
        return
    verb, given = found
    assert verb in VERBS or verb.startswith("--"), f"{page}: {shlex.join(words)}"
    if verb in VERBS and given != ["--help"]:
        try:
            check_flags(verb, given)
        except UsageError as error:
            raise AssertionError(f"{page}: {shlex.join(words)}: {error}") from None


INLINE = [
    (page, shlex.split(code))
    for page in all_pages()
    for code in re.findall(r"`(metis-home [^`]+)`", (ROOT / page).read_text(encoding="utf-8"))
]


@pytest.mark.parametrize(("page", "words"), INLINE, ids=[f"{page}-{i}" for i, (page, _) in enumerate(INLINE)])
def test_commands_in_a_sentence_name_flags_that_exist(page, words):
    verb = words[1]
    if not re.fullmatch(r"[a-z][a-z-]*", verb):
        return
    assert verb in VERBS, f"{page}: {shlex.join(words)}"
    flags = {word.removeprefix("--").split("=")[0] for word in words[2:] if word.startswith("--")}
    module = importlib.import_module(f"hf_metis_home.cli.{verb.replace('-', '_')}")
    classes = own_dataclasses(module) + (configurations(verb) if verb in ("sft", "grpo") else [])
    known = {field.name for part in classes for field in dataclasses.fields(part)}
    assert flags <= known | {"config", "help", "help_all"}, f"{page}: {shlex.join(words)}"


@pytest.mark.parametrize("page", all_pages())
def test_blocks_are_what_they_say(page):
    for block in all_blocks(page):
        if block.language == "json":
            assert [json.loads(line) for line in block.code.splitlines()]
        elif block.language == "yaml":
            assert isinstance(yaml.safe_load(block.code), dict)
        elif block.language == "python":
            for node in ast.walk(ast.parse(block.code)):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hf_metis_home"):
                    module = importlib.import_module(node.module)
                    assert [name.name for name in node.names if not hasattr(module, name.name)] == [], page
