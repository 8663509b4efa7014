"""What a router's scores are worth on questions that it was not fitted on, and what else could have been done there."""

import math
from dataclasses import dataclass

import torch

from ..modeling.router_metis_home import is_thinking
from .router_losses import weighted_cross_entropy
from .router_preferences import Preferences


BINS = 10


@dataclass(frozen=True)
class RouterScore:
    """
    A router on some rows. Every row counts by its stake: 1 for labels, the size of the gain for outcomes.

    Args:
        accuracy (`float`):
            Share of the stakes whose row goes to the branch that it prefers. For outcomes 1 minus this is the regret
            over the largest possible one.
        loss (`float`):
            Cross-entropy towards the targets; `log 2` is a coin.
        ece (`float`):
            Expected calibration error in ten bins of the probability: how far it is from the mean target.
        thinking_ratio (`float`):
            Share of the rows, each counting once, that go to the thinking branch.
    """

    accuracy: float
    loss: float
    ece: float
    thinking_ratio: float


@dataclass(frozen=True)
class Policy:
    """
    A way to choose branches on some rows, each counting once.

    Args:
        accuracy (`float`):
            Share of right answers; for labels, share of choices that the label agrees with.
        tokens (`float`, *optional*):
            Mean length of the answers; None for labels.
        thinking_ratio (`float`):
            Share of the rows that think.
        utility (`float`):
            `accuracy - token_cost * tokens`, which the router is fitted to.
    """

    accuracy: float
    tokens: float | None
    thinking_ratio: float
    utility: float


def score_router(logits: torch.Tensor, preferences: Preferences, threshold: float) -> RouterScore:
    """Figures of scores `[N, 2]` at a threshold."""
    probability = logits.softmax(dim=-1)[:, 1]
    thinking = is_thinking(probability, threshold)
    stake, target = preferences.stake, preferences.target
    # A soft label counts as the side that it leans to; one without a side agrees with either.
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
    """The threshold that gives scores `[N, 2]` the most utility, half-way between the probabilities it parts."""
    probability, order = logits.softmax(dim=-1)[:, 1].double().sort(descending=True)
    total = preferences.gain.double()[order].cumsum(0)  # gained by thinking on the first n + 1
    best, threshold = total[-1].item(), 0.0
    above = torch.cat([probability.new_ones(1), probability])  # the last that thinks, by how many do
    for count in range(len(probability) - 1, -1, -1):
        if above[count] == probability[count]:
            continue  # rows of one probability stay together
        value = total[count - 1].item() if count else 0.0
        if value > best:
            best, threshold = value, (above[count] + probability[count]).item() / 2
    return threshold


def compare_policies(
    thinking: dict[str, torch.Tensor], preferences: Preferences, token_cost: float
) -> dict[str, Policy]:
    """
    Given choices `[N]` by name, and the baselines: one branch for all, a coin with the first choice's thinking ratio
    (its expectation), and the better branch for each row. The latter knows the outcomes, their noise included, so that
    no router reaches it; where nothing is gained it does not think.
    """
    first = next(iter(thinking.values())).float()
    choices = {
        **{name: choice.float() for name, choice in thinking.items()},
        "all thinking": torch.ones_like(first),
        "all non-thinking": torch.zeros_like(first),
        "random": torch.full_like(first, first.mean().item()),
        "oracle": (preferences.gain > 0).float(),
    }
    return {name: _policy(share, preferences, token_cost) for name, share in choices.items()}


def _policy(share: torch.Tensor, preferences: Preferences, token_cost: float) -> Policy:
    """For shares `[N]` of thinking, of which all but those of a coin are 0 or 1."""

    def mean(values: torch.Tensor) -> float:
        return (values[:, 0] * (1 - share) + values[:, 1] * share).mean().item()

    accuracy = mean(preferences.correct)
    tokens = None if preferences.tokens is None else mean(preferences.tokens)
    return Policy(accuracy, tokens, share.mean().item(), accuracy - token_cost * (tokens or 0.0))


def calibration_scale(logits: torch.Tensor, preferences: Preferences) -> float:
    """
    The factor on scores `[N, 2]` that makes the loss on these rows smallest (temperature scaling, Guo et al. 2017).
    Decisions at 0.5 stay. Targets are drawn in as by Platt (1999), as if one more row had been seen for either branch:
    else a router without a mistake on a few rows would become certain of everything.
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
