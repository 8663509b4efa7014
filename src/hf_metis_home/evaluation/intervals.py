"""Bootstrap intervals over questions."""

from collections.abc import Sequence

import numpy as np


CHUNK = 2_000_000  # numbers in memory at once


def bootstrap_shares(
    values: dict[str, np.ndarray], questions: Sequence, *, seed: int = 0, draws: int = 1000
) -> dict[str, np.ndarray]:
    """
    Means of several columns over resampled questions.

    Questions are drawn with replacement, each with all its rows (samples of one question are not independent). All
    columns share the same draws, and so do calls on the same questions, so that differences are paired (Efron and
    Tibshirani 1993, chapter 13).

    Args:
        values (`dict[str, np.ndarray]`):
            Name to one number per row; rows with NaN are left out of the mean.
        questions (`Sequence[Hashable]`):
            The question of each row.
        seed (`int`, *optional*, defaults to 0):
            Seed of the draws.
        draws (`int`, *optional*, defaults to 1000):
            Number of bootstrap samples.

    Returns:
        `dict[str, np.ndarray]`: name to `draws` means.

    Example:

    ```python
    >>> import numpy as np
    >>> from hf_metis_home.evaluation.intervals import bootstrap_shares

    >>> bootstrap_shares({"right": np.ones(4)}, ["a", "b", "c", "d"], draws=2)["right"]
    array([1., 1.])
    ```
    """
    # Sorted, so that another model's table of the same questions gets the same draws.
    numbers = {question: number for number, question in enumerate(sorted(set(questions)))}
    place = np.array([numbers[question] for question in questions])
    count = len(numbers)
    columns = np.stack(list(values.values()))  # [columns, rows]
    sums, sizes = (
        np.stack([np.bincount(place, column, minlength=count) for column in part], axis=1)  # [questions, columns]
        for part in (np.nan_to_num(columns), ~np.isnan(columns))
    )
    generator = np.random.default_rng(seed)
    means = []
    step = max(1, CHUNK // count)
    for start in range(0, draws, step):
        # [size, questions]
        drawn = generator.multinomial(count, np.full(count, 1 / count), size=min(step, draws - start)).astype(float)
        with np.errstate(invalid="ignore", divide="ignore"):
            means.append((drawn @ sums) / (drawn @ sizes))
    return dict(zip(values, np.concatenate(means).T, strict=True))


def interval(draws: np.ndarray, confidence: float = 0.95) -> list[float] | None:
    """The percentile interval of bootstrap draws; None if all are NaN."""
    draws = draws[~np.isnan(draws)]
    if len(draws) == 0:
        return None
    tail = 50 * (1 - confidence)
    return [float(end) for end in np.percentile(draws, [tail, 100 - tail])]
