"""
Fits only the router, in seconds, on prompts that are read once.

Everything before the router is frozen, so its input is computed once per prompt and kept: one vector with fixed
pooling; with `router_pooling="attention"`, which also trains the queries, the hidden states of all tokens. Branches and
shared parts stay unchanged, to the last bit.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from datasets import Dataset

from ..modeling import MetisHomeForConditionalGeneration, MetisHomeModel
from ..modeling.router_metis_home import is_thinking
from .router_preferences import preferences_from_labels, preferences_from_outcomes, split_questions
from .router_report import RouterScore, best_threshold, calibration_scale, compare_policies, score_router
from .router_training import Training, layer_logits, read_prompts, token_logits, train_layers, train_with_queries


@dataclass(frozen=True)
class RouterFit:
    """
    The result of [`fit_router`], measured on the held-out rows.

    Args:
        before, fitted, calibrated ([`~trainers.router_report.RouterScore`]):
            The router before fitting, after it, and after calibration, at the model's threshold.
        policies (`dict[str, dict]`):
            Name to `accuracy`, `tokens`, `thinking_ratio` and `utility` of the router now (`"router"`) and before
            (`"router before"`), the latter also with the threshold that was best on the rows fitted on (`"before, best
            threshold"`), and of the policies `"thinking"`, `"non_thinking"`, `"random"` and `"oracle"`.
        threshold (`float`):
            The model's `thinking_threshold`, which is unchanged.
        best_threshold_before (`float`):
            That of `"before, best threshold"`.
        scale (`float`):
            Factor on the scores from calibration; it is part of the weights.
        step (`int`):
            The step of the kept weights; 0 if none was better than the initial router.
        fitted_rows, held_out_rows, skipped_rows (`int`):
            Rows fitted on, held out, and skipped because they lack outcomes of both branches.
    """

    before: RouterScore
    fitted: RouterScore
    calibrated: RouterScore
    policies: dict[str, dict[str, float | None]]
    threshold: float
    best_threshold_before: float
    scale: float
    step: int
    fitted_rows: int
    held_out_rows: int
    skipped_rows: int


def fit_router(
    model: MetisHomeForConditionalGeneration | MetisHomeModel,
    processor,
    rows: Sequence[dict],
    *,
    outcomes: Dataset | None = None,
    token_cost: float = 0.0,
    steps: int = 1000,
    learning_rate: float = 3e-3,
    batch_size: int = 64,
    validation_fraction: float = 0.2,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> RouterFit:
    """
    Fit the router, in place, to labels or to outcomes of both branches, and calibrate its probability.

    Runs AdamW on the router's two layers, and on the queries of `router_pooling="attention"`, starting from their
    current weights, and keeps those with the smallest loss on the held-out rows. Labels are learned by cross-entropy,
    outcomes by [`~trainers.router_losses.regret_loss`].

    With attention the hidden states of all prompts are kept in memory, `hidden_size` numbers per token in the model's
    dtype: 2 GB for 1,000 prompts of 500 tokens at the 3B's 2,048 in bfloat16. If they will not fit, an error says so
    after the first few.

    Args:
        model ([`MetisHomeForConditionalGeneration`] or [`MetisHomeModel`]):
            Runs only the vision tower, the embeddings, the shared layers and the router.
        processor ([`~transformers.Qwen2_5_VLProcessor`]):
            The model's.
        rows (`Sequence[dict]` or [`~datasets.Dataset`]):
            Rows with `prompt`, `images` (may be absent), and without `outcomes` the label `thinking`: true, false or a
            share in [0, 1]. Rows with the same `task` and `id` are one question and stay together; a row without an
            `id` is a question of its own.
        outcomes ([`~datasets.Dataset`], *optional*):
            As from [`~evaluation.outcomes.collect_outcomes`], joined with the rows by `task` and `id`. The column
            `thinking` is then ignored.
        token_cost (`float`, *optional*, defaults to 0.0):
            Cost of a generated token in right answers: with 0.001 a right answer is worth 1000 tokens. Only with
            outcomes.
        steps (`int`, *optional*, defaults to 1000):
            Steps of AdamW.
        learning_rate (`float`, *optional*, defaults to 3e-3):
            AdamW's.
        batch_size (`int`, *optional*, defaults to 64):
            Rows per step.
        validation_fraction (`float`, *optional*, defaults to 0.2):
            Share of held-out questions.
        seed (`int`, *optional*, defaults to 0):
            Seed of split and order. The global random state is not touched.
        progress (`Callable`, *optional*):
            Called with the number of prompts after every batch that is read.

    Returns:
        [`RouterFit`].

    Raises:
        ValueError: no rows; missing, NaN or out-of-range labels or outcomes; no outcome of any row; fewer than two
            questions for which one of the branches is better; an option out of range; prompts that the model turns into
            NaN, or whose tokens will not fit into memory. The model is then unchanged.

    Example:

    ```python
    >>> from hf_metis_home.trainers.fit_router import fit_router

    >>> rows = [
    ...     {"prompt": [{"role": "user", "content": f"Prove that {n} is prime."}], "thinking": True} for n in range(9)
    ... ] + [{"prompt": [{"role": "user", "content": f"Read sign {n}."}], "thinking": False} for n in range(9)]
    >>> fit = fit_router(model, processor, rows)
    >>> fit.calibrated.accuracy
    1.0
    ```
    """
    # What is known of each row, divided into rows to fit on and rows to hold out.
    training = Training(steps, learning_rate, batch_size, seed)
    _check_options(len(rows), outcomes is not None, token_cost, training, validation_fraction)
    if model.config.model_type != "metis_home":
        raise ValueError(f"`model` is dense ({model.config.model_type}) and has no router. Upcycle it first.")
    if outcomes is None:
        preferences = preferences_from_labels(rows)
    else:
        preferences = preferences_from_outcomes(rows, outcomes, token_cost)
    sides = split_questions(preferences, validation_fraction, seed)
    fit, held_out = sides

    # Read all prompts once.
    router = getattr(model, "model", model).language_model.router
    features = read_prompts(model, processor, rows, preferences.rows, progress)
    fit_features, held_features = ([features[row] for row in side.rows] for side in sides)
    before = {name: weight.detach().float().clone() for name, weight in router.named_parameters()}

    # Fit copies of the weights.
    if router.pooling == "attention":
        fitted, step = train_with_queries(router, fit_features, fit, held_features, held_out, training)
    else:
        fit_features, held_features = torch.stack(fit_features), torch.stack(held_features)  # [N, F]
        layers = list(before.values())
        layers, step = train_layers(layers, fit_features, fit, held_features, held_out, training)
        fitted = dict(zip(before, layers, strict=True))

    def logits_of(weights, features):
        if router.pooling == "attention":
            return token_logits(router, weights, features).cpu()
        return layer_logits(list(weights.values()), features).cpu()

    # Calibrate, and put the weights into the model.
    with torch.no_grad():
        logits = {name: logits_of(weights, held_features) for name, weights in (("before", before), ("fitted", fitted))}
        scale = calibration_scale(logits["fitted"], held_out)
        for name, weight in router.named_parameters():
            weight.copy_(scale * fitted[name] if name.startswith("score.") else fitted[name])
        model.config.calibration = None  # belongs to the old router
        logits["calibrated"] = scale * logits["fitted"]
        fit_logits_before = logits_of(before, fit_features)

    threshold = model.config.thinking_threshold
    best = best_threshold(fit_logits_before, fit)
    probability = {name: scores.softmax(dim=-1)[:, 1] for name, scores in logits.items()}
    choices = {
        "router": is_thinking(probability["calibrated"], threshold),
        "router before": is_thinking(probability["before"], threshold),
        "before, best threshold": is_thinking(probability["before"], best),
    }
    return RouterFit(
        **{name: score_router(scores, held_out, threshold) for name, scores in logits.items()},
        policies=compare_policies(choices, held_out, token_cost),
        threshold=threshold,
        best_threshold_before=best,
        scale=scale,
        step=step,
        fitted_rows=len(fit.rows),
        held_out_rows=len(held_out.rows),
        skipped_rows=len(rows) - len(preferences.rows),
    )


def _check_options(rows: int, outcomes: bool, token_cost: float, training: Training, fraction: float) -> None:
    errors = []
    if rows == 0:
        errors.append("`rows` is empty.")
    if not (math.isfinite(token_cost) and token_cost >= 0):
        errors.append(f"`token_cost` is {token_cost!r}, but must be 0 or a positive number.")
    elif token_cost and not outcomes:
        errors.append(f"`token_cost` is {token_cost!r}, which only applies to `outcomes`. Pass them, or drop it.")
    for name, value in (("steps", training.steps), ("batch_size", training.batch_size)):
        if value < 1:
            errors.append(f"`{name}` is {value!r}, but must be at least 1.")
    if not (math.isfinite(training.learning_rate) and training.learning_rate > 0):
        errors.append(f"`learning_rate` is {training.learning_rate!r}, but must be a positive number.")
    if not 0 < fraction < 1:
        errors.append(f"`validation_fraction` is {fraction!r}, but must be between 0 and 1.")
    if errors:
        raise ValueError("\n".join(errors))
