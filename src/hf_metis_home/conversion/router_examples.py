"""Initial weights for the router from a handful of examples, without training."""

import json
from pathlib import Path

import torch
from PIL import Image

from ..data import prompt_inputs
from ..modeling import MetisHomeForConditionalGeneration, MetisHomeModel


RIDGE = 0.1
MARGIN = 2.0  # score of the mean example of a branch, a probability of 0.88 or 0.12


@torch.no_grad()
def initialise_router(model: MetisHomeForConditionalGeneration | MetisHomeModel, processor, rows: list[dict]) -> None:
    """
    Set the router's weights, in place, so that a query goes to the branch with the more similar examples.

    The score is linear in the pooled prompt and zero halfway between the two class means. Its direction is Fisher's
    linear discriminant (Fisher 1936) with a ridge: the difference of the means, discounted where examples of one class
    vary among themselves, which for images is most of it. Training can continue from there: unused hidden units keep
    their random weights. Measured in `docs/experiments.md`.

    Args:
        model ([`MetisHomeForConditionalGeneration`] or [`MetisHomeModel`]):
            Runs only the vision tower, the embeddings, the shared layers and the router.
        processor ([`~transformers.Qwen2_5_VLProcessor`]):
            The model's.
        rows (`list[dict]`):
            Examples of both classes, with `prompt` (chat messages), `images` (list, may be absent) and `thinking`
            (bool).

    Raises:
        ValueError: a row lacks a column, a class has no row, or the router cannot tell the classes apart.

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
    # What the router's first layer gets of each prompt.
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
            "The router cannot tell thinking from non-thinking `rows`. Make them differ more, or raise `router_layer`."
        )
    # Fisher's discriminant, scaled so that the means score MARGIN and -MARGIN.
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
    model.config.calibration = None  # belongs to the old router


def _without_variation(difference: torch.Tensor, within: torch.Tensor) -> torch.Tensor:
    """
    `(C + r I)^-1 difference`, up to a factor, where `C` is the covariance of the rows of `within` and the ridge `r` is
    `RIDGE` times the mean variance. Solved in the space of the few rows (Woodbury), not of the many features.
    """
    ridge = RIDGE * within.square().sum() / within.shape[1]  # for `within.T @ within`, N times `C`
    if ridge == 0:  # one example of each class
        return difference
    gram = within @ within.T + ridge * torch.eye(len(within), dtype=within.dtype, device=within.device)
    return difference - within.T @ torch.linalg.solve(gram, within @ difference)


def check_examples(rows: list[dict]) -> None:
    """Raise an error for rows that are not examples of both classes."""
    for number, row in enumerate(rows):
        if missing := [column for column in ("prompt", "thinking") if column not in row]:
            raise ValueError(f"`rows[{number}]` has no {missing[0]!r}. An example needs `prompt` and `thinking`.")
        if not isinstance(row["thinking"], bool):
            raise ValueError(f"`rows[{number}]['thinking']` is {row['thinking']!r}, but must be true or false.")
    if absent := {True, False} - {row["thinking"] for row in rows}:
        raise ValueError(f"`rows` has no example with `thinking` {max(absent)}: the router needs both.")


def read_examples(path: str | Path) -> list[dict]:
    """Rows from a JSON Lines file with `images` as paths relative to the file. Errors name the line."""
    path, rows = Path(path), []
    if not path.is_file():
        raise FileNotFoundError(f"`router_examples` is {str(path)!r}, which is not a file. Pass a JSON Lines file.")
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"`router_examples`: line {number} of {str(path)!r} is not JSON ({error}).") from error
        images = [path.parent / image for image in row.get("images", [])]
        if missing := [str(image) for image in images if not image.is_file()]:
            raise FileNotFoundError(f"`router_examples`: line {number} of {str(path)!r} has missing images: {missing}.")
        rows.append({**row, "images": [Image.open(image).convert("RGB") for image in images]})
    return rows
