"""What a table of outcomes says about a model, for its card and for the Hub."""

from pathlib import Path

from ..conversion.fingerprint import weights_fingerprint
from ..evaluation.metrics import answer_format_of, evaluate_outcomes
from ..evaluation.outcomes_folder import read_outcomes_folder
from ..evaluation.policies import own_policy
from ..reports.hub_results import eval_results, model_index
from ..reports.page import decimal, interval_words, percent
from ..reports.statement import statement


MODES = {"thinking": "always thinking", "non_thinking": "never thinking"}


def card_results(outcomes: str | Path, folder: Path, threshold: float, name: str) -> tuple[dict, dict[str, list[dict]]]:
    """
    Results for a card.

    Args:
        outcomes (`str` or `Path`):
            Folder that `metis-home eval` wrote, or its `outcomes.parquet`.
        folder (`Path`):
            Folder of the model that was evaluated.
        threshold (`float`):
            Threshold of the model's router.
        name (`str`):
            Name of the model in `model-index`.

    Returns:
        `tuple`: `results`, `measured` and `index` of [`~hub_templates.cards.ModelFacts`], and the files of
        `.eval_results/`, see [`~reports.hub_results.eval_results`].

    Raises:
        FileNotFoundError: no outcomes there.
        ValueError: outcomes of other weights.
    """
    found = read_outcomes_folder(outcomes)
    run, weights = found.run, weights_fingerprint(folder)
    found.check_weights(weights)
    metrics = evaluate_outcomes(found.outcomes, threshold, answer_format=answer_format_of(run))
    facts: dict = {
        "results": {task: row(cells) for task, cells in metrics["tasks"].items()},
        "measured": [*statement(metrics), how(run, threshold, weights)],
        "index": model_index(metrics["tasks"], name, run.get("tasks")) or None,
    }
    if len(metrics["tasks"]) == 2:  # one task, and all of them
        del facts["results"]["all"]
    return facts, eval_results(metrics["tasks"], run.get("tasks"), threshold, run.get("date"))


def row(cells: dict) -> dict[str, str]:
    """A task's results with the router deciding and with each branch only, with 95 % intervals."""
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
    return percent(cell["accuracy"]) + (f" ({words})" if (words := interval_words(cell)) else "")


def how(run: dict, threshold: float, weights: str) -> str:
    """One sentence on how it was measured. What `run.json` does not say is left out."""
    arguments, versions = run.get("arguments") or {}, run.get("versions") or {}
    temperature = arguments.get("temperature")
    facts = [
        f"threshold {threshold:.4g}",
        arguments.get("max_new_tokens") and f"at most {arguments['max_new_tokens']} new tokens",
        "greedy" if temperature == 0 else temperature and f"temperature {temperature:g}",
        (run.get("model") or {}).get("dtype"),
        versions.get("hf-metis-home") and f"hf-metis-home {versions['hf-metis-home']}",
        f"weights {weights[:12]}",
    ]
    date = f" on {run['date'][:10]}" if run.get("date") else ""
    return f"In percent, with 95 % intervals. Measured with metis-home eval{date}: {', '.join(filter(None, facts))}."
