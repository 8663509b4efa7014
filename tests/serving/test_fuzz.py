"""Whatever is sent: an answer in the protocol, the branch that was asked for, and a server that lives on."""

import asyncio
import json
import random

import pytest

from .common import CHAT, Engine, app_of, chat, counted, data_url, image_part, picture


BRANCHES = ("thinking", "non_thinking")
PNG = data_url(picture())
WORDS = ["", "a", "\0", "\ud800", "é" * 9, "<|im_end|>", "<|image_pad|>", "{{ 7 * 7 }}", "../..", "\r\nX: y", "9" * 400]
BAD_URLS = ["http://127.0.0.1:1/a", "file:///etc/passwd", "http://[::1]/", "data:image/png;base64,AAAA", "//x", "\n"]
NAMES = [None, "auto", "metis-home", *BRANCHES, "auto:0.3", "auto:0", "auto:1"] * 4
NAMES += ["auto:2", "auto:x", "gpt-4", "", 3, []]
KEYS = ["model", "messages", "prompt", "chat_template_kwargs", "enable_thinking", "tools", "content", "role", "type"]
PATHS = [CHAT] * 60 + ["/v1/completions"] * 10 + ["/v1/models", "/metrics", "/", "/v1/responses", "/../v1", CHAT + "/"]


def scrap(rng: random.Random, depth: int = 0):
    """Any JSON value."""
    kind = rng.randrange(9 if depth < 4 else 6)
    if kind < 6:
        numbers = [rng.randrange(-5, 2**70), rng.choice([0.5, -1e308])]
        return [None, True, *numbers, rng.choice(WORDS), rng.choice(KEYS)][kind]
    if kind == 6:
        return [scrap(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(KEYS + WORDS): scrap(rng, depth + 1) for _ in range(rng.randrange(4))}


def body(rng: random.Random):
    """Something between a good request and none, and the branch that it names where it is a good one."""
    text, image = {"type": "text", "text": rng.choice(WORDS)}, image_part(rng.choice([PNG] * 8 + BAD_URLS))
    parts = [rng.choice([text, text, image, image, scrap(rng)])]
    parts += [image_part(PNG)] * rng.randrange(3)
    good = chat(*parts, model=rng.choice(NAMES))
    if rng.random() < 0.3:
        good["chat_template_kwargs"] = {"enable_thinking": rng.choice([True, False, None] * 4 + [1, "no"])}
    if rng.random() < 0.7:
        good["prompt"] = rng.choice([rng.choice(WORDS), [1, 2], ["a", "b"], scrap(rng)])
    places = [good, good["messages"][0]]
    for _ in range(rng.choice([0, 0, 0, 0, 1, 3])):  # something in it replaced
        rng.choice(places)[rng.choice(KEYS)] = scrap(rng)
    data = json.dumps(good).encode()
    if rng.random() < 0.1:  # bytes changed, lost, or made up
        cut = rng.randrange(len(data))
        data = rng.choice([data[:cut], data[:cut] + rng.randbytes(3) + data[cut + 1 :], rng.randbytes(30), b"[" * 5000])
    return data


def named(data: bytes, path: str) -> str | None:
    """The branch that a request asks for by itself."""
    asked, model = json.loads(data), asked_for(data)
    enabled = None if path != CHAT else (asked.get("chat_template_kwargs") or {}).get("enable_thinking")
    return model if model in BRANCHES else {True: "thinking", False: "non_thinking", None: None}[enabled]


def asked_for(data: bytes):
    return json.loads(data).get("model")


async def send_one(app, rng: random.Random) -> None:
    data, path, method = body(rng), rng.choice(PATHS), rng.choice(["POST"] * 40 + ["GET", "OPTIONS", "PATCH"])
    headers = [(b"content-type", rng.choice([b"application/json"] * 60 + [b"text/html", b"\r\n", b""]))]
    headers += [(rng.choice([b"x-a", b"content-length", b"x-metis-branch", b"Host"]), rng.randbytes(5))]
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice([0, 0, 2])))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    leaves = rng.random() < 0.05
    messages = messages[:-1] if leaves else [*messages[:-1], {**messages[-1], "more_body": False}]
    messages, sent = iter(messages), []

    async def receive():
        return next(messages, {"type": "http.disconnect"})

    async def send(message):
        sent.append(message)

    before = len(app.app.bodies)
    scope = {"type": "http", "method": method, "path": path, "headers": headers, "root_path": ""}
    await asyncio.wait_for(app(scope, receive, send), 60)
    if leaves and not sent:
        return
    starts = [message for message in sent if message["type"] == "http.response.start"]
    assert len(starts) == 1 and not sent[-1].get("more_body")
    status, answer = starts[0]["status"], b"".join(message.get("body", b"") for message in sent)
    names = dict(starts[0]["headers"])
    assert all(b"\r" not in value and b"\n" not in value for value in names.values())
    routed = method == "POST" and path in (CHAT, "/v1/completions")
    if status != 200:
        error = json.loads(answer)["error"]
        assert status in (400, 404, 413, 415) and set(error) == {"message", "type", "param", "code"}
        assert len(app.app.bodies) == before
    elif routed:
        asked = app.app.bodies[-1]
        branch, source = names[b"x-metis-branch"].decode(), names[b"x-metis-source"].decode()
        assert asked["model"] == branch and branch in BRANCHES
        assert source in (("request",) if named(data, path) else ("router", "fallback", "request"))
        assert named(data, path) in (None, branch)
        if source == "router" and asked_for(data) in ("auto:0", "auto:1"):
            assert branch == {"auto:0": "thinking", "auto:1": "non_thinking"}[asked_for(data)]
        assert "127.0.0.1" not in json.dumps(asked.get("messages")) or path != CHAT


def run_fuzz(app, count: int, seed: int) -> None:
    async def run():
        for number in range(count):
            rng = random.Random(seed * 1_000_003 + number)
            try:
                await send_one(app, rng)
            except Exception as error:
                raise AssertionError(f"request {number} of seed {seed}: {error!r}") from error
            if number % 100 == 0:
                app.app.headers.clear()
        assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]

    asyncio.run(run())
    samples = [sample for metric in app.metrics.collect() for sample in metric.samples]
    answered = sum(sample.value for sample in samples if sample.name == "metis_home_requests_total")
    assert answered > count / 4  # not all of them were refused


@pytest.mark.parametrize("count", [2_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_fuzzed_requests(router_folder, count):
    """With the real router."""
    app = app_of(router_folder, Engine(), router_timeout=60)
    run_fuzz(app, count, seed=count)
    assert counted(app, "routed_prompts") > count / 10 and counted(app, "fallbacks", reason="not_loaded") == 0
    app.router.stop()
