"""`metis-home chat` at a real terminal, and as the command that it is."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time

import pytest

from hf_metis_home.cli import _models, chat
from hf_metis_home.conversion import save_hub_folder

from .chat_common import hybrid, script


class Terminal:
    """A chat in a child of this process, which has the model already, with a pseudo-terminal for its user."""

    def __init__(self, *argv: str):
        self.process, self.terminal = pty.fork()
        if self.process == 0:
            try:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                os.environ["TERM"] = "xterm"
                sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")
                code = chat.main(["--model_name_or_path", "my-model", *argv])
                sys.stdout.flush()
            except BaseException:  # noqa: BLE001  the parent reads it
                import traceback

                traceback.print_exc()
                sys.stderr.flush()
                code = 99
            finally:
                os._exit(code)
        self.seen = ""

    def until(self, text: str, seconds: float = 20) -> str:
        """What is shown up to and with `text`."""
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            ready, _, _ = select.select([self.terminal], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"no {text!r} in {self.seen!r}"
            try:
                self.seen += os.read(self.terminal, 65536).decode("utf-8", "replace")
            except OSError:
                raise AssertionError(f"the chat ended without {text!r}: {self.seen!r}") from None
        before, _, self.seen = self.seen.partition(text)
        return before + text

    def waits_for_keys(self, seconds: float = 20) -> None:
        """Until the chat itself shows what is typed: before, the terminal does, and nobody is there for Ctrl-C."""
        deadline = time.monotonic() + seconds
        while termios.tcgetattr(self.terminal)[3] & termios.ICANON:
            assert time.monotonic() < deadline, "the chat does not wait for keys"
            time.sleep(0.01)

    def type(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def close(self) -> int:
        """The exit code; a chat that goes on is ended by force."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            process, status = os.waitpid(self.process, os.WNOHANG)
            if process:
                os.close(self.terminal)
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.05)
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        raise AssertionError(f"the chat did not end: {self.seen!r}")


@pytest.fixture
def terminal(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NO_COLOR", raising=False)

    def start(*answers: str, argv: tuple[str, ...] = (), seconds: float = 0.0) -> Terminal:
        found = script(monkeypatch, *answers, seconds=seconds)
        monkeypatch.setattr(_models, "load_model", lambda *names, **options: found)
        return Terminal(*argv)

    return start


def test_a_talk(terminal, tmp_path):
    here = terminal("<think>7 - 3 = 4</think><answer>it is 4 \x1b[2J</answer>", "no", argv=("--mode", "think"))
    assert "the thinking branch always answers. /help" in here.until("> ")
    here.type("/thr\t 0.25\n")  # Tab completes
    assert "threshold 0.25" in here.until("always answers")
    here.type("7 - 4\x7f3?\n")  # the backspace key
    shown = here.until(" s\x1b[0m")
    assert "forced by /think" in shown and "\x1b[2m│ \x1b[0m" in shown  # a thought is dimmed
    assert re.sub("\x1b\\[2m|\x1b\\[0m", "", shown).count("│ 7 - 3 = 4\r\nit is 4 \\u001b[2J\r\n") == 1
    here.type("/fold\n/unfold\n/save talk.md\n")
    here.until("thoughts are hidden")
    assert "7 - 3 = 4" in here.until("saved the conversation to talk.md")
    here.until("> ")  # keys are read again
    here.type("\x04")  # Ctrl-D
    assert here.close() == 0
    assert "```text\n7 - 3?\n```" in (tmp_path / "talk.md").read_text("utf-8")


def test_ctrl_c_stops_the_answer_and_not_the_chat(terminal):
    here = terminal("one two three " * 30, "no", seconds=0.05)
    here.until("> ")
    here.type("count\n")
    here.until("one two three")
    here.type("\x03")
    assert re.search(r"\d+ tokens in [\d.]+ s, stopped", here.until("stopped"))
    here.until("> ")
    here.waits_for_keys()
    here.type("half a line")
    here.until("half a line")
    here.type("\x03")
    here.until("/quit or Ctrl-D leaves the chat")
    here.type("and?\n")
    here.until("no")
    here.until("> ")
    here.type("/quit\n")
    assert here.close() == 0


def test_no_color(terminal, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    here = terminal("<think>so</think><answer>no</answer>")
    here.until("> ")
    here.type("why?\n")
    shown = here.until(" s\r\n")
    assert "\x1b[2m" not in shown and "│ so\r\nno\r\n" in shown
    here.type("/quit\n")
    assert here.close() == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--thinking_threshold", "2"], "`--thinking_threshold` is '2', but must be less than or equal to 1"),
        (["--max_new_tokens", "0"], "`--max_new_tokens` is '0', but must be greater than 0"),
        (["--temperature", "-1"], "`--temperature` is '-1', but must be greater than or equal to 0"),
        (["--images", "nowhere.png"], "'nowhere.png' is not a file"),
        (["--mode", "guess"], "`--mode` is 'guess', but must be 'auto', 'think' or 'direct'"),
        (["--treshold", "1"], "unknown flag --treshold"),
    ],
)
def test_wrong_calls_end_before_the_model_is_loaded(monkeypatch, capsys, flags, message):
    monkeypatch.setattr(_models, "load_model", lambda *names, **options: pytest.fail("loaded"))
    assert chat.main(["--model_name_or_path", "my-model", *flags]) == 2
    assert message in capsys.readouterr().err


def test_a_dense_model_has_no_branch_to_choose(monkeypatch, capsys):
    from ..fixtures_text import tiny_word_level

    monkeypatch.setattr(_models, "load_model", lambda *names, **options: tiny_word_level())
    assert chat.main(["--model_name_or_path", "dense", "--mode", "think"]) == 2
    assert "'dense' is a dense model, which has one branch and no router. Remove --mode." in capsys.readouterr().err


@pytest.mark.slow
def test_in_a_pipe(tmp_path):
    save_hub_folder(*hybrid(), tmp_path / "hybrid")
    command = [
        sys.executable,
        "-m",
        "hf_metis_home.cli",
        "chat",
        "--model_name_or_path",
        "hybrid",
        "--max_new_tokens",
        "4",
    ]
    done = subprocess.run(command, input=b"why?\n/imagine\nand \xff?\n", cwd=tmp_path, capture_output=True, timeout=120)
    assert done.returncode == 0 and b"\x1b" not in done.stdout + done.stderr
    assert done.stderr.count(b"router probability") == 2 and b"Did you mean /image?" in done.stderr
    assert done.stdout
