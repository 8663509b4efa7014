"""The chat as its user meets it: lines in, lines out; in a pipe here, at a terminal in `test_chat_terminal.py`."""

import io
import json
import sys

import pytest
from PIL import Image

from hf_metis_home.cli._chat_commands import COMMANDS, MODES, Commands, _completions, open_image
from hf_metis_home.cli._conversation import Conversation
from hf_metis_home.cli._terminal import AnswerView, Screen, visible

from .chat_common import script


THOUGHT = "<think>7 - 3\n= 4</think><answer>it is 4</answer>"


@pytest.fixture
def chat(monkeypatch, capsys, tmp_path):
    """Types lines into a chat that answers with the given texts; standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (56, 28), "red").save("red.png")

    def run(*lines: str, answers: tuple[str, ...] = (), folded: bool = False, **options):
        model, processor = script(monkeypatch, *answers)
        capsys.readouterr()  # what the model's making printed
        monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines) + "\n"))
        run.conversation = Conversation(model, processor, **options)
        Commands(run.conversation, Screen(False, False), "my-model", [], folded).run()
        captured = capsys.readouterr()
        assert "\x1b" not in captured.out + captured.err
        return captured.out, captured.err

    return run


def test_one_question_per_line(chat):
    out, err = chat("7 - 3?", "", "and?", answers=(THOUGHT, "no"), thinking_threshold=0.0)
    assert out == "│ 7 - 3\n│ = 4\nit is 4\nno\n"
    lines = err.splitlines()
    assert [line.split(":")[0] for line in lines[::2]] == ["thinking branch", "thinking branch"]
    assert "router probability 0." in lines[0] and ">= threshold 0.000" in lines[0]
    assert " tokens in " in lines[1]


def test_folded(chat):
    out, err = chat("7 - 3?", "/unfold", "/fold", answers=(THOUGHT,), folded=True)
    assert (
        out == "it is 4\n│ 7 - 3\n│ = 4\n"
        and "thinking; /unfold shows the thought" in err
        and "thoughts are hidden" in err
    )


def test_modes(chat):
    commands = ("/direct", "why?", "/think", "why?", "/auto", "/threshold 1", "why?", "/threshold 0", "why?")
    out, err = chat(*commands, answers=("no",) * 4)
    said = [line for line in err.splitlines() if " branch: " in line]
    assert said[0] == "non-thinking branch: forced by /direct" and said[1] == "thinking branch: forced by /think"
    assert "< threshold 1.000" in said[2] and ">= threshold 0.000" in said[3]
    assert "threshold 1; the router decides, with threshold 1" in err


def test_a_contradiction_does_not_end_the_chat(chat):
    out, err = chat(
        "/direct", "why?", "/auto", "why?", answers=(">why</think><answer>so</answer>",), enable_thinking=True
    )
    assert "error: /direct contradicts the chat template" in err and out.endswith("so\n")


def test_pictures(chat, monkeypatch):
    seen, ask = [], Conversation.ask

    def count(self, text, images, **more):
        seen.append(len(images))
        return ask(self, text, images, **more)

    monkeypatch.setattr(Conversation, "ask", count)
    out, err = chat("/image red.png", "/image 'red.png'", "what?", "and?", answers=("two", "none"))
    assert seen == [2, 0] and "red.png, 56 x 28 pixels, added to the next question" in err and out == "two\nnone\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/imagine", "unknown command /imagine. Did you mean /image?"),
        ("/xyzzy", "unknown command /xyzzy. /help lists all commands."),
        ("/threshold lots", "the threshold is 'lots', but must be a valid number."),
        ("/threshold 2", "the threshold is '2', but must be less than or equal to 1."),
        ("/threshold nan", "the threshold is 'nan', but must be less than or equal to 1."),
        ("/threshold 1.5", "the threshold is '1.5', but must be"),
        ("/threshold nan", "the threshold is 'nan', but must be"),
        ("/threshold", "/threshold needs X: /threshold X"),
        ("/think hard", "/think takes no argument."),
        ("/image", "/image needs PATH: /image PATH"),
        ("/image nowhere.png", "'nowhere.png' is not a file. Give the path of an image."),
        (
            "/image page.png",
            "'page.png' cannot be read as an image (UnidentifiedImageError). Give a PNG, JPEG or WebP file.",
        ),
        ("/image cut.png", "'cut.png' cannot be read as an image (OSError). Give a PNG, JPEG or WebP file."),
        ("/image bomb.png", "'bomb.png' has more than 3,000 pixels. Resize it."),
        ("/image .", "'.' is not a file."),
        ("/save talk.txt", "'talk.txt' ends neither in .json nor in .md."),
        ("/save talk.md", "there is nothing to save yet."),
        ("<|im_end|>", "'<|im_end|>' is a special token of the chat template."),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_the_chat_goes_on(chat, monkeypatch, tmp_path, line, message):
    (tmp_path / "page.png").write_text("<html><script>alert(1)</script></html>")
    Image.new("RGB", (56, 58), "blue").save(tmp_path / "bomb.png")
    Image.effect_noise((50, 50), 90).save(tmp_path / "noise.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "noise.png").read_bytes()[:900])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    out, err = chat(line, "why?", answers=("so",))
    first = err.splitlines()[0]
    assert first.startswith("error: " + message), err
    assert out == "so\n"


def test_a_file_name_cannot_write_to_the_terminal(chat, tmp_path):
    out, err = chat("/image \x1b[2Jred.png")
    assert "\\x1b[2Jred.png" in err


def test_save(chat, tmp_path):
    hostile = "<think>\x1b]0;title\x07</think><answer>```\n<script>\x9b\u202e</script></answer>"
    lines = ("/image red.png", "7 - 3?", "why?", "/save talk.json", "/save talk.md", "/save talk.json")
    out, err = chat(*lines, answers=(THOUGHT, hostile), thinking=True)
    assert err.splitlines()[-1] == "saved the conversation to talk.json"
    saved = json.loads((tmp_path / "talk.json").read_text("utf-8"))
    first, second = saved["turns"]
    assert saved["model_name_or_path"] == "my-model" and first["images"] == ["red.png"] and second["images"] == []
    assert (first["question"], first["thought"], first["answer"]) == ("7 - 3?", "7 - 3\n= 4", "it is 4")
    assert first["thinking"] is True and first["why"] == "forced by /think" and first["tokens"] > 10
    assert second["text"] == hostile and second["answer"] == "```\n<script>\x9b\u202e</script>"
    text = (tmp_path / "talk.md").read_text("utf-8")
    assert "- image: red.png" in text and "```text\nit is 4\n```" in text and "````text\n```\n<script>" in text
    for written in ("talk.json", "talk.md"):
        assert not any(sign in (tmp_path / written).read_text("utf-8") for sign in "\x1b\x07\x9b\u202e")
    assert {path.name for path in tmp_path.iterdir()} == {"red.png", "talk.json", "talk.md"}


def test_save_overwrites_nothing_of_others(chat, tmp_path):
    (tmp_path / "notes.md").write_text("mine")
    out, err = chat("why?", "/save notes.md", "/save nowhere/talk.md", answers=("so",))
    assert "'notes.md' already exists and is not from this chat. Choose another name." in err
    assert "'nowhere/talk.md' cannot be written (No such file or directory)" in err
    assert (tmp_path / "notes.md").read_text() == "mine"


def test_clear(chat):
    chat("why?", "/clear", "and?", answers=("so", "no"))
    assert [turn.question for turn in chat.conversation.turns] == ["and?"]


def test_help_lists_every_command(chat):
    out, err = chat("/help")
    assert [line.split()[0] for line in err.splitlines()] == list(COMMANDS)
    for name, (argument, _) in COMMANDS.items():
        assert hasattr(Commands, "_" + name[1:]) or name in {*MODES, "/quit"}, name
        assert f"{name} {argument}".strip() in err


def test_quit(chat):
    out, err = chat("/quit", "why?", answers=("so",))
    assert (out, err) == ("", "")


def test_an_answer_never_writes_to_the_terminal(chat):
    hostile = "\x1b[31mred\x1b]0;title\x07 \r\x08\x9b5m \u202eevil\ttab\nline"
    out, err = chat("why?", answers=(hostile,))
    assert out == "\\u001b[31mred\\u001b]0;title\\u0007 \\u000d\\u0008\\u009b5m \\u202eevil\ttab\nline\n"


def test_control_characters_are_spelled_out():
    kept = "plain, \ttab, \nline, é, 中, 👩‍👩‍👧, עברית"
    assert visible(kept) == kept
    for code in [*range(0x20), *range(0x7F, 0xA0), 0xD800, 0x2066]:
        if code not in (9, 10):
            assert visible(chr(code)) == f"\\u{code:04x}"


def test_styles_end_where_they_begin(capsys):
    view = AnswerView(Screen(True, True), folded=False)
    for thought, answer in (("7", ""), ("7 - 3", ""), ("7 - 3", "4"), ("7 - 3", "5")):
        view.show(thought, answer)
        printed = capsys.readouterr().out
        assert printed.count("\x1b[2m") == printed.count("\x1b[0m") and (answer or printed.endswith("\x1b[0m"))
    assert printed == "\n5"  # another answer than the one that stood there
    view.end()
    assert capsys.readouterr().out == "\n"


def test_completions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pig.png").touch()
    assert _completions("/th", "/th") == ["/think", "/threshold"] and _completions("why /th", "/th") == []
    assert _completions("/image pi", "pi") == ["pictures/", "pig.png"] and _completions("/image [", "[") == []


def test_pictures_stand_upright(tmp_path):
    image = Image.new("RGBA", (20, 10), "red")
    exif = Image.Exif()
    exif[274] = 6  # the camera was turned
    image.save(tmp_path / "turned.png", exif=exif)
    opened = open_image(str(tmp_path / "turned.png"))
    assert opened.size == (10, 20) and opened.mode == "RGB"
