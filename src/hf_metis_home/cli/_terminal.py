"""
Output of the chat: on a terminal with dimmed thoughts, otherwise plain text.

In a pipe, the model's answers go to standard output and the chat's own lines to standard error.
"""

import io
import os
import re
import sys


DIM, RED, RESET = "\x1b[2m", "\x1b[31m", "\x1b[0m"
BAR = "│ "
# Characters that move the cursor, start an escape sequence or change the direction of text: all control characters but
# tab and line break, and Unicode's direction marks.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """
    `text` with control characters spelled out, so that they cannot control the terminal.

    Example:

    ```python
    >>> from hf_metis_home.cli._terminal import visible

    >>> visible("red: \x1b[31m")
    'red: \\\\u001b[31m'
    ```
    """
    return CONTROL.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


class Screen:
    """
    Where a chat writes.

    Args:
        interactive (`bool`):
            Whether a user is at a terminal: then everything goes there, otherwise notes go to standard error.
        styled (`bool`):
            Whether escape sequences may be written.
    """

    def __init__(self, interactive: bool, styled: bool):
        self.interactive, self.styled = interactive, styled

    @classmethod
    def of_process(cls) -> "Screen":
        """The screen of this process. `NO_COLOR` and `TERM=dumb` turn styles off."""
        for stream in (sys.stdin, sys.stdout, sys.stderr):  # an invalid byte must not end the chat
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")
        interactive = sys.stdin.isatty() and sys.stdout.isatty()
        return cls(interactive, interactive and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb")

    def write(self, text: str, style: str = "") -> None:
        """Text of the model. Its style ends with it, so that Ctrl-C never leaves the style on."""
        text = visible(text)
        print(f"{style}{text}{RESET}" if self.styled and style else text, end="", flush=True)

    def note(self, text: str, style: str = DIM) -> None:
        """A line from the chat itself."""
        text = visible(text)
        out = sys.stdout if self.interactive else sys.stderr
        print(f"{style}{text}{RESET}" if self.styled else text, file=out, flush=True)

    def error(self, text: str) -> None:
        """An error message."""
        self.note(f"error: {text}", RED)


class AnswerView:
    """
    Prints an answer while it grows: the thought with a bar in front of every line, then the answer.

    Args:
        screen ([`Screen`]):
            Where to.
        folded (`bool`):
            Print only a note in place of the thought.
    """

    def __init__(self, screen: Screen, folded: bool):
        self.screen, self.folded = screen, folded
        self.printed = {"thought": "", "answer": ""}
        self.part: str | None = None  # the part that was printed last

    def show(self, thought: str, answer: str) -> None:
        """Print what is new since the last call. Both texts are complete so far."""
        if thought and self.folded:
            if not self.printed["thought"]:
                self.screen.note("thinking; /unfold shows the thought")
            self.printed["thought"] = thought
        elif thought:
            self._grow("thought", thought, BAR, DIM)
        if answer:
            self._grow("answer", answer, "", "")

    def end(self) -> None:
        """Move to the beginning of a line."""
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
