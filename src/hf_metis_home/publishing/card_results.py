"""What a table of outcomes says about a model, as its card and the Hub take it."""

from pathlib import Path

from ..conversion.fingerprint import weights_fingerprint
from ..evaluation.calibrated_model import check_same_weights
from ..evaluation.metrics import evaluate_outcomes
from ..evaluation.policies import own_policy
from ..reports.hub_results import eval_results, model_index
from ..reports.outcomes_folder import read_outcomes_folder
from ..reports.page import decimal, interval_of, percent
from ..reports.statement import statement


MODES = {"thinking": "always thinking", "non_thinking": "never thinking"}


def card_results(outcomes: str | Path, folder: Path, threshold: float, name: str) -> tuple[dict, dict[str, list[dict]]]:
    """
    Results for a card.

    Args:
        outcomes (`str` or `Path`):
            Folder that `metis-home eval` wrote, or its `outcomes.parquet`.
        folder (`Path`):
            Of the model that they are about.
        threshold (`float`):
            The model's, by which the router decides.
        name (`str`):
            What the model is called in `model-index`.

    Returns:
        `tuple`: `results`, `measured` and `index` for [`~hub_templates.cards.model_card_parts`], and the files of
        `.eval_results/`, see [`~reports.hub_results.eval_results`].

    Raises:
        FileNotFoundError: no outcomes there.
        ValueError: outcomes of other weights.
    """
    found = read_outcomes_folder(outcomes)
    run, weights = found.run, weights_fingerprint(folder)
    check_same_weights(found.path, weights)
    metrics = evaluate_outcomes(found.outcomes, threshold)
    facts: dict = {
        "results": {task: row(cells) for task, cells in metrics["tasks"].items()},
        "measured": [*statement(metrics), how(run, threshold, weights)],
        "index": model_index(metrics["tasks"], name, run.get("tasks")) or None,
    }
    if len(metrics["tasks"]) == 2:  # one task, and all of them
        del facts["results"]["all"]
    return facts, eval_results(metrics["tasks"], run.get("tasks"), threshold, run.get("date"))


def row(cells: dict) -> dict[str, str]:
    """Of a task: how it goes as the router decides, and with either branch alone, with 95 % intervals."""
    policies = cells["policies"]
    own = policies[own_policy(policies)]
    found = {
        "questions": f"{cells['n']:,}",
        "accuracy": accuracy(own),
        "thinking ratio": percent(own["thinking_ratio"]),
        "tokens": decimal(own["tokens"]),
    }
    return found | {words: accuracy(policies[name]) for name, words in MODES.items() if policies.get(name)}


def accuracy(cell: dict) -> str:
    interval = interval_of(cell)
    return percent(cell["accuracy"]) + (f" ({percent(interval[0])} to {percent(interval[1])})" if interval else "")


def how(run: dict, threshold: float, weights: str) -> str:
    """One sentence on how it was measured; what `run.json` does not say is left out."""
    arguments, model = run.get("arguments") or {}, run.get("model") or {}
    facts = [f"threshold {threshold:.4g}"]
    if arguments.get("max_new_tokens"):
        facts.append(f"at most {arguments['max_new_tokens']} new tokens")
    if "temperature" in arguments:
        facts.append(f"temperature {arguments['temperature']:g}" if arguments["temperature"] else "greedy")
    if model.get("dtype"):
        facts.append(model["dtype"])
    if (run.get("versions") or {}).get("hf-metis-home"):
        facts.append(f"hf-metis-home {run['versions']['hf-metis-home']}")
    date = f" on {run['date'][:10]}" if run.get("date") else ""
    made = f"Measured with metis-home eval{date}: {', '.join(facts)}, weights {weights[:12]}."
    return f"In percent, with 95 % intervals. {made}"
