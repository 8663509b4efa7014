"""Which files of a folder are uploaded, and why the others are not."""

import fnmatch
import json
import re
from pathlib import Path

from ..conversion.checkpoint import INDEX, weight_files
from ..conversion.vllm_export import ADAPTERS, MODEL, ROUTER
from ..modeling.configuration_metis_home import BRANCHES
from .folder_kind import ADAPTER_CONFIG, ADAPTER_WEIGHTS, SETTINGS, Kind


ABOUT = ("README.md", "LICENSE*", "NOTICE*", "*.png", "*.jpg", "*.jpeg", "*.svg", "*.gif")
BELONGS = (
    "config.json", "generation_config.json", "*_metis_home.py",
    "processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "chat_template.jinja", "chat_template.json", ".eval_results/*.yaml",
)  # fmt: skip
ROWS = "data/*.parquet"
RECORDS = ("upcycle.json", "fit_router.json", "branch_kind.json", "export.json")
# Files from an earlier push that would be loaded together with, or instead of, the new ones. `*` also matches slashes.
WEIGHTS_AND_CODE = ("model*.safetensors", f"*{INDEX}", "*_metis_home.py")
STALE: dict[Kind, tuple[str, ...]] = {
    "model": WEIGHTS_AND_CODE,
    "dense": WEIGHTS_AND_CODE,
    "adapter": (),
    "vllm": (*WEIGHTS_AND_CODE, f"{ROUTER}/model*.safetensors"),
    "dataset": (ROWS,),
}
REASONS = (
    ("a pickle, which can run code", ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt")),
    ("unfinished", ("*.tmp", "*.partial", "*.incomplete")),
    (
        "of a training run",
        ("checkpoint-*", "runs", "completions", "optimizer*", "scheduler*", "rng_state*", "run.json", "*_state.json"),
    ),
    ("hidden", (".*",)),
    ("weights that the model does not load", ("*.safetensors",)),
    ("names folders on this machine", RECORDS),
)  # fmt: skip
PATH = re.compile(r"""["'\s=](?:/|~|\\\\|[A-Za-z]:\\)""")  # the start of an absolute path in JSON, perhaps quoted


def files_to_send(folder: Path, kind: Kind = "model") -> dict[str, int]:
    """
    Path in the repository to size in bytes, sorted.

    Raises:
        FileNotFoundError: weights are missing.
    """
    if kind == "vllm":
        names = [SETTINGS] + _names_in(folder, MODEL, "model") + _names_in(folder, ROUTER, "model")
        names += [name for branch in BRANCHES for name in _names_in(folder, f"{ADAPTERS}/{branch}", "adapter")]
    elif kind == "dataset":
        names = _matches(folder, ROWS)
    else:
        names = _names_in(folder, "", kind)
    names += [name for pattern in ABOUT for name in _matches(folder, pattern)]
    names += [name for name in RECORDS if (folder / name).is_file() and _is_public(folder / name)]
    return {name: (folder / name).stat().st_size for name in sorted(set(names))}


def _names_in(folder: Path, part: str, kind: Kind) -> list[str]:
    """Files of the model or the adapter in a folder, or in a part of it."""
    place = folder / part
    if kind == "adapter":
        names = [name for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS) if (place / name).is_file()]
    else:
        names = [path.name for path in weight_files(place, "model_name_or_path")]
        names += [INDEX] if (place / INDEX).is_file() else []
    patterns = [pattern for pattern in BELONGS if kind == "model" or not pattern.endswith(".py")]
    names += [name for pattern in patterns for name in _matches(place, pattern)]
    return [f"{part}/{name}" if part else name for name in names]


def left_out(folder: Path, sent: dict[str, int]) -> dict[str, str]:
    """Name in the folder to the reason why it is not uploaded. A folder without any uploaded file is one entry."""
    reasons = {}
    for name in sorted(set(_matches(folder, "**/*")) - sent.keys()):
        top, slash, _ = name.partition("/")
        shown = f"{top}/" if slash and not any(other.startswith(f"{top}/") for other in sent) else name
        parts = (top, Path(name).name)
        fitting = (
            reason
            for reason, patterns in REASONS
            if any(fnmatch.fnmatch(part, pattern) for part in parts for pattern in patterns)
        )
        reasons.setdefault(shown, next(fitting, "not part of the repository"))
    return reasons


def _matches(folder: Path, pattern: str) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.glob(pattern) if path.is_file()]


def _is_public(path: Path) -> bool:
    """Whether a record seems to name nothing on this machine."""
    text = path.read_text(encoding="utf-8")
    try:
        return json.loads(text)["local_sources"] == [] and not PATH.search(text)
    except (ValueError, LookupError, TypeError):
        return False
