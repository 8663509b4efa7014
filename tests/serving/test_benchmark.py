"""The benchmark of serving: its load generator against a server in this process, its report, and a small whole run."""

import asyncio
import json
import re
from argparse import Namespace

import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from benchmarks import serving
from benchmarks.load import Answer, bare, counters, drive, figures, make_questions
from benchmarks.servers import Server
from hf_metis_home.conversion import save_hub_folder, upcycle
from hf_metis_home.miniature.model import build_miniature

from .common import app_of, served


PAUSE = 0.05
CLIENTS, QUESTIONS = 3, 12


def engine(breaks_off=False, status=200, apart=False):
    """Streams, and says how many images it was asked about; thinks in two more tokens, on request apart."""
    app = FastAPI()
    app.state.open = app.state.most_open = 0

    @app.post("/v1/chat/completions", status_code=status)
    async def answer(body: dict):
        images = sum(part["type"] == "image_url" for part in body["messages"][0]["content"])
        thinks = body["model"] == "thinking"
        thought = ["<think>", "1;", "</think>"] if thinks else ["<think></think>"]
        parts = [*thought, f"<answer>{images}</answer>"]

        async def chunks():
            app.state.open += 1
            app.state.most_open = max(app.state.open, app.state.most_open)
            yield event({"delta": {"role": "assistant"}})
            for part in parts:
                await asyncio.sleep(PAUSE)
                if apart and "answer" not in part:
                    yield event({"delta": {"reasoning_content": re.sub("<.*>", "", part)}})
                else:
                    yield event({"delta": {"content": part}})
            app.state.open -= 1
            if not breaks_off:
                yield event({"delta": {}, "finish_reason": "stop"}, usage={"completion_tokens": len(parts)})
                yield "data: [DONE]\n\n"

        return StreamingResponse(chunks(), status, media_type="text/event-stream")

    return app


def event(choice: dict, **fields) -> str:
    return f"data: {json.dumps({'choices': [choice], **fields})}\n\n"


def test_closed_loop(router_folder):
    behind, questions = engine(), make_questions(QUESTIONS, seed=1)
    with served(app_of(router_folder, behind)) as url:
        before = counters(url)
        answers, seconds = drive(url, "auto:0.5", questions, CLIENTS)
        routed = counters(url) - before
        forced, _ = drive(url, "thinking", questions[:2], 1)
    assert behind.state.most_open == CLIENTS and behind.state.open == 0
    assert routed["requests"] == routed["routed_prompts"] == QUESTIONS
    assert 0 < routed["router_seconds"] < seconds and 1 <= routed["router_batches"] <= QUESTIONS
    for question, answer in zip(questions, answers, strict=True):
        assert f"<answer>{len(question.content) - 1}</answer>" in answer.text  # its own answer
        assert answer.source == "router" and answer.tokens == {"thinking": 4, "non_thinking": 2}[answer.branch]
        assert PAUSE <= answer.first < answer.whole - (answer.tokens - 1.5) * PAUSE
        assert (answer.right is None) == (len(question.content) == 1)
    assert max(answer.whole for answer in answers) < seconds < sum(answer.whole for answer in answers)
    assert {(answer.branch, answer.source) for answer in forced} == {("thinking", "request")}


def test_answers_of_engines_that_send_thoughts_apart_compare():
    assert bare("<think>1;</think><answer>7</answer>") == bare("1;<answer>7</answer>")
    assert bare("<think>7</answer>") == bare(
        "7</answer><|im_end|>"
    )  # `transformers serve`, a thought that is not closed


def test_questions():
    one, again, other = make_questions(16, seed=3), make_questions(16, seed=3), make_questions(16, seed=4)
    assert one == again != other
    assert [len(question.content) for question in one] == [2, 2, 2, 1] * 4
    assert all((question.solution is None) == (len(question.content) == 1) for question in one)
    assert len({question.content[-1]["text"].split("?")[0] for question in one}) > 5


def test_figures():
    def answer(first, whole, tokens, branch, right, source="router"):
        return Answer("", tokens, first, whole, branch, source, right)

    found = figures(
        [
            answer(0.1, 1.0, 10, "thinking", True),
            answer(0.3, 2.0, 20, "non_thinking", False),
            answer(0.2, 6.0, 60, "non_thinking", None, "fallback"),
        ],
        seconds=6.0,
    )
    assert found == pytest.approx(
        {
            "requests_per_second": 0.5, "first_token_median": 0.2, "first_token_p95": 0.29, "answer_median": 2.0,
            "answer_p95": 5.6, "answer_mean": 3.0, "tokens": 30.0, "thinking": 1 / 3, "right": 0.5, "fallbacks": 1,
        }
    )  # fmt: skip
    alone = figures([answer(0.1, 1.0, 10, None, None, None)], seconds=1.0)
    assert alone["thinking"] is alone["right"] is None and alone["answer_p95"] == 1.0


