"""
A two-branch or dense model for lmms-eval, which finds it by its entry point:

    lmms-eval --model metis_home --model_args pretrained=runs/hybrid --tasks mmstar --batch_size 8

`--model_args` may have `thinking` (true or false forces a branch; the router decides by default), `thinking_threshold`,
`dtype` and `trust_remote_code`. A task gets what stands between the answer tags; a text without them, whole.

For both branches on every question, and a table to calculate with, there is `metis-home eval`.
"""

import torch
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from transformers import AutoModelForImageTextToText, AutoProcessor

from ..data import parse_completion, prompt_inputs
from ..modeling import MetisHomeForConditionalGeneration  # noqa: F401  registers two-branch models
from .accuracy import generate_answers


def manifest() -> ModelManifest:
    """What the entry point `lmms_eval.models` names."""
    return ModelManifest("metis_home", simple_class_path=f"{__name__}.MetisHome")


class MetisHome(lmms):
    """
    Answers of a model to lmms-eval's requests.

    Args:
        pretrained (`str`):
            Folder or Hub id.
        thinking (`bool`, *optional*):
            Force a branch of a two-branch model; by default its router decides.
        thinking_threshold (`float`, *optional*):
            The router's, where it is not the model's own.
        batch_size (`int`, *optional*, defaults to 1):
            Questions per call of `generate`.
        dtype (`str`, *optional*, defaults to `"auto"`):
            Type in which the weights are loaded.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Let a repository run its own code.
    """

    def __init__(
        self,
        pretrained: str,
        thinking: bool | str | None = None,
        thinking_threshold: float | None = None,
        batch_size: int | str = 1,
        dtype: str = "auto",
        trust_remote_code: bool | str = False,
        **kwargs,
    ):
        super().__init__()
        trust = {"trust_remote_code": _boolean(trust_remote_code)}
        model = AutoModelForImageTextToText.from_pretrained(pretrained, dtype=dtype, **trust)
        self.model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        self.processor = AutoProcessor.from_pretrained(pretrained, **trust)
        self.choice: dict = {"thinking": None if thinking is None else _boolean(thinking)}
        self.choice["thinking_threshold"] = None if thinking_threshold is None else float(thinking_threshold)
        self.batch_size = int(batch_size)

    def generate_until(self, requests) -> list[str]:
        # The arguments of a request: text, options of `generate`, what gives the images of a document, and which one.
        groups: dict[tuple, list[int]] = {}
        for number, request in enumerate(requests):
            options = request.args[1]
            key = (options.get("max_new_tokens", 1024), float(options.get("temperature") or 0.0))
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
                    parsed = parse_completion(answer.text).answer
                    texts[number] = answer.text if parsed is None else parsed
        return [texts[number] for number in range(len(requests))]

    def _row(self, request) -> dict:
        context, _, doc_to_visual, doc_id, task, split = request.args
        images = doc_to_visual(self.task_dict[task][split][doc_id]) or []
        return {"prompt": [{"role": "user", "content": context}], "images": list(images)}

    def loglikelihood(self, requests):
        raise NotImplementedError("metis_home answers by generating; choose a task with `output_type: generate_until`.")

    def generate_until_multi_round(self, requests):
        raise NotImplementedError("metis_home answers single questions; choose a task without several rounds.")


def _boolean(value: bool | str) -> bool:
    return value if isinstance(value, bool) else str(value).lower() == "true"
