"""How good a router is on questions that it was not fitted on, and how other policies compare there."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from ..evaluation.policies import expected, policy_shares
from ..evaluation.routing_metrics import candidates
from ..modeling.router_metis_home import is_thinking
from .router_losses import weighted_cross_entropy
from .router_preferences import Preferences


BINS = 10


@dataclass(frozen=True)
class RouterScore:
    """
    A router on some rows. Every row is weighted by its stake: 1 for labels, the size of the gain for outcomes.

    Args:
        accuracy (`float`):
            Share of the stakes that are sent to the branch they prefer. For outcomes, 1 minus this is the regret over
            the largest possible one.
        loss (`float`):
            Cross-entropy with the targets; `log 2` for random choice.
        ece (`float`):
            Expected calibration error in ten bins: the distance between mean probability and mean target.
        thinking_ratio (`float`):
            Share of the rows (unweighted) that go to the thinking branch.
    """

    accuracy: float
    loss: float
    ece: float
    thinking_ratio: float


def score_router(logits: torch.Tensor, preferences: Preferences, threshold: float) -> RouterScore:
    """Evaluate scores `[N, 2]` at a threshold."""
    probability = logits.softmax(dim=-1)[:, 1]
    thinking = is_thinking(probability, threshold)
    stake, target = preferences.stake, preferences.target
    # A soft label counts as the side that it leans to; one exactly between agrees with both.
    agrees = torch.where(preferences.gain == 0, True, thinking == (preferences.gain > 0))
    bins = (probability * BINS).long().clamp(max=BINS - 1)
    surplus = torch.zeros(BINS).index_add(0, bins, stake * (probability - target))  # [BINS]
    total = stake.sum()
    return RouterScore(
        accuracy=((agrees * stake).sum() / total).item(),
        loss=weighted_cross_entropy(logits, target, stake / stake.mean()).item(),
        ece=(surplus.abs().sum() / total).item(),
        thinking_ratio=thinking.float().mean().item(),
    )


def best_threshold(logits: torch.Tensor, preferences: Preferences) -> float:
    """The lowest threshold with the most utility for scores `[N, 2]`, halfway between two probabilities."""
    probability, gain = logits.softmax(dim=-1)[:, 1].double().numpy(), preferences.gain.double().numpy()
    thresholds = candidates(probability)
    gained = [gain[is_thinking(probability, threshold)].sum() for threshold in thresholds]
    return float(thresholds[np.argmax(gained)])


def compare_policies(
    choices: dict[str, torch.Tensor], preferences: Preferences, token_cost: float
) -> dict[str, dict[str, float | None]]:
    """
    Figures of given choices `[N]` by name, the first of which is `"router"`, and of the policies that need no router.

    Args:
        choices (`dict[str, torch.Tensor]`):
            Name to whether each row thinks.
        preferences ([`~trainers.router_preferences.Preferences`]):
            What is known about the rows. The oracle thinks where that gains something; it knows the outcomes, including
            their noise, so no router reaches it.
        token_cost (`float`):
            What a token costs in right answers.

    Returns:
        `dict`: name to `accuracy` (for labels, share of choices that the label agrees with), `tokens` (mean length of
        the answers; None for labels), `thinking_ratio` and `utility`, which is `accuracy - token_cost * tokens`.
    """
    shares = {name: choice.double().numpy() for name, choice in choices.items()}
    shares |= policy_shares(shares["router"], preferences.gain.numpy())
    return {name: _figures(share, preferences, token_cost) for name, share in shares.items()}


def _figures(share: np.ndarray, preferences: Preferences, token_cost: float) -> dict[str, float | None]:
    accuracy = float(expected(preferences.correct.numpy(), share).mean())
    tokens = None if preferences.tokens is None else float(expected(preferences.tokens.numpy(), share).mean())
    utility = accuracy - token_cost * (tokens or 0.0)
    return {"accuracy": accuracy, "tokens": tokens, "thinking_ratio": float(share.mean()), "utility": utility}


def calibration_scale(logits: torch.Tensor, preferences: Preferences) -> float:
    """
    The factor on scores `[N, 2]` that makes the loss on these rows smallest (temperature scaling, Guo et al. 2017).
    Decisions at 0.5 stay the same. Targets are smoothed as in Platt (1999), as if each branch had one more row:
    otherwise a router without a mistake on a few rows would become certain of everything.
    """
    count = (preferences.stake > 0).sum().item()
    target = (preferences.target.double() * count + 1) / (count + 2)
    difference = (logits[:, 1] - logits[:, 0]).double()
    stake = preferences.stake.double()
    low, high = math.log(1e-2), math.log(1e2)
    for _ in range(60):  # the loss is convex in the factor: its slope changes sign once
        middle = (low + high) / 2
        slope = (stake * difference * ((math.exp(middle) * difference).sigmoid() - target)).sum()
        low, high = (low, middle) if slope > 0 else (middle, high)
    return math.exp((low + high) / 2)
