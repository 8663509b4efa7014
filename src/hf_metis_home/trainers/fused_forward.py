"""The router's loss inside the forward that TRL trains through."""

import functools
import types
from collections.abc import Callable

import torch


def add_router_loss(model, router_loss: Callable) -> None:
    """
    Make the fused forward that TRL put on `model` return the router's loss as `aux_loss`.

    TRL computes the language-model loss in a forward of its own (`add_fused_lm_head`), which calls the backbone and
    drops what else it returns. Here the router's logits are taken from the backbone's output. TRL adds `aux_loss`,
    scales it over accumulation steps and logs it where `trainer.aux_loss_enabled`. It is part of the forward's output,
    as data-parallel wrappers need: a loss that is taken from a hook's result makes DDP fail.

    Args:
        model ([`MetisHomeForConditionalGeneration`]):
            Already patched by TRL's `add_fused_lm_head`.
        router_loss (`Callable`):
            Called with the outputs, the router's logits `(batch_size, 2)`, `thinking` `(batch_size,)` and the
            `router_target` `(batch_size,)` that the forward was called with, or None; gives the loss, a scalar.
    """
    fused_forward = model.forward

    @functools.wraps(type(model).forward)
    def forward(self, *args, router_target: torch.Tensor | None = None, output_router_logits=None, **kwargs):
        # With an auxiliary loss on, TRL asks for `output_router_logits`, to balance the load of a mixture of experts.
        if not kwargs.get("fused_lm_head"):
            return fused_forward(*args, **kwargs)
        backbone_outputs = []
        handle = self.base_model.register_forward_hook(lambda module, args, output: backbone_outputs.append(output))
        try:
            outputs = fused_forward(*args, **kwargs)
        finally:
            handle.remove()
        # Log-probabilities are also computed without the router, and without need of its loss.
        if (branch_logits := backbone_outputs[0].branch_logits) is not None:
            outputs.aux_loss = router_loss(outputs, branch_logits, kwargs["thinking"], router_target)
        return outputs

    model.forward = types.MethodType(forward, model)
