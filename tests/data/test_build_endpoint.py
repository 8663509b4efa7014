"""Answers drawn from a server: what is sent, and what happens when it fails, is slow or talks rubbish."""

import base64
import io
import json
import threading
import time

import pytest
from PIL import Image

from hf_metis_home.data.build import build_data
from hf_metis_home.data.endpoint import EndpointError, EndpointRollouts
from tests.data.chat_server import ChatServer, reply_of, sums
from tests.data.prompts_common import WRONG, prompt_set, right


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def source(server, **changes):
    return EndpointRollouts(server.url, "served", **{"pause": 0.01, "timeout": 20.0} | changes)


def test_requests_carry_prompt_images_and_settings(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with ChatServer() as server:
        drawn = dict(
            source(server, temperature=0.7, top_p=0.9, max_new_tokens=50, system_prompt="think").roll_out(
                prompt_set({"sums": 2}), [0, 1], set(), 3
            )
        )
    assert drawn == {0: [right(0), WRONG, WRONG], 1: [right(1), WRONG, WRONG]}
    text, picture = sorted(server.requests, key=lambda request: len(request["messages"][-1]["content"]))
    assert text["messages"] == [
        {"role": "system", "content": [{"type": "text", "text": "think"}]},
        {"role": "user", "content": [{"type": "text", "text": "what is 0 + 4"}]},
    ]
    image, words = picture["messages"][-1]["content"]
    assert words == {"type": "text", "text": "what is 1 + 4"} and image["type"] == "image_url"
    kind, data = image["image_url"]["url"].split(";base64,")
    assert kind == "data:image/png"
    assert Image.open(io.BytesIO(base64.b64decode(data))).getpixel((0, 0)) == (1, 0, 0)
    settings = {"model": "served", "n": 3, "temperature": 0.7, "top_p": 0.9, "max_tokens": 50}
    for request in (text, picture):
        assert settings.items() <= request.items()
    assert text["seed"] != picture["seed"]
    assert server.headers[0]["path"] == "/v1/chat/completions"
    assert server.headers[0]["Authorization"] == "Bearer secret"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_server_on_this_machine_is_not_asked_through_a_proxy(monkeypatch, host):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with ChatServer() as server:
        there = EndpointRollouts(server.url.replace("127.0.0.1", host), "served", pause=0.01)
        there.probe(prompt_set({"sums": 1})[0])
    assert len(server.requests) == 1


def test_a_server_that_gives_one_answer_is_asked_again_with_other_seeds():
    with ChatServer(lambda request: reply_of(str(request["seed"]))) as server:
        drawn = dict(source(server).roll_out(prompt_set({"sums": 1}), [0], set(), 4))
    assert len(set(drawn[0])) == 4 and len(server.requests) == 4


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "7", "reasoning_content": "3 + 4"}, "<think>3 + 4</think><answer>7</answer>"),
        ({"content": "<answer>7</answer>", "reasoning": "3 + 4"}, "<think>3 + 4</think><answer>7</answer>"),
        ({"content": right(3), "reasoning_content": "x"}, right(3)),
        ({"content": None, "reasoning_content": "cut"}, "<think>cut</think><answer></answer>"),
        ({"content": None}, ""),
        ({"content": "7", "reasoning_content": None}, "7"),
    ],
)
def test_thoughts_in_a_field_of_their_own_come_back_into_the_text(message, text):
    with ChatServer(lambda request: {"choices": [{"message": message}]}) as server:
        assert dict(source(server).roll_out(prompt_set({"sums": 1}), [0], set(), 1)) == {0: [text]}


def test_no_more_requests_at_a_time_than_allowed():
    with ChatServer(delay=0.05) as server:
        drawn = dict(source(server, concurrency=3).roll_out(prompt_set({"sums": 12}), range(12), {4}, 1))
    assert sorted(drawn) == [index for index in range(12) if index != 4]
    assert 2 <= server.most_at_once <= 3


