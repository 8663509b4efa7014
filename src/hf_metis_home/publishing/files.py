"""Which files of a model's folder belong into its repository, and why the others do not."""

import fnmatch
import json
import re
from pathlib import Path

from ..conversion.checkpoint import INDEX, weight_files


BELONGS = (
    "README.md", "LICENSE*", "NOTICE*", "config.json", "generation_config.json", "*_metis_home.py",
    "processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "chat_template.jinja", "chat_template.json", ".eval_results/*.yaml", "*.png", "*.jpg", "*.jpeg", "*.svg", "*.gif",
)  # fmt: skip
RECORDS = ("upcycle.json", "fit_router.json", "branch_kind.json")
# What may stand in the repository from an earlier push, and would be loaded with, or instead of, what is sent.
STALE = ("model*.safetensors", INDEX, "*_metis_home.py")
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
PATH = re.compile(r'["\s=](?:/|~|\\\\|[A-Za-z]:\\)')  # the begin of an absolute path in JSON


def files_to_send(folder: Path) -> dict[str, int]:
    """
    Path in the repository to bytes, sorted.

    Raises:
        FileNotFoundError: there are no weights, or not all of them.
    """
    weights = weight_files(folder, "model_name_or_path")
    names = [path.name for path in weights] + ([INDEX] if (folder / INDEX).is_file() else [])
    names += [name for pattern in BELONGS for name in _matches(folder, pattern)]
    names += [name for name in RECORDS if (folder / name).is_file() and _is_public(folder / name)]
    return {name: (folder / name).stat().st_size for name in sorted(set(names))}


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
    return "not a part of a model's repository"


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
