"""Images for the table of completions that TRL logs."""

from pathlib import Path

from datasets import Dataset, Image, List


def add_images(path: Path, images: list) -> None:
    """
    Add a column `images` to a parquet file of TRL's `log_completions`.

    Args:
        path (`Path`):
            One row per completion. Replaced once the new file is complete.
        images (`list`):
            Per row a list of PIL images, or None.
    """
    table = Dataset.from_parquet(str(path), keep_in_memory=True)
    features = table.features.copy()
    features["images"] = List(Image())
    columns = {**table.to_dict(), "images": [found or [] for found in images]}
    partial = path.with_suffix(".partial")
    Dataset.from_dict(columns, features=features).to_parquet(partial)
    partial.replace(path)
