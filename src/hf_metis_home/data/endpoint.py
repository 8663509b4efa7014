"""Answers drawn from a server that speaks the OpenAI protocol (`/v1/chat/completions`): vLLM, SGLang, and others."""

import base64
import io
import json
import os
import queue
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from ..answers.format import AnswerFormat
from .prompts import conversation_of
from .rollouts import seed_of, with_system_prompt


WORTH_ANOTHER_TRY = (408, 409, 425, 429, 500, 502, 503, 504)
LONGEST_WAIT = 60.0  # seconds between two tries, whatever a server asks for


class EndpointError(ConnectionError):
    """A server that cannot be reached, refuses, or answers in another form."""


class EndpointRollouts:
    """
    Draws answers over HTTP, several at a time.

    Args:
        url (`str`):
            Up to and with `/v1`, e.g. `http://localhost:8000/v1`.
        name (`str`):
            The model's name there.
        api_key_env (`str`, *optional*, defaults to `"OPENAI_API_KEY"`):
            Environment variable with the key, where one is needed. The key is written nowhere.
        temperature, top_p, max_new_tokens, seed, system_prompt:
            As for [`~data.rollouts.ModelRollouts`].
        concurrency (`int`, *optional*, defaults to 16):
            Requests at a time.
        timeout (`float`, *optional*, defaults to 600.0):
            Seconds to wait for an answer.
        tries (`int`, *optional*, defaults to 5):
            How often a request is made before the run stops.
        pause (`float`, *optional*, defaults to 1.0):
            Seconds before the second try; doubled before each further one.

    Raises:
        ValueError: `url` is no address, or holds a password.
    """

    def __init__(
        self,
        url: str,
        name: str,
        *,
        api_key_env: str = "OPENAI_API_KEY",
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_new_tokens: int = 2048,
        seed: int = 0,
        system_prompt: str | None = None,
        concurrency: int = 16,
        timeout: float = 600.0,
        tries: int = 5,
        pause: float = 1.0,
    ):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"`endpoint` is {url!r}, which is no address. Give one such as http://localhost:8000/v1.")
        if parts.password or parts.query:
            raise ValueError(
                f"`endpoint` holds more than an address of {parts.hostname}; it would be written into files. Put the "
                f"key into the environment variable {api_key_env}."
            )
        # Behind a proxy these names would be the proxy's own machine.
        here = parts.hostname in ("localhost", "127.0.0.1", "::1")
        self._opener = urllib.request.build_opener(*[urllib.request.ProxyHandler({})] if here else [])
        self.url = url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        self.api_key_env, self.concurrency, self.timeout = api_key_env, concurrency, timeout
        self.tries, self.pause, self._stop = tries, pause, threading.Event()
        self.settings: dict[str, Any] = {
            "model": name,
            "endpoint": url,
            "temperature": temperature,
            "top_p": top_p,
            "max_new_tokens": max_new_tokens,
            "seed": seed,
            "system_prompt": system_prompt,
        }

    def probe(self, row: dict) -> None:
        """Ask for one token of an answer to a prompt, images included, and raise what is wrong."""
        self._stop.clear()
        self._ask(self._request(row, 1) | {"max_tokens": 1}, 2, "row 0")

    def roll_out(self, rows, indices: Sequence[int], done: set[int], count: int) -> Iterator[tuple[int, list[str]]]:
        """
        Answers to prompts, as [`~data.rollouts.ModelRollouts.roll_out`] gives them but in the order in which they come.

        Raises:
            EndpointError: after all tries; what was answered meanwhile has been yielded.
        """
        todo = iter([index for index in indices if index not in done])
        results, lock = queue.SimpleQueue(), threading.Lock()
        self._stop.clear()

        def work() -> None:
            while not self._stop.is_set():
                with lock:
                    index = next(todo, None)
                    row = None if index is None else rows[index]
                if index is None:
                    break
                try:
                    results.put((index, self._answers(row, index, count)))
                except BaseException as error:  # raised again where the results are read
                    results.put((index, error))
            results.put(None)

        # Daemons, so that Ctrl-C does not wait for replies.
        workers = [threading.Thread(target=work, daemon=True) for _ in range(self.concurrency)]
        for worker in workers:
            worker.start()
        running, first_error = len(workers), None
        try:
            while running:
                result = results.get()
                if result is None:
                    running -= 1
                elif isinstance(result[1], BaseException):
                    first_error = first_error or result[1]
                    self._stop.set()
                else:
                    yield result
        finally:
            self._stop.set()
        if first_error is not None:
            raise first_error

    def _answers(self, row: dict, index: int, count: int) -> list[str]:
        texts = []
        while len(texts) < count:  # some servers give one answer, whatever `n` says
            request = self._request(row, count - len(texts))
            request["seed"] = seed_of(self.settings["seed"], index, len(texts))
            texts += self._ask(request, self.tries, f"row {index}")
        return texts[:count]

    def _request(self, row: dict, count: int) -> dict:
        settings = self.settings
        prompt = with_system_prompt(row["prompt"], settings["system_prompt"])
        messages = conversation_of({"prompt": prompt, "images": row["images"]})
        return {
            "model": settings["model"],
            "messages": [{**message, "content": [_part(part) for part in message["content"]]} for message in messages],
            "n": count,
            "temperature": settings["temperature"],
            "top_p": settings["top_p"],
            "max_tokens": settings["max_new_tokens"],
        }

    def _ask(self, request: dict, tries: int, what: str) -> list[str]:
        """The texts of a reply, after some tries."""
        for attempt in range(1, tries + 1):
            wait_for = self.pause * 2 ** (attempt - 1)
            try:
                return self._texts(self._post(request))
            except urllib.error.HTTPError as error:
                problem = f"HTTP {error.code}: {self._excerpt(error.read(2000))}"
                if error.code not in WORTH_ANOTHER_TRY:
                    raise self._error(what, problem, attempt) from None
                if (asked := error.headers.get("Retry-After", "")).isdigit():
                    wait_for = max(wait_for, float(asked))
            except (OSError, ValueError) as error:  # unreachable, cut off, too slow, or of another form
                problem = self._excerpt(str(getattr(error, "reason", error)).encode()) or type(error).__name__
            if attempt < tries and self._stop.wait(min(wait_for, LONGEST_WAIT)):
                break
        raise self._error(what, problem, attempt)

    def _post(self, request: dict) -> bytes:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(self.api_key_env):
            headers["Authorization"] = f"Bearer {key}"
        message = urllib.request.Request(self.url, data=json.dumps(request).encode(), headers=headers, method="POST")
        deadline, chunks = time.monotonic() + self.timeout, []
        with self._opener.open(message, timeout=self.timeout) as reply:
            while chunk := reply.read1(65536):
                chunks.append(chunk)
                if time.monotonic() > deadline:  # the socket's own limit counts from byte to byte
                    raise TimeoutError(f"no whole reply within {self.timeout:g} s")
        return b"".join(chunks)

    def _texts(self, body: bytes) -> list[str]:
        try:
            texts = [_text(choice["message"]) for choice in json.loads(body)["choices"]]
        except (ValueError, KeyError, TypeError, AttributeError):
            texts = []
        if not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"a reply that is no chat completion: {self._excerpt(body)}")
        return texts

    def _excerpt(self, body: bytes) -> str:
        text = " ".join(body.decode("utf-8", "replace").split())
        if key := os.environ.get(self.api_key_env):
            text = text.replace(key, "***")
        return text[:300]

    def _error(self, what: str, problem: str, attempts: int) -> EndpointError:
        name, tries = self.settings["model"], "try" if attempts == 1 else "tries"
        return EndpointError(
            f"{self.url} gave no answer by {name!r} to {what} in {attempts} {tries}: {problem}. "
            f"Look whether the server runs, serves that model and takes these prompts, and whether {self.api_key_env} "
            "is set where it needs a key. What was answered is kept: run again to go on."
        )


def _text(message: dict) -> str:
    """
    What a message says. Servers that take the thought out of the text give it in a field of its own; it comes back into
    the text, and what is left into answer tags where it has none.
    """
    thought = message.get("reasoning_content") or message.get("reasoning")
    content = (message.get("content") if thought else message["content"]) or ""  # null where an answer was cut off
    think, end_think, begin, end = AnswerFormat().tags
    if not thought or think in content:
        return content
    return f"{think}{thought}{end_think}{content if begin in content else begin + content.strip() + end}"


def _part(part: dict) -> dict:
    """A part of a message as the protocol has it, images as data URLs."""
    if part["type"] != "image":
        return {"type": "text", "text": part["text"]}
    from PIL import Image

    data = part["image"]["bytes"]
    with Image.open(io.BytesIO(data)) as image:
        kind = image.format
        if kind not in ("PNG", "JPEG", "WEBP"):
            buffer = io.BytesIO()
            image.convert("RGB").save(buffer, "PNG")
            kind, data = "PNG", buffer.getvalue()
    url = f"data:image/{kind.lower()};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}