@pytest.mark.parametrize(
    "problem",
    [500, 429, 503, b"rubbish", b"", b"[]", b'{"choices": []}', b'{"choices": [{}]}', {"error": "busy"}, None]
    + [{"choices": [{"message": {"content": 7}}]}, {"choices": [{"message": {}}]}, {"choices": {"a": 1}}],
)
def test_passing_trouble_is_overcome(problem):
    left, lock = [2], threading.Lock()

    def answer(request):
        with lock:
            left[0] -= 1
            return problem if left[0] >= 0 else sums(request)

    with ChatServer(answer) as server:
        assert dict(source(server).roll_out(prompt_set({"sums": 1}), [0], set(), 1)) == {0: [right(0)]}
        assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("problem", "message"),
    [(500, "HTTP 500"), (b"rubbish", "not a chat completion: rubbish"), (None, "disconnected")],
)
def test_lasting_trouble_ends_the_run_with_nothing_lost(tmp_path, problem, message):
    broken = threading.Event()

    def answer(request):
        return problem if broken.is_set() and "what is 7 " in json.dumps(request) else sums(request)

    with ChatServer(answer) as server:
        broken.set()
        prompts = prompt_set({"sums": 12})
        with pytest.raises(
            EndpointError, match=f"gave no answer from 'served' to row 7 in 5 tries: .*{message}.*again"
        ):
            build_data(prompts, source(server, concurrency=2), tmp_path / "out", n_rollouts=2)
        lines = (tmp_path / "out.rollouts.jsonl").read_text().splitlines()
        kept = {json.loads(line)["index"] for line in lines[1:]}
        assert {0, 1, 2, 3, 4, 5, 6} <= kept and 7 not in kept
        broken.clear()
        before = len(server.requests)
        report = build_data(prompts, source(server), tmp_path / "out", n_rollouts=2)
        assert len(server.requests) - before == 12 - len(kept) + 1  # and one to try the server
    assert report["rows"] == 12


def test_answers_under_way_when_another_fails_are_kept():
    def answer(request):
        if "what is 0 " in json.dumps(request):
            return 404
        time.sleep(0.5)
        return sums(request)

    with ChatServer(answer) as server:
        drawn, rollouts = [], source(server, concurrency=3)
        with pytest.raises(EndpointError, match="row 0"):
            for index, _ in rollouts.roll_out(prompt_set({"sums": 30}), range(30), set(), 1):
                drawn.append(index)
    assert 1 <= len(drawn) <= 4 and len(server.requests) == len(drawn) + 1


def test_a_refusal_is_not_tried_again_and_the_key_is_not_shown(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "top-secret")
    with ChatServer(lambda request: 404) as server:
        with pytest.raises(EndpointError, match=r"row 0 in 1 try: HTTP 404: no such model, key Bearer \*\*\*") as error:
            build_data(prompt_set({"sums": 3}), source(server), tmp_path / "out")
        assert len(server.requests) == 1
    assert "top-secret" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_the_key_is_written_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "top-secret")
    with ChatServer() as server:
        build_data(prompt_set({"sums": 4}), source(server), tmp_path / "out", n_rollouts=2)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) == 3
    assert not any(b"top-secret" in file.read_bytes() for file in files)


def test_a_server_that_is_not_there_is_found_out_before_anything_is_drawn(tmp_path):
    with ChatServer() as server:
        pass
    with pytest.raises(EndpointError, match="gave no answer.*refused.*Check that the server runs"):
        build_data(prompt_set({"sums": 3}), source(server), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_slow_replies_are_given_up():
    with ChatServer(delay=30) as server:
        started = time.monotonic()
        with pytest.raises(EndpointError, match="2 tries: .*timed out"):
            source(server, timeout=0.3).probe(prompt_set({"sums": 1})[0])
        assert time.monotonic() - started < 10


def test_leaving_early_does_not_wait_for_replies():
    with ChatServer(delay=1.0) as server:
        drawn = source(server, concurrency=2).roll_out(prompt_set({"sums": 50}), range(50), set(), 1)
        next(drawn)
        started = time.monotonic()
        drawn.close()
        assert time.monotonic() - started < 0.9
        assert len(server.requests) <= 6


def test_a_wait_that_the_server_asks_for_is_bounded(monkeypatch):
    from hf_metis_home.data import endpoint

    waited = []
    with ChatServer(lambda request: 503) as server:
        rollouts = source(server, pause=1000.0)
        monkeypatch.setattr(rollouts._stop, "wait", lambda seconds: waited.append(seconds))
        with pytest.raises(EndpointError, match="5 tries"):
            list(rollouts.roll_out(prompt_set({"sums": 1}), [0], set(), 1))
    assert waited == [endpoint.LONGEST_WAIT] * 4


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://a/v1", "", "http://"])
def test_an_address_that_is_none_is_an_error(url):
    with pytest.raises(ValueError, match="`endpoint` is .* must be an address"):
        EndpointRollouts(url, "served")


@pytest.mark.parametrize("url", ["http://user:top-secret@host/v1", "http://host/v1?key=top-secret"])
def test_an_address_with_a_key_is_an_error_that_does_not_show_it(url):
    with pytest.raises(ValueError, match="environment variable") as error:
        EndpointRollouts(url, "served")
    assert "top-secret" not in str(error.value)
