"""What a folder holds, by what lies in it: that says how it is checked, which of its files are sent, and its card."""

import json
from pathlib import Path
from typing import Literal

from ..hub_templates.cards import hub_id


# As `conversion` has them, which takes seconds to import.
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
    What a folder holds.

    Args:
        folder (`Path`):
            `serving.json` makes it `"vllm"`; a `config.json` `"model"`, where it is of two branches or of a router
            alone, or `"dense"`; `adapter_config.json` `"adapter"`; Parquet files in `data/` `"dataset"`; in this order.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: none of these.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"`model_name_or_path` is {str(folder)!r}, which is not a folder here. Give the path of one; fetch a Hub "
            "repository first, with `hf download OWNER/NAME --local-dir FOLDER`."
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
        f"`model_name_or_path` is {str(folder)!r}, which holds no config.json of a model, no {ADAPTER_CONFIG}, no "
        f"{SETTINGS} of an export for vLLM and no data/*.parquet of rows. Give the folder that `metis-home upcycle`, "
        "`export`, `build-data` or a trainer wrote."
    )


def _model_type(path: Path) -> str:
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError):
        return HYBRID  # whose checks say what is wrong with the file


def adapter_base(folder: Path) -> str | None:
    """The Hub id of the model that an adapter changes; None where its configuration has a path or nothing."""
    config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    return hub_id(config.get("base_model_name_or_path"))
