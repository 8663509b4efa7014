"""The router in front of an engine decides as the model would."""

import threading

import pytest
import torch
from transformers import AutoProcessor

from hf_metis_home.modeling import MetisHomeForConditionalGeneration
from hf_metis_home.serving.router_worker import RouterWorker

from .common import app_of, ask, ask_all, chat, counted, data_url, image_part, picture


RED, BLUE, PHOTO = picture("red"), picture("blue", size=(90, 40)), picture("green", "JPEG", (64, 64))
TEXT = "which digit is at the top left?"
SYSTEM = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": "describe"}]
HISTORY = [
    {"role": "user", "content": [image_part(data_url(RED)), {"type": "text", "text": "what color is it"}]},
    {"role": "assistant", "content": "<think></think><answer>red</answer>"},
    {"role": "user", "content": "and the shape"},
]
BODIES = {
    "text": chat(TEXT),
    "short": chat("read"),
    "image": chat(image_part(data_url(RED)), TEXT),
    "image_behind": chat(TEXT, image_part(data_url(RED))),
    "images": chat(image_part(data_url(RED)), "and", image_part(data_url(BLUE)), TEXT),
    "jpeg": chat(image_part(data_url(PHOTO, "jpeg")), TEXT),
    "system": chat("") | {"messages": SYSTEM},
    "history": chat("") | {"messages": HISTORY},
    "vision_ids": chat(image_part(data_url(RED)), TEXT, chat_template_kwargs={"add_vision_id": True}),
}


@pytest.fixture(scope="module")
def model(hybrid_folder):
    return MetisHomeForConditionalGeneration.from_pretrained(hybrid_folder).eval()


@pytest.fixture(scope="module")
def processor(hybrid_folder):
    return AutoProcessor.from_pretrained(hybrid_folder)


@pytest.fixture(scope="module")
def expected(model, processor):
    """Probability per body, by the whole model on what its processor makes of the messages."""

    def of(body):
        messages = []
        for message in body["messages"]:
            parts = message["content"]
            parts = [{"type": "text", "text": parts}] if isinstance(parts, str) else parts
            parts = [
                {"type": "image", "url": part["image_url"]["url"]} if part["type"] == "image_url" else dict(part)
                for part in parts
            ]
            messages.append({"role": message["role"], "content": parts})
        inputs = processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
            **body.get("chat_template_kwargs", {}),
        )  # fmt: skip
        return model.route(**inputs).thinking_probability.item()

    found = {name: of(body) for name, body in BODIES.items()}
    assert len({round(value, 6) for value in found.values()}) == len(BODIES)  # each reads something else
    return found


@pytest.fixture(scope="module")
def app(router_folder):
    app = app_of(router_folder, max_batch=4)
    yield app
    app.router.stop()


@pytest.mark.parametrize("name", BODIES)
def test_decides_as_the_model(app, expected, name):
    reply = ask(app, BODIES[name])
    assert float(reply.headers["x-metis-thinking-probability"]) == pytest.approx(expected[name], abs=1e-5)
    for threshold, branch in ((expected[name] - 1e-3, "thinking"), (expected[name] + 1e-3, "non_thinking")):
        reply = ask(app, BODIES[name] | {"model": f"auto:{threshold:.6f}"})
        assert reply.headers["x-metis-branch"] == branch == reply.json()["model"]
        assert reply.headers["x-metis-source"] == "router"


def test_in_batches_too(app, expected):
    names = [*BODIES] * 4
    before = counted(app, "router_batches")
    replies = ask_all(app, [BODIES[name] for name in names])
    for name, reply in zip(names, replies, strict=True):
        assert float(reply.headers["x-metis-thinking-probability"]) == pytest.approx(expected[name], abs=1e-5)
    assert counted(app, "router_batches") - before < len(names)


