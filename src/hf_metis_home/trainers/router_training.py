"""
What goes on inside [`fit_router`]: prompts are read once, and the router's layers are trained on them.

With `router_pooling="attention"` a prompt is its tokens, and the pooling's queries are trained with the layers: the
first queries look at everything alike, which hides a detail of the image from any layer behind them. With fixed pooling
a prompt is one vector, and two layers are trained.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import psutil
import torch
import torch.nn.functional as F
from torch.func import functional_call
from torch.nn.utils.rnn import pad_sequence

from ..data import prompt_inputs
from .router_losses import weighted_cross_entropy
from .router_preferences import Preferences


PROMPTS_PER_BATCH = 8  # of the forward pass that reads them; nothing depends on it
TOKEN_PROMPTS_PER_BATCH = 64  # of those whose tokens lie in the accelerator's memory at once
LOOKS = 100  # how often the held-out rows are looked at
SMALLEST_SPREAD = 0.1  # of a feature, as a share of the root mean square of all


def read_prompts(
    model, processor, rows, numbers: Sequence[int], progress: Callable[[int], None] | None = None
) -> dict[int, torch.FloatTensor]:
    """
    What the router makes of the prompts of some rows, by the number of the row.

    With fixed pooling what its first layer gets, of shape `(F,)`. With attention the hidden states of the tokens that
    it may read, of shape `(T, hidden_size)`, in the model's dtype.

    Raises:
        ValueError: a row without a prompt, or one that the model turns into NaN or infinity; tokens that will not fit
            into the memory that is free, as far as the prompts read so far tell.
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
                    raise ValueError(f"Row {number} of `rows` has no `prompt`, which is what the router reads.")
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
            f"The model turns the prompts of {len(broken)} rows into NaN or infinity, the first of them row "
            f"{broken[0]}. Load it in float32 or bfloat16, and check its weights and images."
        )
    return features


