"""Mixing datasets in given proportions."""

from datasets import Dataset, concatenate_datasets


def mix_datasets(datasets: dict[str, Dataset], weights: dict[str, float], rows: int | None = None, seed: int = 0):
    """
    Sample rows from several datasets in proportion to their weights.

    A dataset with fewer rows than its share is repeated in another order, so that no row appears `n + 1` times before
    each has appeared `n` times.

    Args:
        datasets (`dict[str, Dataset]`):
            Rows by name, all with the same columns. Rows without a column `task` get their name as the task.
        weights (`dict[str, float]`):
            Positive weights by name; only their proportions count.
        rows (`int`, *optional*):
            Rows of the result; by default as many as possible without repeating any.
        seed (`int`, *optional*, defaults to 0):
            The same seed gives the same rows in the same order.

    Returns:
        [`~datasets.Dataset`], shuffled.

    Raises:
        ValueError: names of weights and datasets differ, a weight is not positive, a dataset is empty, or `rows` is so
            small that a dataset would get none.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from hf_metis_home.data.mixing import mix_datasets

    >>> math = Dataset.from_dict({"solution": ["7", "8"]})
    >>> general = Dataset.from_dict({"solution": ["yes", "no", "a dog"]})
    >>> mix_datasets({"math": math, "general": general}, {"math": 1, "general": 1}).num_rows
    4
    ```
    """
    if set(weights) != set(datasets):
        raise ValueError(
            f"`weights` names {sorted(weights)}, but `datasets` names {sorted(datasets)}. Give every dataset a weight; "
            "to exclude one, remove it from both."
        )
    if wrong := {name: weight for name, weight in weights.items() if not weight > 0}:
        raise ValueError(f"`weights` has {wrong}, but must be positive. To exclude a dataset, remove it.")
    if empty := [name for name, dataset in datasets.items() if len(dataset) == 0]:
        raise ValueError(f"`datasets` has no rows in {', '.join(map(repr, empty))}. Remove what is empty.")
    total = sum(weights.values())
    if rows is None:
        rows = int(min(len(dataset) * total / weights[name] for name, dataset in datasets.items()) + 1e-9)
    parts = []
    for number, (name, dataset) in enumerate(datasets.items()):
        count = round(rows * weights[name] / total)
        if count == 0:
            raise ValueError(f"`rows={rows}` leaves no row for {name!r}, with weight {weights[name]} of {total}.")
        if "task" not in dataset.column_names:
            dataset = dataset.add_column("task", [name] * len(dataset))
        rounds = [dataset.shuffle(seed=seed + 1000 * number + turn) for turn in range(-(-count // len(dataset)))]
        parts.append(concatenate_datasets(rounds).select(range(count)))
    return concatenate_datasets(parts).shuffle(seed=seed)
