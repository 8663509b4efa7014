"""
Results in the two forms that the Hub reads.

- **model-index**, in the metadata of a model card: every figure of every task
  (https://github.com/huggingface/hub-docs/blob/main/modelcard.md).
- **`.eval_results/*.yaml`**, in the model's repository: one score of a benchmark, shown on the model's page and on the
  leaderboard of the benchmark's dataset (https://huggingface.co/docs/hub/eval-results). Only for tasks with a known
  dataset on the Hub, since that is where the leaderboard is.
"""

import re
from pathlib import Path

from .._folders import write_whole
from ..evaluation.policies import own_policy
from .page import decimal, interval_words, known


MODES = {"router": "", "model": "", "thinking": ", always thinking", "non_thinking": ", never thinking"}
METRICS = {"accuracy": "accuracy", "tokens": "mean generated tokens", "thinking_ratio": "thinking ratio"}


def model_index(tasks: dict[str, dict], model_name: str, sources: dict[str, dict] | None = None) -> list[dict]:
    """
    Build the `model-index` of a model card.

    Args:
        tasks (`dict[str, dict]`):
            `tasks` of [`~evaluation.metrics.evaluate_outcomes`].
        model_name (`str`):
            Name of the model.
        sources (`dict[str, dict]`, *optional*):
            Task to the dataset of its questions on the Hub: `dataset` (`owner/name`) and optionally `config`, `split`
            and `revision`. A task without one is listed under its own name.

    Returns:
        `list[dict]`: as in [`~huggingface_hub.ModelCardData`]. Unknown values are left out.

    Example:

    ```python
    >>> from hf_metis_home.reports.hub_results import model_index

    >>> model_index(evaluate_outcomes(outcomes, 0.5)["tasks"], "hybrid")[0]["results"][0]["metrics"][0]["type"]
    'accuracy'
    ```
    """
    from huggingface_hub.repocard_data import EvalResult, eval_results_to_model_index

    results = []
    for task, cells in tasks.items():
        if task == "all":
            continue
        source = (sources or {}).get(task, {})
        where = {
            "task_type": "image-text-to-text",
            "dataset_type": source.get("dataset") or slug(task),
            "dataset_name": task,
            "dataset_config": source.get("config"),
            "dataset_split": source.get("split"),
            "dataset_revision": source.get("revision"),
        }
        for policy, words in MODES.items():
            for metric, name in METRICS.items():
                value = (cells["policies"].get(policy) or {}).get(metric)
                if known(value) and not (words and metric == "thinking_ratio"):
                    figure = {"metric_type": metric, "metric_name": name + words, "metric_value": round(value, 4)}
                    results.append(EvalResult(**where, **figure))
    return eval_results_to_model_index(model_name, results) if results else []


def eval_results(
    tasks: dict[str, dict], sources: dict[str, dict] | None, threshold: float | None, date: str | None = None
) -> dict[str, list[dict]]:
    """
    Build the files of `.eval_results/`.

    Args:
        tasks (`dict[str, dict]`):
            `tasks` of [`~evaluation.metrics.evaluate_outcomes`].
        sources (`dict[str, dict]`, *optional*):
            As in [`model_index`]; `benchmark_task` is the id of the task in the dataset's `eval.yaml`, by default its
            `config` or `"default"`.
        threshold (`float`, *optional*):
            Threshold of the router; None for a dense model.
        date (`str`, *optional*):
            When the questions were answered, in ISO 8601.

    Returns:
        `dict[str, list[dict]]`: file name to its content. The value is the accuracy in percent with the router
        deciding; a benchmark may count differently.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    files: dict[str, list[dict]] = {}
    for task, cells in tasks.items():
        source = (sources or {}).get(task, {})
        policy = own_policy(cells["policies"])
        cell = cells["policies"].get(policy) or {}
        if task == "all" or not source.get("dataset") or not known(cell.get("accuracy")):
            continue
        notes = f"n = {cells['n']}"
        if interval := interval_words(cell):
            notes += f", 95 % interval {interval} %"
        if policy == "router":
            ratio = decimal(cell["thinking_ratio"], 3)
            notes = f"router decides at threshold {threshold:g}, thinking ratio {ratio}; {notes}"
        entry = EvalResultEntry(
            dataset_id=source["dataset"],
            task_id=source.get("benchmark_task") or source.get("config") or "default",
            dataset_revision=source.get("revision"),
            value=round(100 * cell["accuracy"], 2),
            date=date,
            notes=notes,
        )
        # Task names that differ only in special characters share a file, which is a list.
        files.setdefault(f"{slug(task)}.yaml", []).extend(eval_result_entries_to_yaml([entry]))
    return files


def write_eval_results(folder: Path, files: dict[str, list[dict]]) -> list[str]:
    """
    Write `.eval_results/*.yaml` into a folder. Entries of other benchmarks in a file of the same name are kept.

    Returns:
        `list[str]`: paths relative to the folder.
    """
    import yaml

    for name, entries in files.items():
        path = folder / ".eval_results" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        old = (yaml.safe_load(path.read_text(encoding="utf-8")) or []) if path.is_file() else []
        ours = {_benchmark(entry) for entry in entries}
        entries = [*(entry for entry in old if _benchmark(entry) not in ours), *entries]
        write_whole(path, yaml.safe_dump(entries, sort_keys=False, allow_unicode=True))
    return [f".eval_results/{name}" for name in files]


def _benchmark(entry: dict) -> tuple:
    dataset = entry.get("dataset") or {}
    return dataset.get("id"), dataset.get("task_id")


def slug(text: str) -> str:
    """`text` as a name for a dataset or a file: letters, digits, `-`, `_` and `.`, not hidden."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.")[:96] or "task"
