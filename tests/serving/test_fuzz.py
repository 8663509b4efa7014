"""Whatever is sent: an answer in the protocol, the branch that was asked for, and a server that lives on."""

import asyncio
import json
import random

import pytest

from hf_metis_home.serving.router_worker import Routed

from .common import CHAT, Engine, app_of, chat, data_url, image_part, picture


BRANCHES = ("thinking", "non_thinking")
PNG = data_url(picture())
WORDS = ["", "a", "\0", "\ud800", "é" * 9, "<|im_end|>", "<|image_pad|>", "{{ 7 * 7 }}", "../..", "\r\nX: y", "9" * 400]
URLS = [PNG, "http://127.0.0.1:1/a", "file:///etc/passwd", "http://[::1]/", "data:image/png;base64,AAAA", "//x", "\n"]
NAMES = [None, "auto", "metis-home", *BRANCHES, "auto:0.3", "auto:0", "auto:1", "auto:2", "auto:x", "gpt-4", "", 3, []]
KEYS = ["model", "messages", "prompt", "chat_template_kwargs", "enable_thinking", "tools", "content", "role", "type"]
PATHS = [CHAT] * 12 + ["/v1/completions"] * 4 + ["/v1/models", "/metrics", "/", "/v1/responses", "/../v1", CHAT + "/"]


def scrap(rng: random.Random, depth: int = 0):
    """Any JSON value."""
    kind = rng.randrange(9 if depth < 4 else 6)
    if kind < 6:
        return [None, True, rng.randrange(-5, 2**70), rng.choice([0.5, -1e308]), rng.choice(WORDS), rng.choice(KEYS)][
            kind
        ]
    if kind == 6:
        return [scrap(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(KEYS + WORDS): scrap(rng, depth + 1) for _ in range(rng.randrange(4))}


def body(rng: random.Random):
    """Something between a good request and none, and the branch that it names where it is a good one."""
    parts = [rng.choice([{"type": "text", "text": rng.choice(WORDS)}, image_part(rng.choice(URLS)), scrap(rng)])]
    parts += [image_part(PNG)] * rng.randrange(3)
    good = chat(*parts, model=rng.choice(NAMES))
    if rng.random() < 0.3:
        good["chat_template_kwargs"] = {"enable_thinking": rng.choice([True, False, None, 1, "no"])}
    if rng.random() < 0.3:
        good["prompt"] = rng.choice([rng.choice(WORDS), [1, 2], ["a", "b"], scrap(rng)])
    places = [good, good["messages"][0]]
    for _ in range(rng.choice([0, 0, 1, 3])):  # something in it replaced
        rng.choice(places)[rng.choice(KEYS)] = scrap(rng)
    data = json.dumps(good).encode()
    if rng.random() < 0.2:  # bytes changed, lost, or made up
        cut = rng.randrange(len(data))
        data = rng.choice([data[:cut], data[:cut] + rng.randbytes(3) + data[cut + 1 :], rng.randbytes(30), b"[" * 5000])
    return data


def named(data: bytes, path: str) -> str | None:
    """The branch that a request asks for by itself."""
    asked = json.loads(data)
    model = asked.get("model")
    enabled = None if path != CHAT else (asked.get("chat_template_kwargs") or {}).get("enable_thinking")
    return model if model in BRANCHES else {True: "thinking", False: "non_thinking", None: None}[enabled]


class Switch:
    """In the place of the router: always the same, or what the model says."""

    def __init__(self):
        self.asked = 0

    async def route(self, prompt, threshold):
        self.asked += 1
        return Routed(self.asked % 2 == 0, 0.5)

    pending = 0


async def send_one(app, rng: random.Random) -> None:
    data, path, method = body(rng), rng.choice(PATHS), rng.choice(["POST"] * 8 + ["GET", "OPTIONS", "PATCH"])
    headers = [(b"content-type", rng.choice([b"application/json"] * 9 + [b"text/html", b"\r\n", b""]))]
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
    answered = sum(value for (name, _), value in app.counters._values.items() if name == "requests")
    assert answered > count / 20  # not all of them were refused


def test_a_thousand_requests(router_folder):
    app = app_of(router_folder, Engine())
    app.router = Switch()
    run_fuzz(app, 1000, seed=0)
    assert app.router.asked > 30


@pytest.mark.slow
def test_ten_thousand_requests_with_the_router(router_folder):
    app = app_of(router_folder, Engine())
    run_fuzz(app, 10_000, seed=1)
    assert app.counters.get("routed_prompts") > 300 and app.counters.get("fallbacks", reason="not_loaded") == 0
    app.router.stop()
