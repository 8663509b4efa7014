"""The exported router in a thread of its own: it reads waiting prompts in batches and never blocks the event loop."""

import asyncio
import logging
import queue
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from typing import NamedTuple

from .metrics import Metrics
from .request_body import Prompt
from .settings import ServingSettings


logger = logging.getLogger(__name__)
BYTES_PER_TOKEN = 16  # more than any text has: longer prompts are refused without counting their tokens


Routed = tuple[bool, float | None]  # thinking, and the router's probability unless the prompt opens a branch's answer


class RouterUnavailable(Exception):
    """The router did not decide; the text is one word for the metrics."""


class _Waiting(NamedTuple):
    prompt: Prompt
    threshold: float | None
    future: Future


class RouterWorker:
    """
    Asks the exported router, with the same decisions as the whole model's `decide`.

    Args:
        settings ([`ServingSettings`]): Folder and device of the router, limits.
        metrics ([`~serving.metrics.Metrics`]): Where batches are counted.
    """

    def __init__(self, settings: ServingSettings, metrics: Metrics):
        self.settings, self.metrics = settings, metrics
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loaded, self._stopped = Future(), False
        self._template_names: set[str] = set()
        metrics.pending = self._queue.qsize

    def start(self) -> None:
        """Start the thread, which first loads the router. Further calls do nothing."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="metis-home-router", daemon=True)
            self._thread.start()

    async def wait_until_loaded(self) -> None:
        """Start, and raise what loading raised."""
        self.start()
        await asyncio.to_thread(self._loaded.result)

    def stop(self) -> None:
        """End the thread after its current batch; waiting prompts get no answer."""
        if self._thread is not None:
            self._stopped = True
            self._queue.put(None)
            self._thread.join(timeout=60)

    async def route(self, prompt: Prompt, threshold: float | None) -> Routed:
        """
        The decision for a prompt.

        Raises:
            RouterUnavailable: `"not_loaded"`, `"overload"`, `"timeout"`, `"too_long"` or `"error"`.
        """
        self.start()
        if prompt.size > BYTES_PER_TOKEN * self.settings.max_prompt_tokens:
            raise RouterUnavailable("too_long")
        if self._queue.qsize() >= self.settings.max_pending:
            raise RouterUnavailable("overload")
        waiting = _Waiting(prompt, threshold, Future())
        self._queue.put(waiting)
        try:
            async with asyncio.timeout(self.settings.router_timeout):
                return await asyncio.wrap_future(waiting.future)
        except TimeoutError:
            raise RouterUnavailable("timeout") from None

    def _run(self) -> None:
        try:
            self._load()
            self._loaded.set_result(None)
        except Exception as error:  # noqa: BLE001  raised by `wait_until_loaded`
            self._loaded.set_exception(error)
        while not self._stopped and (first := self._queue.get()) is not None:
            groups: dict[str, list[_Waiting]] = {}  # a chat template renders prompts together if its variables agree
            for waiting in self._batch(first):
                groups.setdefault(repr(self._template_kwargs(waiting.prompt)), []).append(waiting)
            for group in groups.values():
                self._answer(group)

    def _load(self) -> None:
        from transformers import AutoModel, AutoProcessor

        from ..modeling import MetisHomeModel  # noqa: F401  registers it

        folder = self.settings.router
        self.model = AutoModel.from_pretrained(folder, dtype="auto").eval().to(self.settings.router_device)
        self.processor = AutoProcessor.from_pretrained(folder)
        self._template_names = _names_in(self.processor.chat_template)

    def _batch(self, first: _Waiting | None) -> list[_Waiting]:
        """The prompts that wait now, up to the size of a batch, without those that nobody waits for any more."""
        batch, pixels = [], 0
        with suppress(queue.Empty):
            while first is not None:
                if first.future.set_running_or_notify_cancel():
                    batch.append(first)
                    pixels += first.prompt.pixels
                if len(batch) >= self.settings.max_batch or pixels > self.settings.max_image_pixels // 2:
                    break
                first = self._queue.get_nowait()
        return batch

    def _answer(self, group: list[_Waiting]) -> None:
        """Decide for a group of prompts. If that fails, read each by itself, so that one cannot affect the others."""
        started = time.monotonic()
        try:
            results = self._decide(group)
        except Exception as error:  # noqa: BLE001  from template, processor or model, for whatever a client sent
            if len(group) > 1:
                for waiting in group:
                    self._answer([waiting])
            elif isinstance(error, RouterUnavailable):
                group[0].future.set_exception(error)
            else:
                logger.warning("The router could not read a prompt; the fallback branch answers.", exc_info=True)
                group[0].future.set_exception(RouterUnavailable("error"))
            return
        self.metrics.add("routed_prompts", value=len(group))
        self.metrics.add("router_batches")
        self.metrics.add("router_seconds", value=time.monotonic() - started)
        for waiting, result in zip(group, results, strict=True):
            waiting.future.set_result(result)

    def _decide(self, group: list[_Waiting]) -> list[Routed]:
        from ..modeling.router_metis_home import is_thinking

        if self._loaded.exception() is not None:
            raise RouterUnavailable("not_loaded")
        inputs = self._inputs([waiting.prompt for waiting in group]).to(self.model.device)
        if inputs["attention_mask"].sum(-1).max() > self.settings.max_prompt_tokens:
            raise RouterUnavailable("too_long")
        decision = self.model.decide(**inputs)
        results: list[Routed] = []
        for row, waiting in enumerate(group):
            thinking, probability = bool(decision.thinking[row]), decision.thinking_probability[row].item()
            if decision.source[row] == "opening":
                results.append((thinking, None))
            elif waiting.threshold is None:
                results.append((thinking, probability))
            else:
                results.append((is_thinking(probability, waiting.threshold), probability))
        return results

    def _template_kwargs(self, prompt: Prompt) -> dict | None:
        """What the chat template takes from the request; None for a prompt that is not a chat."""
        if prompt.messages is None:
            return None
        return {name: value for name, value in prompt.template_kwargs.items() if name in self._template_names}

    def _inputs(self, prompts: list[Prompt]):
        """What the processor makes of prompts with the same template arguments, padded on the left."""
        padding = {"padding": True, "padding_side": "left"}
        template_kwargs = self._template_kwargs(prompts[0])
        if template_kwargs is not None:
            return self.processor.apply_chat_template(
                [prompt.messages for prompt in prompts],
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs=padding,
                **template_kwargs,
            )
        tokenizer, size = self.processor.tokenizer, self.model.config.text_config.vocab_size
        given = [prompt.completion for prompt in prompts]
        tokens = [tokenizer(each)["input_ids"] if isinstance(each, str) else each for each in given]
        if any(max(ids, default=size) >= size for ids in tokens):  # or none at all
            raise RouterUnavailable("error")
        return tokenizer.pad({"input_ids": tokens}, return_tensors="pt", **padding)


def _names_in(template: str) -> set[str]:
    """What a caller may pass to a chat template: the variables it reads, and options of rendering."""
    from jinja2 import meta
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    # transformers' templates have a tag of their own.
    source = template.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    read = meta.find_undeclared_variables(environment.parse(source)) - {"messages", "documents", "raise_exception"}
    return read | {"tools", "add_generation_prompt", "continue_final_message"}
