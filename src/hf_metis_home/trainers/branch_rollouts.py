"""
vLLM rollouts of one branch, which vLLM runs as the dense Qwen2.5-VL that `export --format dense` writes, and of prompts
with images.

Overrides two private methods of [`~trl.generation.vllm_generation.VLLMGeneration`] of TRL 1.16: the engine starts from
a dense export, and before rollouts it gets the branch's weights by their dense names.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from trl.generation.vllm_generation import VLLMGeneration
from trl.trainer import grpo_trainer

from ..conversion.checkpoint import LazyTensor
from ..conversion.low_rank import LowRankDelta, add_delta, low_rank_modules
from ..modeling.configuration_metis_home import BRANCHES, MetisHomeConfigMixin


def dense_parameters(
    parameters: Iterable[tuple[str, torch.Tensor]], config: MetisHomeConfigMixin, branch: str
) -> Iterator[tuple[str, torch.Tensor]]:
    """
    One branch of a two-branch model as the parameters of a dense Qwen2.5-VL, one at a time.

    Args:
        parameters (iterable of `str` and `torch.Tensor`):
            The two-branch model's, as `named_parameters` yields them. A tensor is not used after its turn.
        config ([`MetisHomeConfigMixin`]):
            The model's.
        branch (`str`):
            `"thinking"` or `"non_thinking"`.

    Returns:
        Pairs of dense names and tensors, equal to the last bit to what `export_checkpoint(format="dense")` writes.
    """
    changed = set(low_rank_modules(config)) if config.branch_kind == "lora" else set()
    waiting: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in parameters:
        if ".router." in name or any(f".{other}." in name for other in BRANCHES if other != branch):
            continue
        name = name.replace(f".{branch}.", ".")
        module, _, part = name.removesuffix(".weight").partition(".lora_")
        if module not in changed:
            yield name, tensor
            continue
        parts = waiting.setdefault(module, {})
        parts[part] = tensor.detach().clone()  # sharded tensors are freed after their turn
        if len(parts) == 3:
            weight, A, B = (LazyTensor.of(parts[part]) for part in ("", "A", "B"))
            delta = LowRankDelta(A, B, config.branch_alpha / config.branch_rank)
            del waiting[module]
            yield f"{module}.weight", add_delta(weight, delta).read()
    if waiting:
        raise ValueError(f"The model lacks the weight or a part of the delta of {sorted(waiting)}.")


class BranchGeneration(VLLMGeneration):
    """
    Args:
        branch (`str`):
            `"thinking"` or `"non_thinking"`.
        dense_model (`str`, *optional*):
            A dense export of that branch, which an engine in this process starts from.
    """

    def __init__(self, model, *args, branch: str, dense_model: str | None, **kwargs):
        self.branch, self.dense_model = branch, dense_model
        super().__init__(model, *args, **kwargs)

    def _init_vllm(self):
        name = self.model.name_or_path
        self.model.name_or_path = self.dense_model or name  # only read by an engine in this process
        try:
            super()._init_vllm()
        finally:
            self.model.name_or_path = name

    def _iter_named_params(self):
        return dense_parameters(super()._iter_named_params(), self.model.config, self.branch)


def one_token_per_image(token_ids: list[int], image_token_id: int) -> list[int]:
    """A prompt with one token per image, which vLLM expands to as many as the image needs (huggingface/trl#6294)."""
    before = [None, *token_ids]
    return [token for token, last in zip(token_ids, before, strict=False) if not token == last == image_token_id]


@contextmanager
def rollouts_of(branch: str, dense_model: str | None):
    """Inside this context, a new `GRPOTrainer` rolls out this branch with vLLM."""
    plain = grpo_trainer.VLLMGeneration
    grpo_trainer.VLLMGeneration = partial(BranchGeneration, branch=branch, dense_model=dense_model)
    try:
        yield
    finally:
        grpo_trainer.VLLMGeneration = plain
