"""
Rollouts by vLLM: of one branch, which to vLLM is the dense Qwen2.5-VL that `export --format dense` writes, and of
prompts with images.

Over [`~trl.generation.vllm_generation.VLLMGeneration`] of TRL 1.16, of which two private methods change: the engine
starts from a dense export, and what it gets before rollouts are the weights of the branch under their dense names.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from trl.generation.vllm_generation import VLLMGeneration
from trl.trainer import grpo_trainer

from ..conversion.checkpoint import LazyTensor
from ..conversion.low_rank import LowRankDelta, add_delta, low_rank_modules
from ..modeling.configuration_metis_home import BRANCHES, MetisHomeTextConfig


def dense_parameters(
    parameters: Iterable[tuple[str, torch.Tensor]], text_config: MetisHomeTextConfig, branch: str
) -> Iterator[tuple[str, torch.Tensor]]:
    """
    The parameters of a dense Qwen2.5-VL that one branch of a two-branch model is, one at a time.

    Args:
        parameters (iterable of `str` and `torch.Tensor`):
            Of the two-branch model, as its `named_parameters` yields them. A tensor need not outlive its turn.
        text_config ([`MetisHomeTextConfig`]):
            Of the model.
        branch (`str`):
            `"thinking"` or `"non_thinking"`.

    Returns:
        Pairs of dense names and tensors, to the last bit those that `export_checkpoint(format="dense")` writes.
    """
    changed = set(low_rank_modules(text_config)) if text_config.branch_kind == "lora" else set()
    waiting: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in parameters:
        if ".router." in name or any(f".{other}." in name for other in BRANCHES if other != branch):
            continue
        name = name.replace(f".{branch}.", ".")
        module, _, half = name.removesuffix(".weight").partition(".lora_")
        if module not in changed:
            yield name, tensor
            continue
        parts = waiting.setdefault(module, {})
        parts[half] = tensor.detach().clone()  # what is sharded is given back after its turn
        if len(parts) == 3:
            weight, A, B = (LazyTensor.of(parts[part]) for part in ("", "A", "B"))
            delta = LowRankDelta(A, B, text_config.branch_alpha / text_config.branch_rank)
            del waiting[module]
            yield f"{module}.weight", add_delta(weight, delta).read()
    if waiting:
        raise ValueError(f"The model has no whole weight or change of {sorted(waiting)}. Was it built by hand?")


class BranchGeneration(VLLMGeneration):
    """
    Args:
        branch (`str`):
            `"thinking"` or `"non_thinking"`.
        dense_model (`str`, *optional*):
            What an engine in this process starts from: a dense export of that branch.
    """

    def __init__(self, model, *args, branch: str, dense_model: str | None, **kwargs):
        self.branch, self.dense_model = branch, dense_model
        super().__init__(model, *args, **kwargs)

    def _init_vllm(self):
        name = self.model.name_or_path
        self.model.name_or_path = self.dense_model or name  # which only an engine in this process reads
        try:
            super()._init_vllm()
        finally:
            self.model.name_or_path = name

    def _iter_named_params(self):
        return dense_parameters(super()._iter_named_params(), self.model.config.text_config, self.branch)


def one_token_per_image(token_ids: list[int], image_token_id: int) -> list[int]:
    """A prompt as vLLM wants it, which makes as many tokens of one as the image needs (huggingface/trl#6294)."""
    before = [None, *token_ids]
    return [token for token, last in zip(token_ids, before, strict=False) if not token == last == image_token_id]


@contextmanager
def rollouts_of(branch: str, dense_model: str | None):
    """While it lasts, a `GRPOTrainer` that is made has vLLM roll out this branch."""
    plain = grpo_trainer.VLLMGeneration
    grpo_trainer.VLLMGeneration = partial(BranchGeneration, branch=branch, dense_model=dense_model)
    try:
        yield
    finally:
        grpo_trainer.VLLMGeneration = plain
