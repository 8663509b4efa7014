"""
The training inside [`fit_router`]: prompts are read once, then the router's layers are trained on them.

With `router_pooling="attention"` a prompt is its tokens, and the pooling's queries are trained too: initially they
attend to everything equally, which hides details of an image from the layers after them. With fixed pooling a prompt is
one vector, and only the two layers are trained.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import psutil
import torch
import torch.nn.functional as F
from torch.func import functional_call
from torch.nn.utils.rnn import pad_sequence

from ..data import prompt_inputs
from .router_losses import weighted_cross_entropy
from .router_preferences import Preferences


PROMPTS_PER_BATCH = 8  # in the forward pass that reads them; affects only speed
TOKEN_PROMPTS_PER_BATCH = 64  # prompts with their tokens on the accelerator at once
LOOKS = 100  # how often the held-out loss is computed
SMALLEST_SPREAD = 0.1  # of a feature, relative to the root mean square of all


class Training(NamedTuple):
    """Settings of AdamW: its steps and learning rate, rows per step, and the seed of their order."""

    steps: int
    learning_rate: float
    batch_size: int
    seed: int


def read_prompts(
    model, processor, rows, numbers: Sequence[int], progress: Callable[[int], None] | None = None
) -> dict[int, torch.FloatTensor]:
    """
    What the router reads from the prompts of some rows, by row number.

    With fixed pooling the input of its first layer, `(F,)`. With attention the hidden states of the tokens that it may
    read, `(T, hidden_size)`, in the model's dtype.

    Raises:
        ValueError: a row without a prompt, or one that the model turns into NaN or infinity; tokens that will not fit
            into free memory, estimated from the prompts read so far.
    """
    router = getattr(model, "model", model).language_model.router
    features, read, kept = {}, [], 0
    if router.pooling == "attention":
        handle = router.register_forward_pre_hook(
            lambda module, inputs: read.append([tokens[mask].cpu() for tokens, mask in zip(*inputs[:2], strict=True)])
        )
    else:
        handle = router.up_proj.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0].float()))
    try:
        for start in range(0, len(numbers), PROMPTS_PER_BATCH):
            batch = numbers[start : start + PROMPTS_PER_BATCH]
            prompts = [rows[number] for number in batch]
            for number, row in zip(batch, prompts, strict=True):
                if not row.get("prompt"):
                    raise ValueError(f"Row {number} of `rows` has no `prompt`.")
            prompts = [{**row, "images": row.get("images") or []} for row in prompts]
            model.route(**prompt_inputs(processor, prompts).to(model.device))
            features |= zip(batch, read.pop(), strict=True)
            if router.pooling == "attention":
                kept += sum(features[number].nbytes for number in batch)
                _check_memory(kept, len(features), len(numbers))
            if progress is not None:
                progress(len(batch))
    finally:
        handle.remove()
    if broken := [number for number, vector in features.items() if not vector.isfinite().all()]:
        raise ValueError(
            f"The model turns the prompts of {len(broken)} rows into NaN or infinity, first row {broken[0]}. Load it in"
            " float32 or bfloat16, and check its weights and images."
        )
    return features


def _check_memory(kept: int, done: int, count: int) -> None:
    """Raise an error if the remaining prompts need more memory than is free; the first `done` take `kept` bytes."""
    needed, free = kept / done * (count - done), psutil.virtual_memory().available
    if needed > free:
        raise ValueError(
            f"`rows` has {count:,} prompts; their tokens need about {kept / done * count / 1e9:,.1f} GB, but after "
            f"{done:,} of them only {free / 1e9:,.1f} GB of memory are free (`router_pooling='attention'` keeps all "
            "tokens). Use fewer rows, smaller images or a machine with more memory."
        )


def train_layers(
    before: list[torch.Tensor], features: torch.Tensor, preferences: Preferences, held_features: torch.Tensor,
    held_out: Preferences, training: Training,
) -> tuple[list[torch.Tensor], int]:  # fmt: skip
    """
    Train copies of the router's two layers on features `[N, F]`.

    Returns:
        The layers with the smallest loss on the held-out rows, and their step; step 0 are the given ones.
    """
    # Prompts have much in common, so their differences are small compared with their mean. Train an equivalent first
    # layer on standardised features, without blowing up features that hardly vary.
    mean, spread = features.mean(dim=0), features.std(dim=0)
    spread = spread.clamp(min=max(SMALLEST_SPREAD * spread.square().mean().sqrt().item(), 1e-6))
    features, held_features = (features - mean) / spread, (held_features - mean) / spread
    up, up_bias, score, score_bias = before
    layers = [layer.clone().requires_grad_() for layer in (up * spread, up_bias + up @ mean, score, score_bias)]

    ours = (lambda rows: layer_logits(layers, features[rows]), preferences)
    held = (lambda: layer_logits(layers, held_features), held_out)
    best, best_step = _descend(layers, ours, held, features.device, training)
    if best_step == 0:
        return before, 0
    up = best[0] / spread  # back to the features as they are
    return [up, best[1] - up @ mean, *best[2:]], best_step


def train_with_queries(
    router, tokens: list[torch.Tensor], preferences: Preferences, held_tokens: list[torch.Tensor],
    held_out: Preferences, training: Training,
) -> tuple[dict[str, torch.Tensor], int]:  # fmt: skip
    """
    Train copies of all weights of a router, including its pooling's queries, on tokens `(T, hidden_size)` per prompt.

    Returns:
        The weights by name with the smallest loss on the held-out rows, and their step; step 0 are the given ones.
    """
    before = {name: weight.detach().float().clone() for name, weight in router.named_parameters()}
    weights = {name: weight.clone().requires_grad_() for name, weight in before.items()}
    ours = (lambda rows: token_logits(router, weights, [tokens[row] for row in rows.tolist()]), preferences)
    held = (lambda: token_logits(router, weights, held_tokens), held_out)
    best, best_step = _descend(list(weights.values()), ours, held, router.score.weight.device, training)
    return (dict(zip(weights, best, strict=True)) if best_step else before), best_step


def _descend(
    weights: list[torch.Tensor], ours: tuple, held: tuple, device: torch.device, training: Training
) -> tuple[list[torch.Tensor], int]:
    """
    AdamW on `weights`, in place.

    Args:
        ours, held (`tuple`):
            A function that returns logits `[N, 2]`, of given rows or of all held-out ones, and the rows' `Preferences`.

    Returns:
        Copies of the weights with the smallest loss on the held-out rows, and their step.
    """
    (logits_of, preferences), (held_logits, held_out), steps = ours, held, training.steps
    # Divide stakes by their mean, so that the unit of the gain does not affect AdamW or the losses.
    target, weight = preferences.target.to(device), (preferences.stake / preferences.stake.mean()).to(device)
    held_target, held_weight = held_out.target.to(device), (held_out.stake / held_out.stake.mean()).to(device)
    optimizer = torch.optim.AdamW(weights, lr=training.learning_rate)
    best, best_loss, best_step = None, math.inf, 0
    batches = _batches(len(target), training.batch_size, training.seed)
    for step in range(steps + 1):
        # One step of AdamW; step 0 only measures the given weights.
        if step > 0:
            rows = next(batches).to(device)
            with torch.enable_grad():
                loss = weighted_cross_entropy(logits_of(rows), target[rows], weight[rows])
                optimizer.zero_grad()
                loss.backward()
            optimizer.step()
        # Every now and then, and at the end, keep the weights if they are the best so far.
        if step % max(1, steps // LOOKS) and step < steps:
            continue
        with torch.no_grad():
            held_loss = weighted_cross_entropy(held_logits(), held_target, held_weight).item()
        if held_loss < best_loss:
            best, best_loss, best_step = [value.detach().clone() for value in weights], held_loss, step
    return best, best_step


def _batches(count: int, batch_size: int, seed: int) -> Iterator[torch.Tensor]:
    """Batches of row numbers without end: all rows in random order, again and again."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(count, generator=generator).split(batch_size)


def layer_logits(layers: list[torch.Tensor], features: torch.Tensor) -> torch.Tensor:
    """The router's two layers, as its `forward` runs them."""
    up, up_bias, score, score_bias = layers
    return F.linear(F.silu(F.linear(features, up, up_bias)), score, score_bias)


def token_logits(router, weights: dict[str, torch.Tensor], tokens: list[torch.Tensor]) -> torch.Tensor:
    """Logits `[N, 2]` of a router with these weights for prompts, each given by its tokens `(T, hidden_size)`."""
    device = router.score.weight.device
    logits = []
    for start in range(0, len(tokens), TOKEN_PROMPTS_PER_BATCH):
        some = tokens[start : start + TOKEN_PROMPTS_PER_BATCH]
        padded = pad_sequence(some, batch_first=True).to(device)
        mask = pad_sequence([torch.ones(len(one), dtype=torch.bool) for one in some], batch_first=True).to(device)
        logits.append(functional_call(router, weights, (padded, mask, torch.zeros_like(mask))))
    return torch.cat(logits)
