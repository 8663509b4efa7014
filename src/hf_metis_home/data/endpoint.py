"""Rollouts from a server with the OpenAI protocol (`/v1/chat/completions`): vLLM, SGLang and others."""

import base64
import io
import json
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from multiprocessing.pool import ThreadPool
from urllib.parse import urlsplit

from .._extras import require_extra
from ..answers.format import AnswerFormat
from .prompts import conversation_of
from .rollouts import Sampling, seed_of, with_system_prompt


WORTH_ANOTHER_TRY = (408, 409, 425, 429, 500, 502, 503, 504)
LONGEST_WAIT = 60.0  # seconds between two tries, whatever a server asks for


class EndpointError(ConnectionError):
    """A server that cannot be reached, refuses the request, or sends something other than a chat completion."""


class EndpointRollouts:
    """
    Samples answers over HTTP, several at a time.

    Args:
        url (`str`):
            Up to and including `/v1`, e.g. `http://localhost:8000/v1`.
        name (`str`):
            The model's name on the server.
        api_key_env (`str`, *optional*, defaults to `"OPENAI_API_KEY"`):
            Environment variable with the key, if the server needs one. The key is never written anywhere.
        concurrency (`int`, *optional*, defaults to 16):
            Most requests at a time.
        timeout (`float`, *optional*, defaults to 600.0):
            Seconds that a server may stay silent.
        tries (`int`, *optional*, defaults to 5):
            How often a request is sent before the run stops.
        pause (`float`, *optional*, defaults to 1.0):
            Seconds before the second try, doubled before each further one.
        sampling:
            Fields of [`~data.rollouts.Sampling`].

    Raises:
        ImportError: the `openai` package is not installed.
        ValueError: `url` is not an address, or contains a password.
    """

    answer_format = AnswerFormat()

    def __init__(
        self,
        url: str,
        name: str,
        *,
        api_key_env: str = "OPENAI_API_KEY",
        concurrency: int = 16,
        timeout: float = 600.0,
        tries: int = 5,
        pause: float = 1.0,
        **sampling,
    ):
        require_extra("train", "openai")
        from openai import DefaultHttpxClient, OpenAI

        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"`endpoint` is {url!r}, but must be an address such as http://localhost:8000/v1.")
        if parts.password or parts.query:
            raise ValueError(
                f"`endpoint` contains more than an address of {parts.hostname}, and it would be written into files. "
                f"Put the key into the environment variable {api_key_env}."
            )
        self.url = url.rstrip("/").removesuffix("/chat/completions")
        self.key = os.environ.get(api_key_env) or "EMPTY"  # what servers without keys conventionally get
        # Through a proxy these names would mean the proxy's own machine.
        http = DefaultHttpxClient(trust_env=parts.hostname not in ("localhost", "127.0.0.1", "::1"))
        # No retries in the client: it would not retry a broken reply, nor could its waits be interrupted.
        self._client = OpenAI(base_url=self.url, api_key=self.key, timeout=timeout, max_retries=0, http_client=http)
        self.api_key_env, self.concurrency, self.tries, self.pause = api_key_env, concurrency, tries, pause
        self._stop, self.sampling = threading.Event(), Sampling(**sampling)
        self.settings = {"model": name, "endpoint": url, **asdict(self.sampling)}

    def probe(self, row: dict) -> None:
        """Ask for one token of an answer to a prompt, images included, and raise an error if that fails."""
        self._stop.clear()
        self._ask(self._request(row, 1) | {"max_tokens": 1}, 2, "row 0")

    def roll_out(self, rows, indices: Sequence[int], done: set[int], count: int) -> Iterator[tuple[int, list[str]]]:
        """
        Answers to prompts, like [`~data.rollouts.ModelRollouts.roll_out`] but in the order in which they arrive.

        Raises:
            EndpointError: after all tries; answers to other prompts that were under way are yielded first.
        """
        self._stop.clear()
        lock, first_error = threading.Lock(), None

        def answer(index: int):
            if self._stop.is_set():
                return None
            try:
                with lock:
                    row = rows[index]
                return index, self._answers(row, index, count)
            except Exception as error:  # raised below, once the requests under way are answered
                self._stop.set()
                return error

        # The pool's threads are daemons, and leaving it does not wait for them: Ctrl-C ends at once.
        with ThreadPool(self.concurrency) as pool:
            try:
                for result in pool.imap_unordered(answer, [index for index in indices if index not in done]):
                    if isinstance(result, Exception):
                        first_error = first_error or result
                    elif result is not None:
                        yield result
            finally:
                self._stop.set()
        if first_error is not None:
            raise first_error

    def _answers(self, row: dict, index: int, count: int) -> list[str]:
        texts = []
        while len(texts) < count:  # some servers send one answer, whatever `n` says
            request = self._request(row, count - len(texts))
            request["seed"] = seed_of(self.sampling.seed, index, len(texts))
            texts += self._ask(request, self.tries, f"row {index}")
        return texts[:count]

    def _request(self, row: dict, count: int) -> dict:
        sampling = self.sampling
        prompt = with_system_prompt(row["prompt"], sampling.system_prompt)
        messages = conversation_of({"prompt": prompt, "images": row["images"]})
        return {
            "model": self.settings["model"],
            "messages": [{**message, "content": [_part(part) for part in message["content"]]} for message in messages],
            "n": count,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_new_tokens,
        }

    def _ask(self, request: dict, tries: int, what: str) -> list[str]:
        """The texts of a reply, after some tries."""
        from openai import APIConnectionError, APIStatusError

        for attempt in range(1, tries + 1):
            wait, final = self.pause * 2 ** (attempt - 1), attempt == tries
            try:
                return self._texts(self._client.chat.completions.with_raw_response.create(**request).text)
            except APIStatusError as error:
                problem = f"HTTP {error.status_code}: {error.response.text}"
                final = final or error.status_code not in WORTH_ANOTHER_TRY
                if (asked := error.response.headers.get("Retry-After", "")).isdigit():
                    wait = max(wait, float(asked))
            except (APIConnectionError, ValueError) as error:  # unreachable, cut off, silent, or a broken reply
                problem = str(error.__cause__ or error) or type(error).__name__
            if final or self._stop.wait(min(wait, LONGEST_WAIT)):
                break
        problem = " ".join(problem.split()).replace(self.key, "***")[:300]
        raise EndpointError(
            f"{self.url} gave no answer from {self.settings['model']!r} to {what} in {attempt} "
            f"{'try' if attempt == 1 else 'tries'}: {problem}. Check that the server runs, serves that "
            f"model and accepts these prompts, and that {self.api_key_env} is set if it needs a key. Answers so far "
            "are kept: run the same command again to continue."
        )

    def _texts(self, body: str) -> list[str]:
        try:
            texts = [self._text(choice["message"]) for choice in json.loads(body)["choices"]]
        except (ValueError, KeyError, TypeError, AttributeError):
            texts = []
        if not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"the reply is not a chat completion: {body}")
        return texts

    def _text(self, message: dict) -> str:
        """The text of a message. A thought in a field of its own goes back into the text, in tags."""
        thought = message.get("reasoning_content") or message.get("reasoning")
        content = (message.get("content") if thought else message["content"]) or ""  # null if an answer was cut off
        think, end_think, begin, end = self.answer_format.tags
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
