"""Checks of what is no two-branch model before it is published: whole, readable, and with a card that is true."""

import json
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import DatasetCard, ModelCard

from .._extras import require_extra
from ..conversion import validate_checkpoint
from ..conversion.checkpoint import open_checkpoint, open_file, weight_files
from ..conversion.validate_files import check_processor
from ..conversion.validate_weights import Folder
from ..conversion.vllm_export import ADAPTERS, MODEL, ROUTER
from ..data.rows import check_columns
from ..modeling.configuration_metis_home import BRANCHES
from .folder_kind import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Kind, adapter_base


ARGUMENT = "model_name_or_path"
WRITE = "Write it again with `metis-home export --format vllm`."


def check_weights(folder: Path) -> str:
    return f"{len(open_checkpoint(folder, ARGUMENT).tensors)} tensors, as the configuration says"


def check_dense_processor(folder: Path) -> str:
    """Also that it is this model's: transformers makes up a tokenizer where the files of one are missing."""
    files = Folder(folder)
    found = check_processor(files)
    wanted = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("image_token_id")
    if files.processor.image_token_id != wanted:
        raise ValueError(
            f"The id of the image token is {files.processor.image_token_id} in the processor and {wanted} in "
            "config.json. Put the processor of this model into the folder."
        )
    return found


def check_adapter(folder: Path) -> str:
    path = folder / ADAPTER_WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(
            f"{ADAPTER_WEIGHTS} is missing. Only safetensors are sent: save the adapter again with `save_pretrained`."
        )
    tensors = open_file(path, ARGUMENT)
    if not tensors:
        raise ValueError(f"{ADAPTER_WEIGHTS} holds no tensors, so the adapter changes nothing. Save it again.")
    return f"{len(tensors)} tensors"


def check_base(folder: Path) -> str:
    base = adapter_base(folder)
    if base is None:
        raise ValueError(
            f"{ADAPTER_CONFIG} names no model of the Hub as the one that the adapter changes, so nobody else could "
            f"load it. Name it with `metis-home card --model_name_or_path {folder} --base_model OWNER/NAME`."
        )
    return base


def check_parts(folder: Path) -> str:
    """Of an export for vLLM."""
    try:
        weights = len(weight_files(folder / MODEL, ARGUMENT))
        for branch in BRANCHES:
            check_adapter(folder / ADAPTERS / branch)
        wrong = [check for check in validate_checkpoint(folder / ROUTER) if check.ok is False and check.name != "card"]
    except (ValueError, OSError) as error:
        raise ValueError(f"The export is not whole: {error} {WRITE}") from error
    if wrong:
        raise ValueError(f"The export's router is not whole: {wrong[0].name}: {wrong[0].detail} {WRITE}")
    return f"a model in {weights} {'file' if weights == 1 else 'files'}, an adapter per branch, the router"


def check_rows(folder: Path) -> str:
    require_extra("train", "pyarrow")
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    count = 0
    for path in sorted((folder / "data").glob("*.parquet")):
        try:
            with ParquetFile(path) as file:
                columns, rows = file.schema_arrow.names, file.metadata.num_rows
        except ArrowException as error:
            raise ValueError(f"data/{path.name} is no Parquet file ({error}). Write the rows again.") from error
        check_columns(columns, f"file data/{path.name}")
        count += rows
    if not count:
        raise ValueError("There are no rows in data/. Write them again with `metis-home build-data`.")
    return f"{count} rows with the columns for training"


def check_metadata(folder: Path, kind: Kind) -> str:
    path, remedy = folder / "README.md", f"Write one with `metis-home card --model_name_or_path {folder}`."
    if not path.is_file():
        raise ValueError(f"README.md is missing, so nobody would know what this is. {remedy}")
    try:
        data = (DatasetCard if kind == "dataset" else ModelCard).load(path).data
    except Exception as error:  # of YAML, or of what the Hub asks of it
        raise ValueError(f"README.md has metadata that the Hub would refuse ({error}). Mend it.") from error
    wanted = {"dataset": None, "adapter": "peft"}.get(kind, "transformers")
    if wanted and data.library_name != wanted:
        raise ValueError(
            f"README.md has the metadata `library_name: {data.library_name}`, but must have {wanted!r}, which says how "
            "it is loaded. Write that."
        )
    return "README.md with metadata"


# Name of each check and its function, which returns what it found, or raises what is wrong.
OTHER_CHECKS: dict[Kind, dict[str, Callable[[Path], str]]] = {
    "dense": {"tensors": check_weights, "processor": check_dense_processor},
    "adapter": {"tensors": check_adapter, "base model": check_base},
    "vllm": {"parts": check_parts},
    "dataset": {"rows": check_rows},
}
