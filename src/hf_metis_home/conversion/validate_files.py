"""Checks of the other files in a two-branch folder: code, processor and card."""

import ast
import copy
import json
import sys
from pathlib import Path

from huggingface_hub import DatasetCard, ModelCard
from transformers import AutoProcessor

from .. import modeling
from .checkpoint import some
from .processor import prepare_processor
from .validate_weights import AGAIN, Folder


ALLOWED_IMPORTS = {"torch", "transformers"} | sys.stdlib_module_names
TOKEN_FIELDS = (
    "assistant_header_ids", "end_of_turn_id",
    "thinking_opening_ids", "non_thinking_opening_ids", "thinking_closing_ids",
)  # fmt: skip


def check_code(folder: Folder) -> str:
    # From the file, which is what other programs read; the class fills in a missing map.
    auto_map = json.loads((folder.path / "config.json").read_text(encoding="utf-8")).get("auto_map") or {}
    needed = {
        name
        for name in folder.config.default_auto_map()
        if not folder.config.is_router_only or name != "AutoModelForImageTextToText"
    }
    if missing := sorted(needed - auto_map.keys()):
        raise ValueError(f"`auto_map` in config.json lacks {missing}, which `trust_remote_code` needs. {AGAIN}")
    modules = {}
    for reference in auto_map.values():
        module, _, name = reference.rpartition(".")
        if "--" in module:
            raise ValueError(f"`auto_map` in config.json names another repository ({reference}). Save the model again.")
        _read_module(folder.path, module, modules)
        if name not in {node.name for node in modules[module].body if isinstance(node, ast.ClassDef)}:
            raise ValueError(f"`auto_map` in config.json names {reference}, but {module}.py has no such class. {AGAIN}")
    other = [path.name for path in sorted(folder.path / f"{module}.py" for module in modules) if not _is_ours(path)]
    return f"{len(modules)} files, this package's" + (f" except {', '.join(other)}" if other else "")


def foreign_code(folder: Path) -> list[str]:
    """Python files in a folder that differ from this package's. If there are none, the folder's code is ours."""
    return [path.name for path in sorted(folder.glob("*.py")) if not _is_ours(path)]


def _is_ours(path: Path) -> bool:
    installed = Path(modeling.__file__).with_name(path.name)
    return installed.is_file() and installed.read_bytes() == path.read_bytes()


def _read_module(folder: Path, module: str, modules: dict[str, ast.Module]) -> None:
    """Parse a module and the siblings it imports into `modules`. Raises an error if a user could not load it."""
    if module in modules:
        return
    path = folder / f"{module}.py"
    if not path.is_file():
        raise ValueError(f"{path.name} is missing, which `trust_remote_code` needs. {AGAIN}")
    try:
        modules[module] = tree = ast.parse(path.read_bytes(), path.name)
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{path.name} is not Python ({error}). {AGAIN}") from error
    foreign = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            foreign += [name.name for name in node.names if name.name.split(".")[0] not in ALLOWED_IMPORTS]
        elif isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
            _read_module(folder, node.module, modules)
        elif isinstance(node, ast.ImportFrom) and (node.level or node.module.split(".")[0] not in ALLOWED_IMPORTS):
            foreign.append("." * node.level + (node.module or ""))
    if foreign:
        raise ValueError(
            f"{path.name} imports {some(foreign)}, but may only import the standard library, torch, transformers and "
            "siblings (`from .sibling import Name`). Save the model again with the package's own code."
        )


def check_processor(folder: Folder) -> str:
    try:
        # False, not unset: unset asks on a terminal whether the folder's code may run.
        folder.processor = AutoProcessor.from_pretrained(folder.path, trust_remote_code=False)
        folder.processor.apply_chat_template([{"role": "user", "content": "?"}], tokenize=False)
    except Exception as error:  # missing or damaged files raise all kinds
        raise ValueError(
            f"The processor cannot be loaded or has no chat template ({type(error).__name__}: {error}). Copy the "
            "source model's with `AutoProcessor.from_pretrained(source).save_pretrained(folder)`."
        ) from error
    return f"{type(folder.processor).__name__}, {len(folder.processor.tokenizer)} tokens"


def check_token_ids(folder: Folder) -> str:
    expected = copy.deepcopy(folder.config)
    prepare_processor(folder.processor, expected)
    expected.image_token_id, expected.video_token_id = folder.processor.image_token_id, folder.processor.video_token_id
    wrong = [
        f"{name} is {getattr(folder.config, name)}, the processor's {getattr(expected, name)}"
        for name in (*TOKEN_FIELDS, "image_token_id", "video_token_id")
        if getattr(folder.config, name) != getattr(expected, name)
    ]
    if wrong:
        raise ValueError(
            "; ".join(wrong) + ". Put this model's processor into the folder, or set the ids with "
            "`hf_metis_home.conversion.prepare_processor(processor, model.config)` and save the model."
        )
    return "configuration and processor agree"


def check_card(folder: Path, library: str | None = "transformers") -> str:
    """`library` is what the metadata must name as `library_name`; None for the card of a dataset."""
    path, remedy = folder / "README.md", f"Write one with `metis-home card --model_name_or_path {folder}`."
    if not path.is_file():
        raise ValueError(f"README.md is missing. {remedy}")
    try:
        data = (ModelCard if library else DatasetCard).load(path).data
    except Exception as error:  # not YAML, or not what the Hub expects
        raise ValueError(f"README.md has metadata that the Hub would reject ({error}). Fix it.") from error
    if library and data.library_name != library:
        raise ValueError(
            f"README.md has `library_name: {data.library_name}` in its metadata, but it must be {library!r}, the "
            "library that loads the files. Change it."
        )
    return "README.md with metadata"
