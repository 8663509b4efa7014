"""The loop of `metis-home chat`: questions and commands."""

import glob
import json
import os
import warnings
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path

from .._folders import write_whole
from ._arguments import Probability, converted
from ._terminal import AnswerView, Screen, visible


COMMANDS = {
    "/auto": ("", "let the router decide"),
    "/think": ("", "force the thinking branch"),
    "/direct": ("", "force the non-thinking branch"),
    "/threshold": ("X", "think if the router's probability is at least X, between 0 and 1"),
    "/image": ("PATH", "add an image to the next question; repeat for more"),
    "/save": ("FILE", "save the conversation as .json or .md"),
    "/fold": ("", "hide thoughts"),
    "/unfold": ("", "show thoughts, including the last one"),
    "/clear": ("", "start a new conversation"),
    "/help": ("", "list these commands"),
    "/quit": ("", "leave (or Ctrl-D); Ctrl-C only stops an answer"),
}
MODES = {"/auto": None, "/think": True, "/direct": False}


class Commands:
    """
    A running chat.

    Args:
        conversation ([`Conversation`]):
            The conversation.
        screen ([`Screen`]):
            Where it is shown.
        model_name (`str`):
            For saved conversations.
        images (`list[tuple[str, PIL.Image.Image]]`):
            Images for the first question, with their paths.
        folded (`bool`):
            Whether thoughts are hidden.
    """

    def __init__(self, conversation, screen: Screen, model_name: str, images: list[tuple], folded: bool):
        self.conversation, self.screen, self.model_name = conversation, screen, model_name
        self.images, self.folded = images, folded
        self.saved: set[Path] = set()  # files that this chat may overwrite

    def run(self) -> None:
        """Run until /quit or the end of the input. At a terminal, Ctrl-C only stops an answer."""
        if self.screen.interactive:
            _set_up_line_editing()
            self.screen.note(f"{self.model_name}: {self._who_decides()}. /help lists the commands.")
        while True:
            try:
                line = input("> " if self.screen.interactive else "").strip()
                if line == "/quit":
                    return
                if line.startswith("/"):
                    self._command(line)
                elif line:
                    self._ask(line)
            except EOFError:
                return
            except (ValueError, OSError, RuntimeError) as error:  # RuntimeError: out of memory
                if isinstance(error, BrokenPipeError) or os.environ.get("METIS_HOME_DEBUG") == "1":
                    raise
                self.screen.error(str(error))
            except KeyboardInterrupt:
                if not self.screen.interactive:
                    raise
                self.screen.note("\nstopped; /quit or Ctrl-D leaves the chat")

    def _ask(self, question: str) -> None:
        view = AnswerView(self.screen, self.folded)
        try:
            turn = self.conversation.ask(
                question,
                self.images,
                on_decision=lambda turn: self.screen.note(f"{turn.branch}: {turn.why}"),
                on_text=view.show,
            )
        finally:
            view.end()
        self.images = []
        ended = f", {turn.ended}" if turn.ended else ""
        self.screen.note(f"{turn.tokens} {'token' if turn.tokens == 1 else 'tokens'} in {turn.seconds:.1f} s{ended}")

    def _command(self, line: str) -> None:
        name, _, argument = line.partition(" ")
        argument = argument.strip()
        if name not in COMMANDS:
            close = get_close_matches(name, COMMANDS, n=1)
            hint = f"Did you mean {close[0]}?" if close else "/help lists all commands."
            raise ValueError(f"unknown command {name}. {hint}")
        needed, _ = COMMANDS[name]
        if bool(needed) != bool(argument):
            raise ValueError(f"{name} needs {needed}: {name} {needed}" if needed else f"{name} takes no argument.")
        if name in (*MODES, "/threshold") and not self.conversation.two_branch:
            raise ValueError("this is a dense model, which has one branch and no router.")
        if name in MODES:
            self.conversation.thinking = MODES[name]
            self.screen.note(self._who_decides())
        else:
            getattr(self, "_" + name.removeprefix("/"))(*([argument] if needed else []))

    def _threshold(self, text: str) -> None:
        try:
            value = self.conversation.thinking_threshold = converted(text, Probability)
        except ValueError as error:
            raise ValueError(f"the threshold is {text!r}, but {error}.") from None
        self.screen.note(f"threshold {value:g}; {self._who_decides()}")

    def _image(self, text: str) -> None:
        path = text.strip("'\"")
        self.images = [*self.images, (path, open_image(path))]
        width, height = self.images[-1][1].size
        self.screen.note(f"{path}, {width} x {height} pixels, added to the next question")

    def _save(self, text: str) -> None:
        path = Path(text.strip("'\"")).expanduser()
        if path.suffix not in (".json", ".md"):
            raise ValueError(f"{str(path)!r} ends neither in .json nor in .md. Choose one of the two.")
        if not self.conversation.turns:
            raise ValueError("there is nothing to save yet.")
        if path.exists() and path.resolve() not in self.saved:
            raise ValueError(f"{str(path)!r} already exists and is not from this chat. Choose another name.")
        write_conversation(self.conversation, self.model_name, path)
        self.saved.add(path.resolve())
        self.screen.note(f"saved the conversation to {path}")

    def _fold(self) -> None:
        self.folded = True
        self.screen.note("thoughts are hidden")

    def _unfold(self) -> None:
        self.folded = False
        self.screen.note("thoughts are shown")
        view = AnswerView(self.screen, folded=False)
        for turn in self.conversation.turns[-1:]:
            view.show(turn.thought, "")
        view.end()

    def _clear(self) -> None:
        self.conversation.turns, self.images = [], []
        self.screen.note("new conversation, same settings")

    def _help(self) -> None:
        for name, (argument, text) in COMMANDS.items():
            self.screen.note(f"{name + ' ' + argument:<13} {text}")

    def _who_decides(self) -> str:
        if not self.conversation.two_branch:
            return "dense model, no router"
        if self.conversation.thinking is None:
            return f"the router decides, with threshold {self.conversation.threshold:g}"
        return f"the {'thinking' if self.conversation.thinking else 'non-thinking'} branch always answers"


