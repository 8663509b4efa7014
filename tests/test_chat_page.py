"""The page about the chat: its commands run, and its tables are the program's."""

import io
import json
import re
import shlex
import sys
from pathlib import Path

from hf_metis_home.cli import main
from hf_metis_home.cli._chat_commands import COMMANDS
from hf_metis_home.conversion import save_hub_folder

from .cli.chat_common import hybrid


PAGE = (Path(__file__).parents[1] / "docs" / "chat.md").read_text()


def type_lines(monkeypatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8"))


def test_commands_of_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_hub_folder(*hybrid(), "runs/demo/hybrid")
    capsys.readouterr()
    talk, pipe = "".join(re.findall(r"^```bash\n(.*?)^```", PAGE, re.M | re.S)).splitlines()
    type_lines(monkeypatch, "why?\nand?\n/save talk.json\n/quit\n")
    assert main([*shlex.split(talk)[1:], "--max_new_tokens", "4"]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("branch: router probability") == 2 and captured.err.count(" tokens in ") == 2
    saved = json.loads(Path("talk.json").read_text("utf-8"))
    [sentence] = re.findall(r"^The JSON file holds .*?(?:\n\n|\Z)", PAGE, re.M | re.S)
    assert set(re.findall(r"`(\w+)`", sentence)) == {*saved, *saved["turns"][0]}

    command, files = pipe.split(" < ")
    questions, answers = files.split(" > ")
    assert (questions, answers) == ("questions.txt", "answers.txt")
    type_lines(monkeypatch, "why?\n/clear\nwhy?\n")
    assert main([*shlex.split(command)[1:], "--max_new_tokens", "4"]) == 0
    half = capsys.readouterr().out
    assert half[: len(half) // 2] == half[len(half) // 2 :] and "│" not in half


def test_tables_of_the_page():
    rows = re.findall(r"^\| (`/.*?) \|", PAGE, re.M)
    named = {word for row in rows[: len(COMMANDS)] for word in re.findall(r"`(/[^`]*)`", row)}
    assert {f"{name} {argument}".strip() for name, (argument, _) in COMMANDS.items()} == named
