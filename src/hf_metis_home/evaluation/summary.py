"""Arithmetic on a table of outcomes."""

from datasets import Dataset


def summarise_outcomes(outcomes: Dataset, threshold: float | None) -> dict[str, dict]:
    """
    What a table of outcomes says of a model.

    Args:
        outcomes ([`~datasets.Dataset`]):
            As [`~evaluation.outcomes.collect_outcomes`] gives it.
        threshold (`float`, *optional*):
            The router's, for what is routed; None for a dense model.

    Returns:
        `dict`: task, and `"all"`, to `n`; `accuracy_thinking`, `tokens_thinking`, `accuracy_non_thinking` and
        `tokens_non_thinking` of a branch that has answers; `accuracy_routed`, `tokens_routed` and `thinking_ratio`
        where the router was asked.

    Example:

    ```python
    >>> from hf_metis_home.evaluation.outcomes import read_outcomes
    >>> from hf_metis_home.evaluation.summary import summarise_outcomes

    >>> summarise_outcomes(read_outcomes("outcomes.parquet"), threshold=0.5)["all"]["accuracy_routed"]
    ```
    """
    table = outcomes.to_pandas()
    pools = {task: part for task, part in table.groupby("task")} | {"all": table}
    return {name: _cells(part, threshold) for name, part in pools.items()}


def _cells(part, threshold: float | None) -> dict:
    cells = {"n": len(part)}
    for branch in ("thinking", "non_thinking"):
        answered = part[part[f"correct_{branch}"].notna()]
        if len(answered):
            cells[f"accuracy_{branch}"] = float(answered[f"correct_{branch}"].astype(float).mean())
            cells[f"tokens_{branch}"] = float(answered[f"tokens_{branch}"].mean())
    if part["thinking_probability"].notna().all():
        routed = part["thinking_probability"] >= threshold
        for name in ("correct", "tokens"):
            chosen = part[f"{name}_thinking"].where(routed, part[f"{name}_non_thinking"]).astype(float)
            cells["accuracy_routed" if name == "correct" else "tokens_routed"] = float(chosen.mean())
        cells["thinking_ratio"] = float(routed.mean())
    return cells