def open_image(path: str):
    """
    Read an image file.

    Raises:
        ValueError: there is no such file, or it cannot be decoded.
    """
    from PIL import Image, ImageOps

    file = Path(path).expanduser()
    if not file.is_file():
        raise ValueError(f"{path!r} is not a file. Give the path of an image.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                return ImageOps.exif_transpose(image).convert("RGB")
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ValueError(f"{path!r} has more than {Image.MAX_IMAGE_PIXELS:,} pixels. Resize it.") from None
    except Exception as error:  # noqa: BLE001  Pillow's decoders raise all kinds
        raise ValueError(
            f"{path!r} cannot be read as an image ({type(error).__name__}). Give a PNG, JPEG or WebP file."
        ) from error


def write_conversation(conversation, model_name: str, path: Path) -> None:
    """Write a conversation as JSON or Markdown, completely or not at all."""
    saved = {
        "model_name_or_path": model_name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "system_prompt": conversation.system_prompt,
        "turns": [{**vars(turn), "images": [path for path, _ in turn.images]} for turn in conversation.turns],
    }
    markdown = path.suffix == ".md"
    text = _markdown(saved, conversation.turns) if markdown else json.dumps(saved, indent=2, ensure_ascii=False)
    try:
        write_whole(path, visible(text) + "\n")
    except OSError as error:
        raise ValueError(f"{str(path)!r} cannot be written ({error.strerror}). Choose another place.") from error


def _markdown(saved: dict, turns: list) -> str:
    """Texts are fenced, so that viewers show them unchanged, whatever the model wrote."""
    lines = [f"# A conversation with {saved['model_name_or_path']}", "", f"Saved on {saved['date']}.", ""]
    if saved["system_prompt"]:
        lines += ["System prompt:", "", *_fenced(saved["system_prompt"])]
    for number, turn in enumerate(turns, 1):
        lines += [f"## {number}", ""]
        if turn.images:
            lines += [*(f"- image: {path}" for path, _ in turn.images), ""]
        lines += _fenced(turn.question)
        if turn.thought:
            lines += ["Thought:", "", *_fenced(turn.thought)]
        ended = f"; {turn.ended}" if turn.ended else ""
        lines += [f"Answer of the {turn.branch} ({turn.why}; {turn.tokens} tokens{ended}):", "", *_fenced(turn.answer)]
    return "\n".join(lines[:-1])


def _fenced(text: str) -> list[str]:
    fence = "```"
    while fence in text:
        fence += "`"
    return [f"{fence}text", text, fence, ""]


def _set_up_line_editing() -> None:
    """History, cursor keys, and Tab for commands and paths, if Python has readline."""
    try:
        import readline
    except ImportError:
        return
    readline.set_completer_delims(" ")
    readline.set_completer(lambda text, state: (_completions(readline.get_line_buffer(), text) + [None])[state])
    libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")


def _completions(line: str, word: str) -> list[str]:
    """Completions of `word`, the last one of `line`."""
    if line.startswith(("/image ", "/save ")):
        paths = sorted(glob.glob(glob.escape(os.path.expanduser(word)) + "*"))
        return [path + os.sep if os.path.isdir(path) else path for path in paths]
    return [name for name in COMMANDS if name.startswith(word)] if line.startswith("/") else []
