"""Differences of shares on the same questions, with intervals: bootstrap over questions within seeds."""

from dataclasses import dataclass

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
    return of_draws([lambda index, a=a, b=b: a[index].mean() - b[index].mean() for a, b in _pairs(ours, theirs)],
                    [len(array) for array in ours])  # fmt: skip


def _pairs(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        if a.shape != b.shape:
            raise ValueError(f"{a.shape} and {b.shape} are not of the same questions.")
        yield a, b


def of_draws(functions, counts) -> Difference:
    """From a function per seed, of numbers of questions."""
    rng = np.random.default_rng(0)
    seeds = tuple(100 * float(function(np.arange(n))) for function, n in zip(functions, counts, strict=True))
    draws = np.array(
        [[function(rng.integers(0, n, n)) for _ in range(DRAWS)] for function, n in zip(functions, counts, strict=True)]
    )
    low, high = np.quantile(100 * draws.mean(axis=0), [0.025, 0.975])
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
