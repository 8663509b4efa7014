"""The Space's app, in this process: what it answers, and what it makes of files and questions that it cannot use."""

import importlib.util
import struct
import sys
import zlib
from types import SimpleNamespace

import gradio
import pytest
from PIL import Image

from .space_common import ANSWERS, QUESTION, THOUGHT, make_space, red_square


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    folder = make_space(tmp_path_factory.mktemp("space"))
    sys.path.insert(0, str(folder))
    try:
        spec = importlib.util.spec_from_file_location("space_app", folder / "app.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("answer_format", None)


@pytest.fixture
def upload(app, tmp_path):
    def read(content, name: str = "picture.png"):
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content.save(path)
        return app.read_upload(SimpleNamespace(path=str(path)))

    return read


def shown(app, *given, both: bool = False, visitor: dict | None = None, stop_at: int | None = None) -> dict:
    """The page after an answer: name of each part to its value. Stop is pressed after so many steps."""
    visitor = visitor or {"asked": 1, "stopped": -1}
    panels = {"thinking": app.panels[True], "direct": app.panels[False]}
    names = {app.decision: "decision"}
    for branch, panel in panels.items():
        names |= {
            getattr(panel, part): f"{branch}.{part}" for part in ("column", "fold", "thought", "answer", "counter")
        }
    page, steps = {}, 0
    for update in app.answer(*given, visitor, both=both):
        page |= {names[part]: value for part, value in update.items()}
        steps += 1
        if steps == stop_at:
            app.stop_answers(visitor)
    page["steps"] = steps
    return page


def test_the_router_decides(app):
    model = app.model
    probability = float(model.route(**app.model_inputs(None, QUESTION)).thinking_probability)
    for threshold, thinking in ((0.0, True), (1.0, False)):
        page = shown(app, None, QUESTION, "auto", threshold)
        chosen, other = ("thinking", "direct") if thinking else ("direct", "thinking")
        assert page[f"{chosen}.answer"] == ANSWERS[thinking] and page[f"{other}.answer"] == ""
        assert page[f"{chosen}.column"]["visible"] and not page[f"{other}.column"]["visible"]
        assert (
            f"probability of thinking is {probability:.3f}" in page["decision"]
            and "The router chose" in page["decision"]
        )
        assert f"{'at or above' if thinking else 'below'} the threshold of {threshold:.3f}" in page["decision"]
        assert page["steps"] > 4 and " tokens · " in page[f"{chosen}.counter"]


def test_the_visitor_decides(app):
    page = shown(app, red_square(), QUESTION, "think", 1.0)
    assert (page["thinking.thought"], page["thinking.answer"]) == (THOUGHT, ANSWERS[True])
    assert page["thinking.fold"]["visible"] and "open" not in page["thinking.fold"]
    assert (
        "You chose the thinking branch" in page["decision"] and "would have chosen the non-thinking" in page["decision"]
    )
    page = shown(app, red_square(), QUESTION, "direct", 0.0)
    assert page["direct.answer"] == ANSWERS[False] and not page["direct.fold"]["visible"]
    assert (
        "You chose the non-thinking branch" in page["decision"] and "would have chosen the thinking" in page["decision"]
    )


def test_both_side_by_side(app):
    page = shown(app, red_square(), QUESTION, "auto", 0.5, both=True)
    assert (page["thinking.answer"], page["direct.answer"]) == (ANSWERS[True], ANSWERS[False])
    assert page["thinking.column"]["visible"] and page["direct.column"]["visible"]
    assert "Both branches answer" in page["decision"]


def test_the_vision_tower_runs_once_per_question(app):
    calls = []
    visual = app.model.model.visual
    hook = visual.register_forward_hook(lambda *_: calls.append(1))
    try:
        shown(app, red_square(), QUESTION, "auto", 0.5, both=True)
    finally:
        hook.remove()
    assert calls == [1]


def test_stop(app):
    page = shown(app, None, QUESTION, "think", 0.5, both=True, stop_at=3)
    assert page["steps"] == 3 and page["direct.counter"].endswith(" s") and page["thinking.counter"] == ""
    visitor = {"asked": 1, "stopped": -1}
    app.stop_answers(visitor)  # while the question waits for its turn
    assert shown(app, None, QUESTION, "think", 0.5, visitor=visitor) == {"steps": 0}
    app.count_question(visitor)  # asked again
    assert shown(app, None, QUESTION, "think", 0.5, visitor=visitor)["thinking.answer"] == ANSWERS[True]


def test_a_visitor_who_leaves_stops_the_answer(app, monkeypatch):
    steps = []
    generate = type(app.model).generate
    inputs = app.model_inputs(None, QUESTION)

    def slow(**options):
        criteria = [lambda ids, scores, **more: steps.append(1) or False, *options.pop("stopping_criteria")]
        return generate(app.model, stopping_criteria=criteria, **options)

    monkeypatch.setattr(app.model, "generate", slow, raising=False)
    decision = app.model.decide(**inputs, thinking=True)
    answer = app.stream(inputs, decision)
    next(answer)
    answer.close()
    taken = len(steps)
    whole = list(app.stream(inputs, decision))[-1][2]
    assert taken < whole


def test_what_generate_refuses_reaches_the_visitor(app, monkeypatch):
    def fail(**options):
        raise ValueError("no <b>")

    monkeypatch.setattr(app.model, "generate", fail, raising=False)
    with pytest.raises(ValueError, match="no <b>"):
        list(app.stream(app.model_inputs(None, QUESTION), None))


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("", "Ask a question."),
        ("  \n", "Ask a question."),
        (None, "Ask a question."),
        ("x" * 2001, "The question has 2001 characters. Use at most 2000."),
        ("<|image_pad|>", "&lt;|image_pad|&gt; is reserved for the chat template. Remove it from the question."),
    ],
)
def test_questions_that_are_refused(app, question, message):
    with pytest.raises(gradio.Error) as caught:
        app.model_inputs(None, question)
    assert caught.value.message == message