@pytest.mark.parametrize(
    ("behind", "message"),
    [
        ({"status": 500}, r"answered \{'model': 'thinking'\} with HTTP 500: data: "),
        ({"breaks_off": True}, r"broke off its answer to \{'model': 'thinking'\} after '<think>1;</think><answer>"),
    ],
)
def test_an_answer_that_fails_ends_the_run(behind, message):
    with served(engine(**behind)) as url, pytest.raises(RuntimeError, match=message):
        drive(url, "thinking", make_questions(2, seed=0), 1)


def test_rounds_and_report(router_folder):
    args = Namespace(requests=4, repeats=2, vllm=None)
    with (
        served(app_of(router_folder, engine())) as hybrid,
        served(app_of(router_folder, engine(apart=True))) as two_dense,
        served(engine(apart=True)) as alone,
    ):
        servers = {"hybrid": Server(hybrid, []), "two dense": Server(two_dense, []), "thinking": Server(alone, [])}
        measured, router = serving.measure(args, servers, {"thinking": "thinking"}, 2)
    assert list(measured) == list(serving.VARIANTS) and {len(rounds) for rounds in measured.values()} == {2}
    # The round that does not count is not in the router's count either.
    assert [router[name]["routed_prompts"] for name in ("hybrid, auto", "two dense, auto")] == [8, 8]
    assert router["equal_answers"] == 1.0
    found = {
        "command": "python -m benchmarks.serving", "machine": "A machine.", "engine": "`transformers serve`",
        "engine_args": "--device cpu", "requests": 4, "server_threads": 1, "measured": {2: measured},
        "router": {2: router}, "memory": {"hybrid": 10.0, "two dense": 30.0, "thinking": 20.0},
    }  # fmt: skip
    text = "\n".join(serving.sections(found, 2))
    lines = {cells[0]: cells[1:] for cells in map(cells_of, text.splitlines()) if len(cells) == len(serving.COLUMNS)}
    assert list(lines)[2:] == list(serving.VARIANTS)
    assert lines["hybrid, thinking"][2] == "1.00" and lines["hybrid, thinking"][7:9] == ["4.0", "100%"]
    assert lines["hybrid, non_thinking"][7:9] == ["2.0", "0%"] and float(lines["hybrid, non_thinking"][2]) > 1.1
    assert lines["engine alone, thinking"][8] == "–"
    assert (
        "which answers one request at a time" in text
        and "### `transformers serve`, 2 clients" in text
        and "First token" not in text
    )
    alone = "\n".join(serving.router_statements(measured, router, clients=1))
    assert re.search(r"First token: [+-][\d.]+ ms where the hybrid is asked as `auto`", alone)
    assert "the router read 8 prompts in" in text and "| two dense | 30 |" in text and "fallback" not in text


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_command_without_places():
    given = "--model_name_or_path runs/demo/hybrid --engine vllm --vllm=/opt/bin/vllm --output a/b.md --json c.json"
    kept = "--model_name_or_path runs/demo/hybrid --engine vllm --vllm path/to/vllm"
    assert serving.published(given) == kept


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--concurrency 0 4", "--concurrency is [0, 4], but must be numbers from 1"),
        ("--concurrency 2 2", "each given once"),
        ("--requests 3 --concurrency 4", "fewer than the 4 clients of --concurrency. Ask more"),
        ("--server_threads 0", "--server_threads is 0, but must be at least 1"),
        ("--engine vllm --vllm nowhere/vllm", "--vllm is nowhere/vllm, but must be the command of a vLLM"),
        ("--vllm nowhere/vllm", "Add --engine vllm"),
        ("--smoke", "Name another page with --output"),
        ("", "an exported router, which has no branches to answer with"),
    ],
)
def test_refusals_before_anything_starts(router_folder, capsys, monkeypatch, flags, message):
    monkeypatch.setattr(serving, "start_servers", None)
    with pytest.raises(SystemExit):
        serving.main(["--model_name_or_path", str(router_folder), *flags.split()])
    assert message in re.sub(r"\s+", " ", capsys.readouterr().err)


@pytest.mark.slow
def test_a_whole_run_with_transformers_serve(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    dense, processor = build_miniature()
    save_hub_folder(upcycle(dense, processor), processor, tmp_path / "hybrid")
    page, figures_file = tmp_path / "page.md", tmp_path / "figures.json"
    flags = ["--model_name_or_path", str(tmp_path / "hybrid"), "--output", str(page), "--json", str(figures_file)]
    assert serving.main([*flags, "--smoke"]) == 0
    text, found = page.read_text(), json.loads(figures_file.read_text())
    assert "`python -m benchmarks.serving --model_name_or_path runs/demo/hybrid --smoke`" in text
    assert str(tmp_path) not in text + json.dumps(found)
    assert re.search(r"gave equal answers to \d+% of the questions", text)  # untrained models write special tokens too
    assert found["memory"]["two dense"] > found["memory"]["thinking"] > 100
    assert found["memory"]["hybrid"] > 1.5 * found["memory"]["thinking"]  # the router's process and the engine
    assert {len(rounds) for rounds in found["measured"]["2"].values()} == {1}
