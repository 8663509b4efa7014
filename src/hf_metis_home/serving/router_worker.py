"""The stand-alone router in a thread of its own: waiting prompts are read in batches, the event loop never waits."""

import asyncio
import logging
import queue
import threading
import time
from typing import NamedTuple

from .metrics import Counters
from .routing import Prompt
from .settings import ServingSettings


logger = logging.getLogger(__name__)
BYTES_PER_TOKEN = 16  # more than any text has: what is longer need not be counted


class Routed(NamedTuple):
    """
    Args:
        thinking (`bool`): The decision.
        probability (`float`, *optional*): The router's, None where the prompt opens an answer of a branch already.
    """

    thinking: bool
    probability: float | None


class RouterUnavailable(Exception):
    """The router cannot say; the text is one word for the metrics."""


class _Waiting(NamedTuple):
    prompt: Prompt
    threshold: float | None
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future


class RouterWorker:
    """
    Asks the exported router, as `model.route()` would answer.

    Args:
        settings ([`ServingSettings`]): Folder and device of the router, limits.
        counters ([`~serving.metrics.Counters`], *optional*): Where batches are counted.
    """

    def __init__(self, settings: ServingSettings, counters: Counters | None = None):
        self.settings, self.counters = settings, counters or Counters()
        self._queue = queue.Queue(settings.max_pending)
        self._thread: threading.Thread | None = None
        self._loaded = threading.Event()
        self._problem: Exception | None = None
        self._starting, self._stopped = threading.Lock(), False

    def start(self) -> None:
        """Start the thread, which loads the router first. Further calls do nothing."""
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="metis-home-router", daemon=True)
                self._thread.start()

    async def wait_until_loaded(self) -> None:
        """Start, and raise what loading raised."""
        self.start()
        await asyncio.to_thread(self._loaded.wait)
        if self._problem is not None:
            raise self._problem

    def stop(self) -> None:
        """End the thread after the batch that it reads; what waits gets no answer."""
        if self._thread is not None:
            self._stopped = True
            try:
                self._queue.put_nowait(None)
            except queue.Full:
                pass  # it looks at the flag between batches
            self._thread.join(timeout=60)

    @property
    def pending(self) -> int:
        return self._queue.qsize()

    async def route(self, prompt: Prompt, threshold: float | None) -> Routed:
        """
        The decision for a prompt.

        Raises:
            RouterUnavailable: `"not_loaded"`, `"overload"`, `"timeout"`, `"too_long"` or `"error"`.
        """
        self.start()
        if self._problem is not None:
            raise RouterUnavailable("not_loaded")
        if prompt.size > BYTES_PER_TOKEN * self.settings.max_prompt_tokens:
            raise RouterUnavailable("too_long")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(prompt, threshold, loop, loop.create_future())
        try:
            self._queue.put_nowait(waiting)
        except queue.Full:
            raise RouterUnavailable("overload") from None
        try:
            async with asyncio.timeout(self.settings.router_timeout):
                return await waiting.future
        except TimeoutError:
            raise RouterUnavailable("timeout") from None

    def _run(self) -> None:
        try:
            self._load()
        except Exception as error:  # noqa: BLE001  told to whoever waits for it
            self._problem = error
        finally:
            self._loaded.set()
        while not self._stopped and (first := self._queue.get()) is not None:
            batch = self._batch(first)
            if self._problem is not None:
                self._answer(batch, [RouterUnavailable("not_loaded")] * len(batch))
            elif batch:
                self._answer(batch, self._decide_all(batch))

    def _load(self) -> None:
        from transformers import AutoModel, AutoProcessor

        from ..modeling import MetisHomeModel  # noqa: F401  registers it

        folder = self.settings.router
        self.model = AutoModel.from_pretrained(folder, dtype="auto").eval().to(self.settings.router_device)
        self.processor = AutoProcessor.from_pretrained(folder)
        self._template_names = _names_in(self.processor.chat_template)

    def _batch(self, first: _Waiting) -> list[_Waiting]:
        """What waits now, up to the size of a batch; whose caller has gone is left out."""
        batch, pixels = [], 0
        while first is not None:
            if not first.future.done():
                batch.append(first)
                pixels += first.prompt.pixels
            if len(batch) >= self.settings.max_batch or pixels > self.settings.max_image_pixels // 2:
                break
            try:
                first = self._queue.get_nowait()
            except queue.Empty:
                break
        return batch

    def _answer(self, batch: list[_Waiting], results: list[Routed | Exception]) -> None:
        for waiting, result in zip(batch, results, strict=True):
            try:
                waiting.loop.call_soon_threadsafe(_resolve, waiting.future, result)
            except RuntimeError:  # the loop is closed: nobody waits
                continue

    def _decide_all(self, batch: list[_Waiting]) -> list[Routed | Exception]:
        """One result per prompt. Where a batch fails each is read alone, so that one cannot spoil the others."""
        started = time.monotonic()
        results: list[Routed | Exception] = [RouterUnavailable("error")] * len(batch)
        groups = {}  # chats are rendered together where they say the same to the template
        for place, waiting in enumerate(batch):
            kwargs = self._template_kwargs(waiting.prompt)
            groups.setdefault(repr(kwargs), (kwargs, []))[1].append(place)
        for kwargs, places in groups.values():
            found = self._try([batch[place] for place in places], kwargs)
            if len(places) > 1 and any(isinstance(result, Exception) for result in found):
                found = [self._try([batch[place]], kwargs)[0] for place in places]
            for place, result in zip(places, found, strict=True):
                results[place] = result
        self.counters.add("routed_prompts", len(batch))
        self.counters.add("router_batches")
        self.counters.add("router_seconds", time.monotonic() - started)
        return results

    def _try(self, batch: list[_Waiting], template_kwargs: dict | None) -> list[Routed | Exception]:
        try:
            return self._decide(batch, template_kwargs)
        except RouterUnavailable as error:
            return [error] * len(batch)
        except Exception:  # noqa: BLE001  of template, processor and model, on whatever a caller sent
            logger.warning("The router could not read a prompt; the fallback answers.", exc_info=True)
            return [RouterUnavailable("error")] * len(batch)

    def _template_kwargs(self, prompt: Prompt) -> dict | None:
        """What the chat template takes from the request; None for a prompt that is no chat."""
        if prompt.messages is None:
            return None
        ours = ("tools", "add_generation_prompt", "continue_final_message")
        names = self._template_names.union(ours)
        return {name: value for name, value in prompt.template_kwargs.items() if name in names}

    def _decide(self, batch: list[_Waiting], template_kwargs: dict | None) -> list[Routed | Exception]:
        """As `generate` decides: the branch whose answer the prompt opens already, else the router's."""
        import torch

        from ..modeling import MetisHomeForConditionalGeneration as Generating

        limit = self.settings.max_prompt_tokens
        with torch.no_grad():
            inputs = self._inputs([waiting.prompt for waiting in batch], template_kwargs).to(self.model.device)
            if inputs["attention_mask"].sum(-1).max() > limit:
                raise RouterUnavailable("too_long")
            # Both need nothing of a model but its configuration.
            prefills = Generating._prefills(self.model, inputs["input_ids"], inputs["attention_mask"])
            opened = [Generating._opened_branch(self.model, prefill) for prefill in prefills]
            probabilities = self.model.route(**inputs).thinking_probability
            default = self.settings.thinking_threshold
            default = self.model.config.thinking_threshold if default is None else default
            results: list[Routed | Exception] = []
            for waiting, probability, branch in zip(batch, probabilities, opened, strict=True):
                threshold = default if waiting.threshold is None else waiting.threshold
                if branch >= 0:
                    results.append(Routed(bool(branch), None))
                else:
                    # Compared as `route` does, in the precision of the router.
                    results.append(Routed(bool(probability >= threshold), probability.item()))
        return results

    def _inputs(self, prompts: list[Prompt], template_kwargs: dict | None):
        """What the processor makes of prompts of one kind, padded on the left."""
        padding = {"padding": True, "padding_side": "left"}
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
        tokens = [tokenizer(prompt.text)["input_ids"] if prompt.tokens is None else prompt.tokens for prompt in prompts]
        if any(max(ids, default=-1) >= size or not ids for ids in tokens):
            raise RouterUnavailable("error")
        return tokenizer.pad({"input_ids": tokens}, return_tensors="pt", **padding)


def _names_in(template: str) -> set[str]:
    """Variables that a chat template reads, but for those that are not a caller's to set."""
    from jinja2 import meta
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    # transformers' templates have a tag of their own.
    source = template.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    return meta.find_undeclared_variables(environment.parse(source)) - {"messages", "documents", "raise_exception"}


def _resolve(future: asyncio.Future, result: Routed | Exception) -> None:
    if future.done():  # timed out, or its caller has gone
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
