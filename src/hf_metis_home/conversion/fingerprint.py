"""Fingerprints of a folder's weights and processor, and whether its calibration still belongs to its weights."""

import hashlib
import json
from pathlib import Path

from .checkpoint import open_file, weight_files


WHOLE_BYTES = 2**20  # tensors up to this size are read in full
BLOCK_BYTES, BLOCKS = 4096, 64  # of larger ones, this many evenly spaced blocks
PROCESSOR_FILES = (
    "generation_config.json", "processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
AGAIN = "Evaluate the model again and run `metis-home calibrate` on the new outcomes."


def weights_fingerprint(folder: str | Path) -> str:
    """
    SHA-256 of the names, dtypes, shapes and a sample of the bytes of all tensors.

    Tensors of up to 1 MiB are read in full, larger ones in 64 evenly spaced blocks of 4 KiB: a training step changes
    nearly every byte of the tensors it trains, and 15 GB take seconds. How tensors are spread over files does not
    matter. A change outside the sample goes unnoticed, so this does not protect against forgery.

    Args:
        folder (`str` or `Path`):
            Folder with safetensors.

    Returns:
        `str`: 64 hexadecimal digits.

    Raises:
        FileNotFoundError: no safetensors, or a missing shard.
        ValueError: a damaged file.

    Example:

    ```python
    >>> from hf_metis_home.conversion.fingerprint import weights_fingerprint

    >>> weights_fingerprint("runs/hybrid")[:8]
    ```
    """
    tensors = {}
    for path in weight_files(Path(folder), "model_name_or_path"):
        tensors |= open_file(path, "model_name_or_path")
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        path, begin = tensor.stored
        with path.open("rb", buffering=0) as file:
            for offset, count in _blocks(tensor.nbytes):
                file.seek(begin + offset)
                digest.update(file.read(count))
    return digest.hexdigest()


def processor_fingerprint(folder: str | Path) -> str:
    """
    SHA-256 of the files that decide how prompts are read and answers generated: tokenizer, image processor, chat
    template, generation settings.

    Example:

    ```python
    >>> from hf_metis_home.conversion.fingerprint import processor_fingerprint

    >>> processor_fingerprint("runs/hybrid")[:8]
    ```
    """
    digest = hashlib.sha256()
    for path in (Path(folder) / name for name in PROCESSOR_FILES):
        if path.is_file():
            digest.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _blocks(size: int) -> list[tuple[int, int]]:
    if size <= WHOLE_BYTES:
        return [(0, size)]
    return [(number * (size - BLOCK_BYTES) // (BLOCKS - 1), BLOCK_BYTES) for number in range(BLOCKS)]


def calibration_problem(folder: str | Path) -> str | None:
    """
    Why the calibration in a folder's configuration is invalid or stale; None if it is valid or there is none.

    Example:

    ```python
    >>> from hf_metis_home.conversion.fingerprint import calibration_problem

    >>> calibration_problem("runs/hybrid") is None
    True
    ```
    """
    path = Path(folder) / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    calibration = config.get("calibration")
    if calibration is None:
        return None
    if not isinstance(calibration, dict) or not {"threshold", "weights"} <= calibration.keys():
        return f"`calibration` in config.json was not written by `metis-home calibrate`. {AGAIN}"
    if config.get("thinking_threshold") != calibration["threshold"]:
        return (
            f"The calibration is stale: it is for the threshold {calibration['threshold']}, but `thinking_threshold` "
            f"in config.json is {config.get('thinking_threshold')}. {AGAIN}"
        )
    if calibration["weights"] != weights_fingerprint(folder):
        return f"The calibration is stale: the weights have changed since {calibration.get('date')}. {AGAIN}"
    return None
