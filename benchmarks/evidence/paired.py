"""Differences of shares on the same questions, with intervals: bootstrap over questions within seeds."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from ..outcome_router import at_tokens


DRAWS = 2000


@dataclass(frozen=True)
class Difference:
    """Points: of the mean of the seeds, its 95 % interval, and of each seed."""

    mean: float
    low: float
    high: float
    seeds: tuple[float, ...]

    @property
    def differs(self) -> bool:
        """The interval excludes 0 and all seeds have its sign."""
        return (self.low > 0 and min(self.seeds) > 0) or (self.high < 0 and max(self.seeds) < 0)

    def __str__(self) -> str:
        seeds = ", ".join(f"{seed:+.1f}" for seed in self.seeds)
        return f"{self.mean:+.1f} ({self.low:+.1f} to {self.high:+.1f}; {seeds})"


def right(cells: dict, tasks, name: str = "correct") -> np.ndarray:
    """The 0 and 1 of some tasks, one after the other."""
    return np.array([int(digit) for task in tasks for digit in cells[task][name]], dtype=float)


def numbers(cells: dict, tasks, name: str) -> np.ndarray:
    return np.concatenate([np.array(cells[task][name], dtype=float) for task in tasks])


def difference(ours: list[np.ndarray], theirs: list[np.ndarray]) -> Difference:
    """Ours minus theirs, one array of 0 and 1 per seed, in points."""
    gains = []
    for a, b in zip(ours, theirs, strict=True):
        if a.shape != b.shape:
            raise ValueError(f"{a.shape} and {b.shape} are not of the same questions.")
        gains.append(a - b)
    draws = resampled(tuple(len(gain) for gain in gains))
    drawn = [gain[index].mean(axis=1) for gain, index in zip(gains, draws, strict=True)]
    return _interval([a.mean() - b.mean() for a, b in zip(ours, theirs, strict=True)], drawn)


@cache
def resampled(counts: tuple[int, ...]) -> list[np.ndarray]:
    """Per seed the numbers of the questions of every draw, of shape `(DRAWS, count)`."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, count, (DRAWS, count)) for count in counts]


def of_draws(functions, counts: list[int]) -> Difference:
    """From a function per seed, of numbers of questions."""
    pairs = list(zip(functions, resampled(tuple(counts)), strict=True))
    whole = [function(np.arange(count)) for function, count in zip(functions, counts, strict=True)]
    return _interval(whole, [[function(index) for index in draws] for function, draws in pairs])


def _interval(seeds, draws) -> Difference:
    low, high = np.quantile(100 * np.array(draws).mean(axis=0), [0.025, 0.975])
    seeds = tuple(100 * float(seed) for seed in seeds)
    return Difference(float(np.mean(seeds)), float(low), float(high), seeds)


def both_modes(arm: dict, tasks) -> tuple[np.ndarray, np.ndarray]:
    """Correct and tokens `(questions, 2)` of the forced modes, thinking first."""
    modes = ("thinking", "direct")
    correct = np.stack([right(arm[mode], tasks) for mode in modes], axis=1)
    return correct, np.stack([numbers(arm[mode], tasks, "tokens") for mode in modes], axis=1)


def tokens_at_half(probability, tokens) -> float:
    return float(np.where(probability >= 0.5, tokens[:, 0], tokens[:, 1]).mean())


def at_equal_tokens(ours: tuple, theirs: tuple, reference: tuple):
    """
    A function of numbers of questions: how much better ours is than theirs at the tokens of a reference. Each is
    probabilities of thinking, and correct and tokens of both modes.
    """

    def of(index):
        wanted = tokens_at_half(reference[0][index], reference[2][index])
        a, b = (at_tokens(*(values[index] for values in part), wanted) for part in (ours, theirs))
        return a - b

    return of