def test_completions_are_read_as_they_are(app, model, processor):
    text = processor.apply_chat_template(
        [{"role": "user", "content": TEXT}], add_generation_prompt=True, tokenize=False
    )
    tokens = processor.tokenizer(text)["input_ids"]
    probability = model.route(input_ids=torch.tensor([tokens])).thinking_probability.item()
    for prompt in (text, [text], tokens, [tokens]):
        reply = ask(app, {"model": "auto", "prompt": prompt}, path="/v1/completions")
        assert float(reply.headers["x-metis-thinking-probability"]) == pytest.approx(probability, abs=1e-5)
    opened = {"model": "auto", "prompt": text + "<think></think><answer>"}
    reply = ask(app, opened, path="/v1/completions")
    assert reply.headers["x-metis-branch"] == "non_thinking" and reply.headers["x-metis-source"] == "request"
    reply = ask(app, {"model": "auto", "prompt": text + "<think>"}, path="/v1/completions")
    assert reply.headers["x-metis-branch"] == "thinking" and "x-metis-thinking-probability" not in reply.headers


def test_the_dial(router_folder, expected):
    middle = sorted(expected.values())[len(expected) // 2]
    app = app_of(router_folder, thinking_threshold=middle + 1e-4)
    for name, probability in expected.items():
        branch = "thinking" if probability > middle + 1e-4 else "non_thinking"
        assert ask(app, BODIES[name]).headers["x-metis-branch"] == branch
    app.router.stop()


def test_one_bad_prompt_does_not_spoil_the_others(app, expected):
    bad = chat("a picture <|vision_start|><|image_pad|><|vision_end|> that is not there", image_part(data_url(RED)))
    replies = ask_all(app, [BODIES["text"], bad, BODIES["image"], bad])
    assert [reply.headers["x-metis-source"] for reply in replies] == ["router", "fallback", "router", "fallback"]
    assert float(replies[0].headers["x-metis-thinking-probability"]) == pytest.approx(expected["text"], abs=1e-5)
    assert counted(app, "fallbacks", reason="error") == 2


class SlowRouter(RouterWorker):
    def __init__(self, *args):
        super().__init__(*args)
        self.go = threading.Event()

    def _decide(self, group):
        self.go.wait(20)
        return super()._decide(group)


@pytest.mark.parametrize("fallback", ["thinking", "non_thinking"])
def test_overload_and_slowness_take_the_fallback(router_folder, fallback):
    app = app_of(router_folder, max_pending=2, max_batch=1, router_timeout=0.5, fallback=fallback)
    app.router = SlowRouter(app.settings, app.metrics)
    replies = ask_all(app, [BODIES["text"]] * 8)
    assert {(reply.status_code, reply.headers["x-metis-branch"]) for reply in replies} == {(200, fallback)}
    assert {reply.headers["x-metis-source"] for reply in replies} == {"fallback"}
    counts = {reason: counted(app, "fallbacks", reason=reason) for reason in ("overload", "timeout")}
    assert sum(counts.values()) == 8 and counts["overload"] >= 5 and counts["timeout"] >= 1
    app.router.go.set()
    assert app.metrics.pending() <= 2
    app.settings = app.router.settings = type(app.settings)(router=str(router_folder))
    assert ask(app, BODIES["text"]).headers["x-metis-source"] == "router"  # it recovers
    app.router.stop()


def test_a_prompt_that_is_too_long(router_folder):
    app = app_of(router_folder, max_prompt_tokens=40)
    for text in ("top " * 60, "top " * 10_000):
        assert ask(app, chat(text)).headers["x-metis-source"] == "fallback"
    assert ask(app, chat("read")).headers["x-metis-source"] == "router"
    assert counted(app, "fallbacks", reason="too_long") == 2
    app.router.stop()


def test_a_router_that_cannot_be_loaded(tmp_path):
    app = app_of(tmp_path / "absent")
    reply = ask(app, BODIES["text"])
    assert reply.status_code == 200 and reply.headers["x-metis-source"] == "fallback"
    app.router.stop()
