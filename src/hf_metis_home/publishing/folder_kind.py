"""What a folder contains. This determines its checks, its card and the files that are uploaded."""

import json
from pathlib import Path
from typing import Literal

from ..hub_templates.cards import hub_id


# Copied from `conversion`, which takes seconds to import.
HYBRID, SETTINGS = "metis_home", "serving.json"
Kind = Literal["model", "dense", "adapter", "vllm", "dataset"]
KINDS = {
    "model": "a two-branch model",
    "dense": "a dense model",
    "adapter": "an adapter",
    "vllm": "an export for vLLM",
    "dataset": "rows",
}
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def kind_of(folder: Path) -> Kind:
    """
    What a folder contains.

    Args:
        folder (`Path`):
            With `serving.json` it is `"vllm"`; with the `config.json` of a two-branch model or a router `"model"`, of
            any other model `"dense"`; with `adapter_config.json` `"adapter"`; with Parquet files in `data/`
            `"dataset"`. Checked in this order.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: none of these.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"`model_name_or_path` is {str(folder)!r}, which is not a local folder. Download a Hub repository first, "
            "with `hf download OWNER/NAME --local-dir FOLDER`."
        )
    if (folder / SETTINGS).is_file():
        return "vllm"
    if (folder / "config.json").is_file():
        return "model" if _model_type(folder / "config.json") == HYBRID else "dense"
    if (folder / ADAPTER_CONFIG).is_file():
        return "adapter"
    if any((folder / "data").glob("*.parquet")):
        return "dataset"
    raise ValueError(
        f"`model_name_or_path` is {str(folder)!r}, which contains no config.json of a model, no {ADAPTER_CONFIG}, no "
        f"{SETTINGS} of an export for vLLM and no data/*.parquet with rows. Pass the folder that `metis-home upcycle`, "
        "`export`, `build-data` or a trainer wrote."
    )


def _model_type(path: Path) -> str:
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError):
        return HYBRID  # its checks say what is wrong with the file


def adapter_base(folder: Path) -> str | None:
    """The Hub id of an adapter's base model; None if its configuration has a path or nothing."""
    config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    return hub_id(config.get("base_model_name_or_path"))
