"""One dataset out of several, in chosen shares."""

from datasets import Dataset, concatenate_datasets


def mix_datasets(datasets: dict[str, Dataset], weights: dict[str, float], rows: int | None = None, seed: int = 0):
    """
    Draw rows from several datasets in the proportion of their weights.

    A dataset that has fewer rows than its share is gone through again, in another order, so no row comes `n + 1` times
    before each has come `n` times.

    Args:
        datasets (`dict[str, Dataset]`):
            Name to rows with the same columns. Where they lack a column `task`, their name becomes it.
        weights (`dict[str, float]`):
            Name to weight, positive; only the proportions count.
        rows (`int`, *optional*):
            Rows of the result; by default so many that no row is repeated.
        seed (`int`, *optional*, defaults to 0):
            The same seed gives the same rows in the same order.

    Returns:
        [`~datasets.Dataset`], shuffled.

    Raises:
        ValueError: weights for other names than the datasets', a weight that is not positive, an empty dataset, or so
            few rows that a dataset would get none.

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
            f"`weights` names {sorted(weights)}, but `datasets` {sorted(datasets)}. Give every dataset a weight; to "
            "leave one out, leave it out of both."
        )
    if wrong := {name: weight for name, weight in weights.items() if not weight > 0}:
        raise ValueError(f"`weights` has {wrong}, but a weight must be positive. Leave the dataset out instead.")
    if empty := [name for name, dataset in datasets.items() if len(dataset) == 0]:
        raise ValueError(f"`datasets` has nothing in {', '.join(map(repr, empty))}: there is no row to draw.")
    total = sum(weights.values())
    if rows is None:
        rows = int(min(len(dataset) * total / weights[name] for name, dataset in datasets.items()) + 1e-9)
    parts = []
    for number, (name, dataset) in enumerate(datasets.items()):
        count = round(rows * weights[name] / total)
        if count == 0:
            raise ValueError(f"`rows={rows}` leaves none for {name!r} at a weight of {weights[name]} in {total}.")
        if "task" not in dataset.column_names:
            dataset = dataset.add_column("task", [name] * len(dataset))
        rounds = [dataset.shuffle(seed=seed + 1000 * number + turn) for turn in range(-(-count // len(dataset)))]
        parts.append(concatenate_datasets(rounds).select(range(count)))
    return concatenate_datasets(parts).shuffle(seed=seed)
