"""From the figures of one or several runs to `results.json`, and what follows from them."""

import math
import statistics

from .._versions import versions


METRICS = ("accuracy", "stderr", "malformed", "thinking_ratio", "mean_tokens")


def combine(runs: list[dict], preset: str) -> dict:
    """
    `results.json` of a demo.

    Args:
        runs (`list[dict]`):
            Per seed: `seed`, `models` (model to task to figures) and `seconds` (stage to seconds).
        preset (`str`):
            The demo's preset.

    Returns:
        `dict`: `preset`, `seed` (the first), `versions`, `statement`, and the `models` and `seconds` of one run; with
        several runs their means, each with the standard deviation over seeds as `spread`, and the runs as `seeds`.
    """
    first = runs[0]
    results = {"preset": preset, "seed": first["seed"], "versions": versions()}
    results |= {"models": first["models"], "seconds": first["seconds"]}
    if len(runs) > 1:
        results["models"] = {
            model: {task: _mean([run["models"][model][task] for run in runs]) for task in tasks}
            for model, tasks in first["models"].items()
        }
        seconds = {stage: statistics.mean(run["seconds"][stage] for run in runs) for stage in first["seconds"]}
        results |= {"seconds": seconds, "seeds": runs}
    return results | {"statement": statement(results)}


def _mean(cells: list[dict]) -> dict:
    mean = {metric: statistics.mean(cell[metric] for cell in cells) for metric in METRICS}
    spread = {metric: statistics.stdev(cell[metric] for cell in cells) for metric in METRICS}
    return {**mean, "n": sum(cell["n"] for cell in cells), "spread": spread}


def statement(results: dict) -> list[str]:
    """What the figures show and what they do not, in sentences."""
    if results["preset"] == "smoke":
        return [
            "The figures mean nothing: this was a smoke run of a few steps per stage, to check the installation. For "
            "real figures, use the preset `small`."
        ]
    models = results["models"]

    def change(model: str, other: str, task: str) -> float:
        """The accuracy of a model minus that of another, or 0 if the difference may be chance."""
        cells = [models[name][task] for name in (model, other)]
        noise = 2 * math.hypot(*(cell.get("spread", {}).get("accuracy") or cell["stderr"] for cell in cells))
        gap = cells[0]["accuracy"] - cells[1]["accuracy"]
        return gap if abs(gap) > noise else 0.0

    def share(model: str, task: str, metric: str = "accuracy") -> str:
        return f"{100 * models[model][task][metric]:.1f} %"

    hybrid, control = models["hybrid"], models["dense_mixed"]
    gaps = {task: 100 * (hybrid[task]["accuracy"] - control[task]["accuracy"]) for task in ("hard", "easy")}
    forgets = change("reasoning_only", "base", "easy") < 0
    changes = {task: change("hybrid", "dense_mixed", task) for task in ("hard", "easy")}
    better, worse = ([task for task in changes if sign * changes[task] > 0] for sign in (1, -1))
    verdict = []
    if better:
        verdict.append(
            f"The hybrid does better than the dense control on {' and '.join(better)} questions, so mixed data and "
            "choosing a mode do not explain everything."
        )
    if worse:
        verdict.append(f"The hybrid does worse than the dense control on {' and '.join(worse)} questions.")
    if not better:
        verdict.append("What this does not show: that two branches are needed.")
        if change("hybrid", "base", "hard") > 0:
            verdict.append("Mixed data and choosing a mode explain the gain here.")
    return [
        f"The base is right on {share('base', 'hard')} of the hard questions, the routed hybrid on "
        f"{share('hybrid', 'hard')}; of the easy ones, {share('base', 'easy')} and {share('hybrid', 'easy')}.",
        f"Training only on written steps {'hurts' if forgets else 'does not hurt'} the easy tasks"
        f"{'' if forgets else ' here'}: {share('reasoning_only', 'easy')} after {share('base', 'easy')}.",
        f"The router sends {share('hybrid', 'hard', 'thinking_ratio')} of the hard and "
        f"{share('hybrid', 'easy', 'thinking_ratio')} of the easy questions to the thinking branch. Where the same "
        f"question is hard or easy depending on a detail of the image, it sends "
        f"{share('hybrid', 'located_hard', 'thinking_ratio')} and {share('hybrid', 'located_easy', 'thinking_ratio')}.",
        "The dense control, trained on the same mixed data for "
        f"the same number of steps and choosing its mode itself, reaches {share('dense_mixed', 'hard')} on hard and "
        f"{share('dense_mixed', 'easy')} on easy questions (hybrid minus control: {gaps['hard']:+.1f} and "
        f"{gaps['easy']:+.1f} points). {' '.join(verdict)} In any case, branches allow one mode to be trained "
        "further or switched off without touching the other.",
        "All of this is a model of about a million parameters on small images. It shows that the parts of the method "
        "work together, but says nothing about the size of the effect in a larger model.",
    ]
