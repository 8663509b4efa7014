"""
A two-branch or dense model for lmms-eval, which loads it through an entry point:

    lmms-eval --model metis_home --model_args pretrained=runs/hybrid --tasks mmstar --batch_size 8

`--model_args` may contain `thinking` (true or false forces a branch; by default the router decides),
`thinking_threshold`, `dtype`, `revision` and `trust_remote_code`. A task gets the final answer; if there is none, the
whole text.

For a table with both branches on every question, use `metis-home eval`.
"""

import torch
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from transformers import AutoModelForImageTextToText, AutoProcessor

from ..answers import AnswerFormat
from ..data import prompt_inputs
from ..modeling import MetisHomeForConditionalGeneration  # noqa: F401  registers two-branch models
from .generation import generate_answers


def manifest() -> ModelManifest:
    """For the entry point `lmms_eval.models`."""
    return ModelManifest("metis_home", simple_class_path=f"{__name__}.MetisHome")


class MetisHome(lmms):
    """
    Answers of a model to lmms-eval's requests.

    Args:
        pretrained (`str`):
            Folder or Hub id.
        thinking (`bool`, *optional*):
            Force a branch of a two-branch model; by default, and with `"auto"`, its router decides.
        thinking_threshold (`float`, *optional*):
            Threshold of the router, if not the model's own.
        batch_size (`int`, *optional*, defaults to 1):
            Questions per call of `generate`.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Type of the loaded weights.
        revision (`str`, *optional*):
            Branch, tag or commit of a Hub repository.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Allow a repository to run its own code.
        device (`str`, *optional*):
            Where the model runs; by default on a GPU if there is one.
        max_batch_size (`int`, *optional*):
            Passed by lmms-eval to find a batch size automatically; ignored.
    """

    def __init__(
        self,
        pretrained: str,
        thinking: bool | str | int | None = None,
        thinking_threshold: float | None = None,
        batch_size: int | str = 1,
        dtype: str = "auto",
        revision: str | None = None,
        trust_remote_code: bool | str | int = False,
        device: str | None = None,
        max_batch_size: int | None = None,
    ):
        super().__init__()
        options = {"trust_remote_code": _boolean("trust_remote_code", trust_remote_code, {}), "revision": revision}
        threshold = None if thinking_threshold is None else float(thinking_threshold)
        forced = _boolean("thinking", thinking, {"auto": None, "none": None})
        self.choice: dict = {"thinking": forced, "thinking_threshold": threshold}
        model = AutoModelForImageTextToText.from_pretrained(pretrained, dtype=dtype, **options)
        self.model = model.eval().to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.answer_format = AnswerFormat.of(self.model.config)
        self.processor = AutoProcessor.from_pretrained(pretrained, **options)
        self.batch_size = int(batch_size)

    def generate_until(self, requests) -> list[str]:
        # A request's arguments: text, options of `generate`, a function that returns a document's images, the document.
        groups: dict[tuple, list[int]] = {}
        for number, request in enumerate(requests):
            options = request.args[1]
            temperature = float(options.get("temperature") or 0.0) if options.get("do_sample", True) else 0.0
            key = (options.get("max_new_tokens", 1024), temperature)
            groups.setdefault(key, []).append(number)
        texts = {}
        for (max_new_tokens, temperature), numbers in groups.items():
            numbers.sort(key=lambda number: len(requests[number].args[0]))
            for start in range(0, len(numbers), self.batch_size):
                batch = numbers[start : start + self.batch_size]
                inputs = prompt_inputs(self.processor, [self._row(requests[number]) for number in batch])
                answers = generate_answers(
                    self.model, self.processor, inputs.to(self.model.device),
                    max_new_tokens=max_new_tokens, temperature=temperature, **self.choice,
                )  # fmt: skip
                for number, answer in zip(batch, answers, strict=True):
                    final = self.answer_format.parse(answer.text).final
                    texts[number] = answer.text if final is None else final
        return [texts[number] for number in range(len(requests))]

    def _row(self, request) -> dict:
        context, _, doc_to_visual, doc_id, task, split = request.args
        images = doc_to_visual(self.task_dict[task][split][doc_id]) or []
        return {"prompt": [{"role": "user", "content": context}], "images": list(images)}

    def loglikelihood(self, requests):
        raise NotImplementedError("metis_home only generates text. Choose a task with `output_type: generate_until`.")

    def generate_until_multi_round(self, requests):
        raise NotImplementedError("metis_home answers single questions. Choose a task with one round.")


def _boolean(name: str, value: bool | str | int | None, others: dict[str, None]) -> bool | None:
    """A flag as lmms-eval's command line passes it: `true` as a bool, `1` as a number."""
    meanings = {"true": True, "1": True, "false": False, "0": False, **others}
    if str(value).lower() not in meanings:
        raise ValueError(f"`{name}` is {value!r}, but must be true{', false or auto' if others else ' or false'}.")
    return meanings[str(value).lower()]