def test_a_prompt_that_is_too_long_for_the_model(app, monkeypatch):
    monkeypatch.setattr(app.model.config.text_config, "max_position_embeddings", 20)
    with pytest.raises(gradio.Error) as caught:
        list(app.answer(None, QUESTION, "auto", 0.5, {"asked": 1, "stopped": -1}))
    assert "too long for the model" in caught.value.message


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it has so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


UNREADABLE = "This file cannot be read as an image. Use one of PNG, JPEG, WEBP, GIF, BMP."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html><script>alert(1)</script></html>", UNREADABLE),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", UNREADABLE),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", UNREADABLE),
        (b"P6 1 1 255 \x00\x00\x00", UNREADABLE),  # an image, of a kind that nobody uploads
        (b"", UNREADABLE),
        (bomb(10, 10), UNREADABLE),  # cut short
        (bomb(6_000, 6_000), "The image has more than 25 million pixels. Make it smaller."),
        (bomb(60_000, 60_000), "The image has more than 25 million pixels. Make it smaller."),
        (bytes(10 * 2**20 + 1), "The image file is larger than 10 MB. Make it smaller."),
    ],
    ids=["html", "svg", "postscript", "ppm", "empty", "cut", "large", "bomb", "heavy"],
)
def test_files_that_are_no_images(upload, content, message):
    with pytest.raises(gradio.Error) as caught:
        upload(content)
    assert caught.value.message == message and caught.value.print_exception is False


def test_images_are_decoded(app, upload):
    assert app.read_upload(None) is None
    for name, image in (("a.png", Image.new("RGBA", (8, 4))), ("a.jpg", red_square()), ("a.webp", red_square())):
        read = upload(image, name)
        assert read.mode == "RGB" and read.size == image.size


def test_the_title_is_no_markup(app):
    texts = [block.value for block in app.demo.blocks.values() if isinstance(block, gradio.HTML)]
    assert any("<h1>A &lt;i&gt;small&lt;/i&gt; model</h1>" in text for text in texts if text)
    assert app.demo.analytics_enabled is False
