"""The tables of the whole method: means over the seeds, with intervals."""

import statistics

import numpy as np

from .report import MODELS


# Rows of the method's table: the key in the results, and the title.
STEPS = {
    "base": "base, answers directly",
    "cold_start": "cold start, dense",
    "stage_rl": "Stage-RL, dense",
    "stage_sft": "Stage-SFT, two branches, routed",
    "stage_sft_thinking": "  thinking branch",
    "stage_sft_non_thinking": "  non-thinking branch",
    "outcome_router": "router fitted on outcomes",
}
# Both tables: the key in a seed's results, the title and the rows.
TABLES = {
    "demo": ("Models from one base", {name: title for name, (title, _) in MODELS.items()}),
    "models": ("The method, step by step", STEPS),
}
COLUMNS = {"easy": "easy", "hard": "hard", "located_easy": "located, easy", "located_hard": "located, hard"}
DRAWS = 10_000  # bootstrap samples
INTERVALS = "In brackets the 95 % interval: bootstrap over seeds and their questions; too narrow with few seeds."


def rows_of(results: dict, table: str = "models") -> list[list[str]]:
    """A table, by its key in `TABLES`: a row per model or step."""
    runs = [run[table] for run in results["seeds"].values()]
    lines = []
    for step, name in TABLES[table][1].items():
        cells = [run.get(step) for run in runs]
        if None in cells:
            lines.append([name, *["–"] * (len(COLUMNS) + 2)])
            continue
        values = [_accuracy([cell[task] for cell in cells]) for task in COLUMNS]
        thinking = 100 * statistics.mean(cell["all"]["thinking_ratio"] for cell in cells)
        tokens = statistics.mean(cell["all"]["mean_tokens"] for cell in cells)
        lines.append([name, *values, f"{thinking:.1f}", f"{tokens:.1f}"])
    return lines


def _accuracy(cells: list[dict]) -> str:
    """Percent, the mean over the seeds, and its interval."""
    mean = 100 * statistics.mean(cell["accuracy"] for cell in cells)
    low, high = accuracy_interval(cells)
    return f"{mean:.1f} ({100 * low:.1f}, {100 * high:.1f})"


def accuracy_interval(cells: list[dict]) -> tuple[float, float]:
    """
    95 % bootstrap interval of an accuracy, over seeds and questions.

    Seeds are drawn with replacement, and within each seed its questions; for answers that are right or wrong the latter
    is a binomial draw. Percentiles of the mean. With one seed, over questions only; with few seeds it is too narrow.

    Args:
        cells (`list[dict]`):
            Per seed `accuracy` in [0, 1] and `n`, the number of questions.

    Returns:
        `tuple[float, float]`: its ends, in [0, 1].

    Example:

    ```python
    >>> from hf_metis_home.demo.tables import accuracy_interval

    >>> accuracy_interval([{"accuracy": 1.0, "n": 200}, {"accuracy": 1.0, "n": 200}])
    (1.0, 1.0)
    ```
    """
    generator = np.random.default_rng(0)
    accuracy, n = (np.array([cell[name] for cell in cells]) for name in ("accuracy", "n"))
    seeds = generator.integers(len(cells), size=(DRAWS, len(cells)))
    means = (generator.binomial(n[seeds], accuracy[seeds]) / n[seeds]).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def markdown(results: dict) -> str:
    """Both tables as Markdown."""
    head = ["", *(f"{label}, %" for label in COLUMNS.values()), "thinking, %", "tokens"]
    parts = []
    for table, (title, _) in TABLES.items():
        lines = [head, ["---"] + ["--:"] * (len(head) - 1), *rows_of(results, table)]
        text = "\n".join("| " + " | ".join(line).replace("  ", "&nbsp;&nbsp;") + " |" for line in lines)
        parts.append(f"**{title}**, {len(results['seeds'])} seed(s)\n\n{text}\n")
    return "\n".join([*parts, f"{INTERVALS}\n"])