def _check_memory(kept: int, done: int, count: int) -> None:
    """An error where the prompts that are still to be read will need more bytes than are free; `kept` are of `done`."""
    needed, free = kept / done * (count - done), psutil.virtual_memory().available
    if needed > free:
        raise ValueError(
            f"`rows` are {count:,} prompts, whose tokens need about {kept / done * count / 1e9:,.1f} GB, but after "
            f"{done:,} of them {free / 1e9:,.1f} GB of memory are free. With `router_pooling='attention'` all tokens "
            "are kept. Give fewer rows or smaller images, or fit on a machine with more memory."
        )


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
    Train copies of the router's two layers on features `[N, F]`, and look at held-out ones now and then.

    Returns:
        The layers as they did best on the held-out rows, and after which step; with 0 the given ones.
    """
    # Prompts have most in common, so what tells them apart is small beside their mean. The first layer is trained as
    # one on standardised features, which it equals; features that hardly vary are not blown up.
    mean, spread = features.mean(dim=0), features.std(dim=0)
    spread = spread.clamp(min=max(SMALLEST_SPREAD * spread.square().mean().sqrt().item(), 1e-6))
    features, held_features = (features - mean) / spread, (held_features - mean) / spread
    up, up_bias, score, score_bias = before
    layers = [layer.clone().requires_grad_() for layer in (up * spread, up_bias + up @ mean, score, score_bias)]

    options: dict = {"steps": steps, "learning_rate": learning_rate, "batch_size": batch_size, "seed": seed}
    ours = (lambda rows: layer_logits(layers, features[rows]), preferences)
    held = (lambda: layer_logits(layers, held_features), held_out)
    best, best_step = _descend(layers, ours, held, features.device, **options)
    if best_step == 0:
        return before, 0
    up = best[0] / spread
    return [up, best[1] - up @ mean, *best[2:]], best_step


def train_with_queries(
    router, tokens: list[torch.Tensor], preferences: Preferences, held_tokens: list[torch.Tensor],
    held_out: Preferences, *, steps: int, learning_rate: float, batch_size: int, seed: int,
) -> tuple[dict[str, torch.Tensor], int]:  # fmt: skip
    """
    Train copies of all of a router's weights, the queries of its pooling too, on tokens `(T, hidden_size)` per prompt.

    Returns:
        The weights by name as they did best on the held-out rows, and after which step; with 0 the given ones.
    """
    before = {name: weight.detach().float().clone() for name, weight in router.named_parameters()}
    weights = {name: weight.clone().requires_grad_() for name, weight in before.items()}
    options: dict = {"steps": steps, "learning_rate": learning_rate, "batch_size": batch_size, "seed": seed}
    ours = (lambda rows: token_logits(router, weights, [tokens[row] for row in rows.tolist()]), preferences)
    held = (lambda: token_logits(router, weights, held_tokens), held_out)
    best, best_step = _descend(list(weights.values()), ours, held, router.score.weight.device, **options)
    return (dict(zip(weights, best, strict=True)) if best_step else before), best_step


def _descend(
    weights: list[torch.Tensor], ours: tuple, held: tuple, device: torch.device, *,
    steps: int, learning_rate: float, batch_size: int, seed: int,
) -> tuple[list[torch.Tensor], int]:  # fmt: skip
    """
    AdamW on `weights`, in place.

    Args:
        ours, held (`tuple`):
            A function that gives logits `[N, 2]`, of some rows and of all held-out ones, and the rows' `Preferences`.

    Returns:
        Copies of the weights at the step with the smallest loss on the held-out rows, and that step.
    """
    (logits_of, preferences), (held_logits, held_out) = ours, held
    # By its mean, so that the unit of the gain does not matter to AdamW or to the comparison of losses.
    target, weight = preferences.target.to(device), (preferences.stake / preferences.stake.mean()).to(device)
    held_target, held_weight = held_out.target.to(device), (held_out.stake / held_out.stake.mean()).to(device)
    optimizer = torch.optim.AdamW(weights, lr=learning_rate)
    best, best_loss, best_step = None, math.inf, 0
    batches = _batches(len(target), batch_size, seed)
    for step in range(steps + 1):
        if step > 0:
            rows = next(batches).to(device)
            with torch.enable_grad():
                loss = weighted_cross_entropy(logits_of(rows), target[rows], weight[rows])
                optimizer.zero_grad()
                loss.backward()
            optimizer.step()
        if step % max(1, steps // LOOKS) and step < steps:
            continue
        with torch.no_grad():
            held_loss = weighted_cross_entropy(held_logits(), held_target, held_weight).item()
        if held_loss < best_loss:
            best, best_loss, best_step = [value.detach().clone() for value in weights], held_loss, step
    return best, best_step


def _batches(count: int, batch_size: int, seed: int) -> Iterator[torch.Tensor]:
    """Numbers of rows, without end: all rows in random order, again and again."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(count, generator=generator).split(batch_size)


def layer_logits(layers: list[torch.Tensor], features: torch.Tensor) -> torch.Tensor:
    """The router's two layers, as its `forward` runs them."""
    up, up_bias, score, score_bias = layers
    return F.linear(F.silu(F.linear(features, up, up_bias)), score, score_bias)


def token_logits(router, weights: dict[str, torch.Tensor], tokens: list[torch.Tensor]) -> torch.Tensor:
    """What the router with these weights says about prompts, each given by its tokens `(T, hidden_size)`."""
    device = router.score.weight.device
    logits = []
    for start in range(0, len(tokens), TOKEN_PROMPTS_PER_BATCH):
        some = tokens[start : start + TOKEN_PROMPTS_PER_BATCH]
        padded = pad_sequence(some, batch_first=True).to(device)
        mask = pad_sequence([torch.ones(len(one), dtype=torch.bool) for one in some], batch_first=True).to(device)
        logits.append(functional_call(router, weights, (padded, mask, torch.zeros_like(mask))))
    return torch.cat(logits)
