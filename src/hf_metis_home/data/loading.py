"""Rows from wherever `datasets` reads them."""

from pathlib import Path

from datasets import Dataset, DatasetDict, load_dataset, load_from_disk


def load_rows(
    source: str | Path,
    split: str = "train",
    argument: str = "dataset",
    config: str | None = None,
    revision: str | None = None,
) -> Dataset:
    """
    Read a dataset.

    Args:
        source (`str` or `Path`):
            A parquet or JSON-lines file, a folder that `save_to_disk` wrote or `load_dataset` reads, or a Hub id.
        split (`str`, *optional*, defaults to `"train"`):
            Which split, where there are several.
        argument (`str`, *optional*, defaults to `"dataset"`):
            How an error names the source.
        config, revision (`str`, *optional*):
            Which configuration and version of a dataset on the Hub.

    Raises:
        ValueError: the source cannot be read, or has no such split.

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
            return load_dataset(reader, data_files=name, split="train")
        saved = any((path / file).is_file() for file in ("state.json", "dataset_dict.json"))
        rows = load_from_disk(name) if saved else load_dataset(name, config, revision=revision)
    except Exception as error:  # of many libraries, by what is there
        if "corresponds to no data" in str(error):
            raise ValueError(
                f"`{argument}` is {name!r}, which has no rows. Look at what wrote or filtered it."
            ) from error
        raise ValueError(
            f"`{argument}` is {name!r}, which could not be read ({type(error).__name__}: {error}). Give a parquet or "
            "JSON-lines file, a folder that `save_to_disk` wrote or `load_dataset` reads, or a Hub id."
        ) from error
    if isinstance(rows, DatasetDict):
        if split not in rows:
            raise ValueError(f"`{argument}` is {name!r}, which has the splits {list(rows)} and no {split!r}.")
        rows = rows[split]
    return rows
