"""A router that routes sensibly at once, from a handful of examples and without training."""

import json
from pathlib import Path

import torch
from PIL import Image

from ..data import prompt_inputs
from ..modeling import MetisHomeForConditionalGeneration, MetisHomeModel


RIDGE = 0.1
MARGIN = 2.0  # what the mean example of a branch scores: a probability of 0.88, or 0.12


@torch.no_grad()
def initialise_router(model: MetisHomeForConditionalGeneration | MetisHomeModel, processor, rows: list[dict]) -> None:
    """
    Set the router's weights, in place, so that a query is nearer to the examples of one branch than to the other's.

    The score is linear in the pooled prompt and zero half-way between the two means. Its direction is Fisher's
    discriminant (Fisher 1936) with a ridge: the difference of the means, less what varies among examples of one kind,
    which for pictures is most. It can be trained further: the hidden units that it does not need keep their random
    weights. What it is worth: `docs/experiments.md`.

    Args:
        model ([`MetisHomeForConditionalGeneration`] or [`MetisHomeModel`]):
            A model with a router; only the vision tower, the embeddings, the shared layers and the router are run.
        processor ([`~transformers.Qwen2_5_VLProcessor`]):
            The model's.
        rows (`list[dict]`):
            Examples with `prompt` (chat messages), `images` (list, may be absent) and `thinking` (bool), of both kinds.

    Raises:
        ValueError: a row without a column, no row of a kind, or kinds that the router cannot tell apart.

    Example:

    ```python
    >>> from hf_metis_home import initialise_router

    >>> rows = [
    ...     {"prompt": [{"role": "user", "content": "Prove that 2 + 2 = 4."}], "thinking": True},
    ...     {"prompt": [{"role": "user", "content": "Read the sign."}], "thinking": False},
    ... ]
    >>> initialise_router(model, processor, rows)
    ```
    """
    check_examples(rows)
    router = getattr(model, "model", model).language_model.router
    pooled = []
    handle = router.up_proj.register_forward_pre_hook(lambda module, inputs: pooled.append(inputs[0][0]))
    try:
        for row in rows:
            model.route(**prompt_inputs(processor, [{"images": [], **row}]).to(model.device))
    finally:
        handle.remove()
    features = torch.stack(pooled).double()  # [N, vectors * hidden_size]
    labels = torch.tensor([row["thinking"] for row in rows], device=features.device)
    thinking, non_thinking = features[labels].mean(dim=0), features[~labels].mean(dim=0)
    difference = thinking - non_thinking
    if difference.norm() < 1e-6 * features.norm(dim=1).mean():
        raise ValueError(
            "`rows` are the same to the router in both kinds, so they do not say how to tell one from the other. Give "
            "examples that differ in words or pictures, or a deeper `router_layer`."
        )
    within = torch.cat([features[labels] - thinking, features[~labels] - non_thinking])  # [N, vectors * hidden_size]
    direction = _without_variation(difference, within)
    direction = direction * (2 * MARGIN / (direction @ difference))
    offset = direction @ (thinking + non_thinking) / 2
    # silu(z) - silu(-z) = z: two hidden units give the linear score.
    for unit, sign in ((0, 1.0), (1, -1.0)):
        router.up_proj.weight[unit] = (sign * direction).to(router.up_proj.weight)
        router.up_proj.bias[unit] = (-sign * offset).to(router.up_proj.bias)
    router.score.weight.zero_()
    router.score.bias.zero_()
    router.score.weight[1, :2] = torch.tensor([1.0, -1.0]).to(router.score.weight)
    model.config.calibration = None  # was made with another router


def _without_variation(difference: torch.Tensor, within: torch.Tensor) -> torch.Tensor:
    """
    `(C + r I)^-1 difference`, up to a factor, for the covariance `C` of the rows of `within`. The ridge `r` is `RIDGE`
    times the mean variance. Solved among the few rows (Woodbury), not among the many features.
    """
    ridge = RIDGE * within.square().sum() / within.shape[1]  # of `within.T @ within`, which is N times `C`
    if ridge == 0:  # one example of each kind
        return difference
    gram = within @ within.T + ridge * torch.eye(len(within), dtype=within.dtype, device=within.device)
    return difference - within.T @ torch.linalg.solve(gram, within @ difference)


def check_examples(rows: list[dict]) -> None:
    """An error for rows that are no examples of both kinds."""
    for number, row in enumerate(rows):
        for column in ("prompt", "thinking"):
            if column not in row:
                raise ValueError(f"`rows[{number}]` has no {column!r}. An example needs `prompt` and `thinking`.")
        if not isinstance(row["thinking"], bool):
            raise ValueError(f"`rows[{number}]['thinking']` is {row['thinking']!r}, but must be true or false.")
    for kind in (True, False):
        if not any(row["thinking"] is kind for row in rows):
            raise ValueError(f"`rows` has no example with `thinking` {kind}: the router needs some of both kinds.")


def read_examples(path: str | Path) -> list[dict]:
    """Rows from a file of JSON lines, whose `images` are paths, relative to the file. An error names the line."""
    path, rows = Path(path), []
    if not path.is_file():
        raise FileNotFoundError(
            f"`router_examples` is {str(path)!r}, which is no file. Give JSON lines, one example each."
        )
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"`router_examples`: line {number} of {str(path)!r} is no JSON ({error}).") from error
        images = [path.parent / image for image in row.get("images", [])]
        if missing := [str(image) for image in images if not image.is_file()]:
            raise FileNotFoundError(
                f"`router_examples`: line {number} of {str(path)!r} names images that are absent: {missing}."
            )
        rows.append({**row, "images": [Image.open(image).convert("RGB") for image in images]})
    return rows
