"""What goes on inside [`fit_router`]: prompts are read once, and two layers are trained on them."""

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F

from ..data import prompt_inputs
from .router_losses import weighted_cross_entropy
from .router_preferences import Preferences


PROMPTS_PER_BATCH = 8  # of the forward pass that reads them; nothing depends on it
LOOKS = 100  # how often the held-out rows are looked at
SMALLEST_SPREAD = 0.1  # of a feature, as a share of the root mean square of all


def read_prompts(
    model, processor, rows, numbers: Sequence[int], progress: Callable[[int], None] | None = None
) -> dict[int, torch.FloatTensor]:
    """
    What the router's first layer gets for the prompts of some rows, by the number of the row, each of shape `(F,)`.

    Raises:
        ValueError: a row without a prompt, or one that the model turns into NaN or infinity.
    """
    router = getattr(model, "model", model).language_model.router
    features, pooled = {}, []
    handle = router.up_proj.register_forward_pre_hook(lambda module, inputs: pooled.append(inputs[0]))
    try:
        for start in range(0, len(numbers), PROMPTS_PER_BATCH):
            batch = numbers[start : start + PROMPTS_PER_BATCH]
            prompts = [rows[number] for number in batch]
            for number, row in zip(batch, prompts, strict=True):
                if not row.get("prompt"):
                    raise ValueError(f"Row {number} of `rows` has no `prompt`, which is what the router reads.")
            prompts = [{**row, "images": row.get("images") or []} for row in prompts]
            model.route(**prompt_inputs(processor, prompts).to(model.device))
            features |= zip(batch, pooled.pop().float(), strict=True)
            if progress is not None:
                progress(len(batch))
    finally:
        handle.remove()
    if broken := [number for number, vector in features.items() if not vector.isfinite().all()]:
        raise ValueError(
            f"The model turns the prompts of {len(broken)} rows into NaN or infinity, the first of them row "
            f"{broken[0]}. Load it in float32 or bfloat16, and check its weights and images."
        )
    return features


def train_layers(
    before: list[torch.Tensor],
    features: torch.Tensor,
    preferences: Preferences,
    held_features: torch.Tensor,
    held_out: Preferences,
    *,
    steps: int,
    learning_rate: float,
    batch_size: int,
    seed: int,
) -> tuple[list[torch.Tensor], int]:
    """
    Train copies of the router's layers on features `[N, F]`, and look at held-out ones now and then.

    Returns:
        The layers as they did best on the held-out rows, and after which step; with 0 the given ones.
    """
    device = features.device
    # Prompts have most in common, so what tells them apart is small beside their mean. The first layer is trained as
    # one on standardised features, which it equals; features that hardly vary are not blown up.
    mean, spread = features.mean(dim=0), features.std(dim=0)
    spread = spread.clamp(min=max(SMALLEST_SPREAD * spread.square().mean().sqrt().item(), 1e-6))
    features, held_features = (features - mean) / spread, (held_features - mean) / spread
    up, up_bias, score, score_bias = before
    layers = [layer.clone().requires_grad_() for layer in (up * spread, up_bias + up @ mean, score, score_bias)]

    # By its mean, so that the unit of the gain does not matter to AdamW or to the comparison of losses.
    target, weight = preferences.target.to(device), (preferences.stake / preferences.stake.mean()).to(device)
    held_target, held_weight = held_out.target.to(device), (held_out.stake / held_out.stake.mean()).to(device)
    optimizer = torch.optim.AdamW(layers, lr=learning_rate)
    best, best_loss, best_step = None, math.inf, 0
    batches = _batches(len(features), batch_size, seed)
    for step in range(steps + 1):
        if step > 0:
            rows = next(batches).to(device)
            with torch.enable_grad():
                loss = weighted_cross_entropy(layer_logits(layers, features[rows]), target[rows], weight[rows])
                optimizer.zero_grad()
                loss.backward()
            optimizer.step()
        if step % max(1, steps // LOOKS) and step < steps:
            continue
        with torch.no_grad():
            held_loss = weighted_cross_entropy(layer_logits(layers, held_features), held_target, held_weight).item()
        if held_loss < best_loss:
            best, best_loss, best_step = [layer.detach().clone() for layer in layers], held_loss, step
    if best_step == 0:
        return before, 0
    up = best[0] / spread
    return [up, best[1] - up @ mean, *best[2:]], best_step


def _batches(count: int, batch_size: int, seed: int) -> Iterator[torch.Tensor]:
    """Numbers of rows, without end: all rows in random order, again and again."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(count, generator=generator).split(batch_size)


def layer_logits(layers: list[torch.Tensor], features: torch.Tensor) -> torch.Tensor:
    """The router's two layers, as its `forward` runs them."""
    up, up_bias, score, score_bias = layers
    return F.linear(F.silu(F.linear(features, up, up_bias)), score, score_bias)
