"""Loading rows from files, folders and the Hub."""

from pathlib import Path

from datasets import Dataset, DatasetDict, load_dataset, load_from_disk


def load_rows(
    source: str | Path,
    split: str = "train",
    argument: str = "dataset",
    config: str | None = None,
    revision: str | None = None,
    limit: int | None = None,
) -> Dataset:
    """
    Read a dataset.

    Args:
        source (`str` or `Path`):
            A parquet or JSON-lines file, a folder that `save_to_disk` wrote or `load_dataset` reads, or a Hub id.
        split (`str`, *optional*, defaults to `"train"`):
            The split to use, if there are several.
        argument (`str`, *optional*, defaults to `"dataset"`):
            What errors call the source.
        config, revision (`str`, *optional*):
            Configuration and revision of a dataset on the Hub.
        limit (`int`, *optional*):
            Keep only the first rows.

    Raises:
        ValueError: the source cannot be read, or does not have the split.

    Example:

    ```python
    >>> from hf_metis_home.data.loading import load_rows

    >>> rows = load_rows("runs/data", split="train")
    ```
    """
    path, name = Path(source), str(source)
    try:
        if path.is_file():
            reader = "json" if path.suffix in (".json", ".jsonl") else "parquet"
            rows = load_dataset(reader, data_files=name, split="train")
        elif any((path / file).is_file() for file in ("state.json", "dataset_dict.json")):
            rows = load_from_disk(name)
        else:
            rows = load_dataset(name, config, revision=revision)
    except Exception as error:  # from many libraries, depending on the source
        reason = (
            f"could not be read ({type(error).__name__}: {error}). Use a parquet or JSON-lines file, a folder that "
            "`save_to_disk` wrote or `load_dataset` reads, or a Hub id."
        )
        if "corresponds to no data" in str(error):
            reason = "has no rows. Check what wrote or filtered it."
        raise ValueError(f"`{argument}` is {name!r}, which {reason}") from error
    if isinstance(rows, DatasetDict):
        if split not in rows:
            raise ValueError(f"`{argument}` is {name!r}, which has no split {split!r}, only {list(rows)}.")
        rows = rows[split]
    return rows if limit is None else rows.select(range(min(limit, len(rows))))
