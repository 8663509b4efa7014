"""Checks that the files of a folder are complete and can be loaded, for each kind of folder."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

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
EXPORT_AGAIN = "Export it again with `metis-home export --format vllm`."
LOADER = Path(__file__).with_name("load_isolated.py")
LONGEST = 1200  # characters of an error from other code


def load_isolated(folder: Path) -> str:
    """Loads the folder in a process that cannot import this package. Returns what was loaded."""
    with tempfile.TemporaryDirectory() as scratch:
        # Nothing is downloaded, no token can be read, and no GPU is needed.
        secrets = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN")
        environment = {name: value for name, value in os.environ.items() if name not in secrets}
        environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": scratch, "HF_MODULES_CACHE": f"{scratch}/modules"}
        environment |= {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_DISABLE_TELEMETRY": "1"}
        command = [sys.executable, "-I", str(LOADER), str(folder.resolve())]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=scratch, env=environment, stdin=subprocess.DEVNULL
        )
    problem = f"does not load: {done.stderr.strip()[-LONGEST:]}\n"
    if done.returncode == 0:
        found = json.loads(done.stdout.splitlines()[-1])
        if not found["wrong"]:
            return f"{found['model']} and {found['processor']} without this package"
        problem = f"loads with other tensors than it has: {found['wrong']}. "
    raise ValueError(
        f"Without this package the folder {problem}Save the model again with this package, which adds its code."
    )


def check_weights(folder: Path) -> str:
    return f"{len(open_checkpoint(folder, ARGUMENT).tensors)} tensors, as the configuration says"


def check_dense_processor(folder: Path) -> str:
    """Also that it belongs to this model: transformers invents a tokenizer if its files are missing."""
    files = Folder(folder)
    found = check_processor(files)
    wanted = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("image_token_id")
    if files.processor.image_token_id != wanted:
        raise ValueError(
            f"The image token has id {files.processor.image_token_id} in the processor but {wanted} in config.json. "
            "Put this model's processor into the folder."
        )
    return found


def check_adapter(folder: Path) -> str:
    path = folder / ADAPTER_WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(
            f"{ADAPTER_WEIGHTS} is missing. Only safetensors are uploaded: save the adapter again with "
            "`save_pretrained`."
        )
    tensors = open_file(path, ARGUMENT)
    if not tensors:
        raise ValueError(f"{ADAPTER_WEIGHTS} contains no tensors, so the adapter changes nothing. Save it again.")
    return f"{len(tensors)} tensors"


def check_base(folder: Path) -> str:
    base = adapter_base(folder)
    if base is None:
        raise ValueError(
            f"{ADAPTER_CONFIG} does not name a base model on the Hub, so nobody else could load the adapter. Add it "
            f"with `metis-home card --model_name_or_path {folder} --base_model OWNER/NAME`."
        )
    return base


def check_parts(folder: Path) -> str:
    """For an export for vLLM."""
    try:
        weights = len(weight_files(folder / MODEL, ARGUMENT))
        for branch in BRANCHES:
            check_adapter(folder / ADAPTERS / branch)
        wrong = [check for check in validate_checkpoint(folder / ROUTER) if check.ok is False and check.name != "card"]
    except (ValueError, OSError) as error:
        raise ValueError(f"The export is incomplete: {error} {EXPORT_AGAIN}") from error
    if wrong:
        raise ValueError(f"The export's router is incomplete: {wrong[0].name}: {wrong[0].detail} {EXPORT_AGAIN}")
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
            raise ValueError(f"data/{path.name} is not a Parquet file ({error}). Write the rows again.") from error
        check_columns(columns, f"file data/{path.name}")
        count += rows
    if not count:
        raise ValueError("data/ contains no rows. Write them again with `metis-home build-data`.")
    return f"{count} rows with the columns for training"


# Name of each check and its function, which returns what it saw or raises what is wrong.
FILE_CHECKS: dict[Kind, dict[str, Callable[[Path], str]]] = {
    "dense": {"tensors": check_weights, "processor": check_dense_processor},
    "adapter": {"tensors": check_adapter, "base model": check_base},
    "vllm": {"parts": check_parts},
    "dataset": {"rows": check_rows},
}
