"""
What the chat shows: on a terminal with dimmed thoughts, else as plain text.

In a pipe standard output has what the model says, and standard error what the chat says about it.
"""

import io
import os
import re
import sys


DIM, RED, RESET = "\x1b[2m", "\x1b[31m", "\x1b[0m"
BAR = "│ "
# What moves the cursor, starts an escape sequence or turns the direction of text: all control characters but tab and
# line break, and Unicode's marks of direction.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """
    `text` with control characters spelled out, so that no terminal obeys them.

    Example:

    ```python
    >>> from hf_metis_home.cli._terminal import visible

    >>> visible("red: \x1b[31m")
    'red: \\\\u001b[31m'
    ```
    """
    return CONTROL.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


class Screen:
    """
    Where a chat writes.

    Args:
        interactive (`bool`):
            Whether somebody sits at a terminal: then everything goes to it, else notes go to standard error.
        styled (`bool`):
            Whether escape sequences may be written.
    """

    def __init__(self, interactive: bool, styled: bool):
        self.interactive, self.styled = interactive, styled

    @classmethod
    def of_process(cls) -> "Screen":
        """The screen of this process; `NO_COLOR` and `TERM=dumb` turn styles off."""
        for stream in (sys.stdin, sys.stdout, sys.stderr):  # a strange byte or letter must not end the chat
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")
        interactive = sys.stdin.isatty() and sys.stdout.isatty()
        return cls(interactive, interactive and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb")

    def write(self, text: str, style: str = "") -> None:
        """What the model says, as it comes. A style ends where the text ends, so that Ctrl-C never leaves it on."""
        text = visible(text)
        print(f"{style}{text}{RESET}" if self.styled and style else text, end="", flush=True)

    def note(self, text: str, style: str = DIM) -> None:
        """A line of the chat's own."""
        text = visible(text)
        out = sys.stdout if self.interactive else sys.stderr
        print(f"{style}{text}{RESET}" if self.styled else text, file=out, flush=True)

    def error(self, text: str) -> None:
        """Why something was not done."""
        self.note(f"error: {text}", RED)


class AnswerView:
    """
    Prints an answer while it grows: its thought behind a bar, then the answer.

    Args:
        screen ([`Screen`]):
            Where to.
        folded (`bool`):
            Leave the thought out, but for a note that there is one.
    """

    def __init__(self, screen: Screen, folded: bool):
        self.screen, self.folded = screen, folded
        self.printed = {"thought": "", "answer": ""}
        self.part: str | None = None  # whose text stands before the cursor

    def show(self, thought: str, answer: str) -> None:
        """Print what is new. Both texts are whole, and usually begin with what they were before."""
        if thought and self.folded:
            if not self.printed["thought"]:
                self.screen.note("thinks; folded, /unfold shows it")
            self.printed["thought"] = thought
        elif thought:
            self._grow("thought", thought, BAR, DIM)
        if answer:
            self._grow("answer", answer, "", "")

    def end(self) -> None:
        """Leave the cursor at the beginning of a line."""
        if self.part is not None:
            self.screen.write("\n")
        self.part = None

    def _grow(self, part: str, text: str, bar: str, style: str) -> None:
        before = self.printed[part]
        if text == before:
            return
        if self.part != part or not text.startswith(before):  # a second answer replaces the first
            self.end()
            self.screen.write(bar, style)
            before = ""
        self.screen.write(text[len(before) :].replace("\n", "\n" + bar), style)
        self.printed[part], self.part = text, part
