"""Which files of a folder belong into its repository, and why the others do not."""

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
# What may stand in the repository from an earlier push, and would be loaded with, or instead of, what is sent. A star
# stands for slashes too.
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
    ("unfinished", ("*.tmp", "*.partial", "*.unfinished", "*.incomplete")),
    (
        "of a training run",
        ("checkpoint-*", "runs", "completions", "optimizer*", "scheduler*", "rng_state*", "run.json", "*_state.json"),
    ),
    ("hidden", (".*",)),
    ("weights that the model does not load", ("*.safetensors",)),
    ("names folders of this machine", RECORDS),
)  # fmt: skip
PATH = re.compile(r"""["'\s=](?:/|~|\\\\|[A-Za-z]:\\)""")  # the begin of an absolute path in JSON, maybe quoted


def files_to_send(folder: Path, kind: Kind = "model") -> dict[str, int]:
    """
    Path in the repository to bytes, sorted.

    Raises:
        FileNotFoundError: there are no weights, or not all of them.
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
    """Of a model or an adapter in a folder, or in a part of it."""
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
    """What stays here, by its name in the folder, to the reason. A folder of which nothing is sent is one entry."""
    reasons = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in sent:
            top = name.split("/")[0]
            shown = name if any(other.startswith(f"{top}/") for other in sent) or "/" not in name else f"{top}/"
            reasons.setdefault(shown, _reason(top, path.name))
    return reasons


def _reason(top: str, name: str) -> str:
    for reason, patterns in REASONS:
        if any(fnmatch.fnmatch(part, pattern) for part in (top, name) for pattern in patterns):
            return reason
    return "not a part of the repository"


def _matches(folder: Path, pattern: str) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.glob(pattern) if path.is_file()]


def _is_public(path: Path) -> bool:
    """Whether a record names nothing of this machine, as far as can be seen."""
    text = path.read_text(encoding="utf-8")
    try:
        record = json.loads(text)
    except ValueError:
        return False
    return isinstance(record, dict) and record.get("local_sources") == [] and not PATH.search(text)
