"""
A load generator for servers of the OpenAI protocol, and what is read off its answers.

The load is a **closed loop**: so many clients at a time, each of which asks its next question when its last answer is
whole. A slow server is asked less often, so latencies are those of this many clients, not of a rate of arrivals.
"""

import asyncio
import base64
import io
import json
import random
import re
import statistics
import time
from collections import Counter
from dataclasses import dataclass

import httpx

from hf_metis_home.answers import AnswerFormat
from hf_metis_home.answers.matching import answers_match
from hf_metis_home.miniature.tasks import MAX_ANSWER_TOKENS, TASKS, make_row


WITHOUT_IMAGE = 4  # every such question is asked in words alone, which nobody can answer: traffic, not a task
TEXTS = ("reasoning_content", "reasoning", "content")  # of a delta; engines that know a thought name it differently
SECONDS = 600.0  # without a word from the server


@dataclass
class Question:
    content: list[dict]  # parts of a chat message
    solution: str | None  # None where the image is missing


@dataclass
class Answer:
    """
    Times in seconds since the question was sent; branch and source as the router's headers say, if there is one; the
    text with the thought that some engines send apart from it, and without the tags around it, which those leave out.
    """

    text: str
    tokens: int
    first: float
    whole: float
    branch: str | None
    source: str | None
    right: bool | None


def make_questions(count: int, seed: int) -> list[Question]:
    """Questions of all tasks of the miniature, easy and hard, as many of each; the same for the same seed."""
    rng = random.Random(seed)
    tasks = [TASKS[number % len(TASKS)] for number in range(count)]
    rng.shuffle(tasks)
    found = []
    for number, task in enumerate(tasks):
        row = make_row(task, "test", rng)
        text = {"type": "text", "text": row["prompt"][0]["content"]}
        if number % WITHOUT_IMAGE == WITHOUT_IMAGE - 1:
            found.append(Question([text], None))
        else:
            found.append(Question([_image_part(row["images"][0]), text], row["solution"]))
    return found


def _image_part(image) -> dict:
    file = io.BytesIO()
    image.save(file, "PNG")
    return {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"},
    }


def drive(url: str, model: str, questions: list[Question], clients: int, **fields) -> tuple[list[Answer], float]:
    """
    Ask all questions of a server, `clients` at a time.

    Args:
        url (`str`): Address of the server, without a path.
        model (`str`): What it calls the model.
        questions (`list[Question]`): In the order in which they are asked.
        clients (`int`): Questions that are open at a time.
        fields: More of the request.

    Returns:
        `tuple[list[Answer], float]`: one answer per question, in their order, and the seconds for all of them.

    Raises:
        RuntimeError: a question was not answered.
    """
    return asyncio.run(_drive(url, questions, clients, {"model": model, **fields}))


async def _drive(url: str, questions: list[Question], clients: int, fields: dict) -> tuple[list[Answer], float]:
    answers: list[Answer | None] = [None] * len(questions)
    waiting = iter(range(len(questions)))
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=SECONDS, limits=limits, trust_env=False) as client:

        async def ask_in_turn():
            for number in waiting:
                answers[number] = await _ask(client, questions[number], fields)

        began = time.perf_counter()
        await asyncio.gather(*(ask_in_turn() for _ in range(clients)))
        return answers, time.perf_counter() - began


async def _ask(client: httpx.AsyncClient, question: Question, fields: dict) -> Answer:
    messages = [{"role": "user", "content": question.content}]
    body = {"messages": messages, "stream": True, "temperature": 0.0, "max_tokens": MAX_ANSWER_TOKENS, **fields}
    began, first, text, content, tokens, finished = time.perf_counter(), None, "", "", None, False
    async with client.stream("POST", "/v1/chat/completions", json=body) as reply:
        if reply.status_code != 200:
            said = (await reply.aread()).decode(errors="replace")
            raise RuntimeError(f"{client.base_url} answered {fields} with HTTP {reply.status_code}: {said[:500]}")
        async for line in reply.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            for choice in event.get("choices", ()):
                delta = choice["delta"]
                part = "".join(delta.get(key) or "" for key in TEXTS)
                if part:
                    first = first or time.perf_counter()
                    text += part
                    content += delta.get("content") or ""
                finished = finished or choice.get("finish_reason") is not None
            tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
    ended = time.perf_counter()
    if not finished or tokens is None:
        raise RuntimeError(f"{client.base_url} broke off its answer to {fields} after {text!r}.")
    right = None
    if question.solution is not None:
        given = AnswerFormat().parse(content).final
        right = given is not None and answers_match(given, question.solution)
    text = bare(text)
    header = reply.headers.get
    return Answer(
        text, tokens, (first or ended) - began, ended - began, header("x-metis-branch"), header("x-metis-source"), right
    )


def bare(text: str) -> str:
    """An answer without what engines that send a thought apart leave out or, where it is not closed, leave in."""
    return text.replace("<think>", "").replace("</think>", "").removesuffix("<|im_end|>")


def figures(answers: list[Answer], seconds: float) -> dict[str, float | None]:
    """What a round of questions says; shares are None where nothing is known of them."""
    first, whole = [answer.first for answer in answers], [answer.whole for answer in answers]
    return {
        "requests_per_second": len(answers) / seconds,
        "first_token_median": statistics.median(first),
        "first_token_p95": percentile_95(first),
        "answer_median": statistics.median(whole),
        "answer_p95": percentile_95(whole),
        "answer_mean": statistics.mean(whole),
        "tokens": statistics.mean(answer.tokens for answer in answers),
        "thinking": _share(answer.branch == "thinking" for answer in answers if answer.branch is not None),
        "right": _share(answer.right for answer in answers if answer.right is not None),
        "fallbacks": sum(answer.source == "fallback" for answer in answers),
    }


def percentile_95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20, method="inclusive")[-1] if len(values) > 1 else values[0]


def _share(values) -> float | None:
    values = list(values)
    return statistics.mean(map(float, values)) if values else None


def counters(url: str) -> Counter:
    """The router's counters by name, summed over their labels; none where there is no router."""
    text = httpx.get(f"{url}/metrics", trust_env=False, timeout=30).text
    found = Counter()
    for name, value in re.findall(r"^metis_home_(\w+?)_total(?:\{.*\})? (\S+)$", text, re.M):
        found[name] += float(value)
    return found
