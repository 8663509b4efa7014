"""From the answers of one or several runs to `results.json`, and what may be concluded from it."""

import math
import statistics
from importlib.metadata import version

import numpy as np


PACKAGES = ("hf-metis-home", "transformers", "trl", "peft", "torch", "datasets")
METRICS = ("accuracy", "stderr", "thinking_ratio", "mean_tokens")


def combine(runs: list[dict], preset: str) -> dict:
    """
    `results.json` of a demo.

    Args:
        runs (`list[dict]`):
            Per seed: `seed`, `models` (model to task to figures) and `seconds` (stage to seconds).
        preset (`str`):
            The demo's preset.

    Returns:
        `dict`: one run's `models` and `seconds`; of several runs their means, with the standard deviation over seeds as
        `spread` beside each and the runs themselves under `seeds`. Always `preset`, `seed` (the first), `versions` and
        `statement`.
    """
    first = runs[0]
    results = {"preset": preset, "seed": first["seed"], "versions": {name: version(name) for name in PACKAGES}}
    if len(runs) == 1:
        results |= {"models": first["models"], "seconds": first["seconds"]}
    else:
        results["models"] = {
            model: {task: _mean([run["models"][model][task] for run in runs]) for task in tasks}
            for model, tasks in first["models"].items()
        }
        results["seconds"] = {
            stage: statistics.mean(run["seconds"][stage] for run in runs) for stage in first["seconds"]
        }
        results["seeds"] = runs
    results["statement"] = statement(results)
    return results


def _mean(cells: list[dict]) -> dict:
    mean = {metric: statistics.mean(cell[metric] for cell in cells) for metric in METRICS}
    spread = {metric: statistics.stdev(cell[metric] for cell in cells) for metric in METRICS}
    return {**mean, "n": sum(cell["n"] for cell in cells), "spread": spread}


def accuracy_interval(cells: list[dict], draws: int = 10_000) -> tuple[float, float]:
    """
    95 % bootstrap interval of an accuracy, over seeds and questions.

    Seeds are drawn with replacement, and within each its questions; of answers that are right or wrong the latter is a
    binomial draw. Percentiles of the mean. With one seed, over questions alone; few seeds make it too narrow.

    Args:
        cells (`list[dict]`):
            Per seed `accuracy` in [0, 1] and `n`, the number of questions.
        draws (`int`, *optional*, defaults to 10000):
            How many.

    Returns:
        `tuple[float, float]`: its ends, in [0, 1].

    Example:

    ```python
    >>> from hf_metis_home.demo.results import accuracy_interval

    >>> accuracy_interval([{"accuracy": 1.0, "n": 200}, {"accuracy": 1.0, "n": 200}])
    (1.0, 1.0)
    ```
    """
    generator = np.random.default_rng(0)
    accuracy, n = (np.array([cell[name] for cell in cells]) for name in ("accuracy", "n"))
    seeds = generator.integers(len(cells), size=(draws, len(cells)))
    means = (generator.binomial(n[seeds], accuracy[seeds]) / n[seeds]).mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def statement(results: dict) -> list[str]:
    """What the figures show and what they do not, in sentences made from the figures."""
    if results["preset"] == "smoke":
        return [
            "This was a smoke run: every stage ran for a few steps to see that all parts are in place. The figures "
            "mean nothing. For figures, run the preset `small`."
        ]
    models = results["models"]

    def change(model: str, other: str, task: str) -> float:
        """How much more often a model is right than another, 0 where that may be chance."""
        cells = [models[name][task] for name in (model, other)]
        noise = 2 * math.hypot(*(cell.get("spread", {}).get("accuracy") or cell["stderr"] for cell in cells))
        gap = cells[0]["accuracy"] - cells[1]["accuracy"]
        return gap if abs(gap) > noise else 0.0

    def share(model: str, task: str, metric: str = "accuracy") -> str:
        return f"{100 * models[model][task][metric]:.1f} %"

    gap = models["hybrid"]["hard"]["accuracy"] - models["dense_mixed"]["hard"]["accuracy"]
    easy_gap = models["hybrid"]["easy"]["accuracy"] - models["dense_mixed"]["easy"]["accuracy"]
    forgets = change("reasoning_only", "base", "easy") < 0
    changes = {task: change("hybrid", "dense_mixed", task) for task in ("hard", "easy")}
    better, worse = ([task for task in changes if sign * changes[task] > 0] for sign in (1, -1))
    verdict = []
    if better:
        verdict.append(
            f"The hybrid does better than the dense control on {' and '.join(better)} questions, so mixed data and "
            "choosing a mode are not all of it."
        )
    if worse:
        verdict.append(f"The hybrid does worse than the dense control on {' and '.join(worse)} questions.")
    if not better:
        verdict.append("What this does not show: that two branches are needed.")
        if change("hybrid", "base", "hard") > 0:
            verdict.append("Mixed data and choosing a mode explain the gain here.")
    return [
        f"On the hard tasks the base is right on {share('base', 'hard')} of the questions, the routed hybrid on "
        f"{share('hybrid', 'hard')}; on the easy tasks {share('base', 'easy')} and {share('hybrid', 'easy')}.",
        f"Training on written steps alone {'costs' if forgets else 'does not cost'} the easy tasks"
        f"{'' if forgets else ' anything here'}: {share('reasoning_only', 'easy')} after {share('base', 'easy')}.",
        f"The router sends {share('hybrid', 'hard', 'thinking_ratio')} of the hard and "
        f"{share('hybrid', 'easy', 'thinking_ratio')} of the easy questions to the thinking branch. Where one and the "
        f"same question is hard or easy by a detail of the image, it sends "
        f"{share('hybrid', 'located_hard', 'thinking_ratio')} and {share('hybrid', 'located_easy', 'thinking_ratio')}.",
        "The dense control, trained on the same mixed data for "
        f"the same number of steps and choosing its mode itself, reaches {share('dense_mixed', 'hard')} on hard and "
        f"{share('dense_mixed', 'easy')} on easy questions (hybrid minus control: {100 * gap:+.1f} and "
        f"{100 * easy_gap:+.1f} points). {' '.join(verdict)} What branches add in any case: one mode can be trained "
        "further, or switched off, without touching the other.",
        "All of it is a model of about a million parameters on small images. It shows that the method's parts work "
        "together, and says nothing about the size of the effect in a model of useful size.",
    ]
