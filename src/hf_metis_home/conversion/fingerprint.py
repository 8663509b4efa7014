"""A short name for the weights of a folder, and whether they are still those that its threshold was calibrated on."""

import hashlib
import json
from pathlib import Path

from .checkpoint import open_file, weight_files


WHOLE_BYTES = 2**20  # tensors up to this size are read whole
BLOCK_BYTES, BLOCKS = 4096, 64  # of larger ones, so many blocks at even distances
PROCESSOR_FILES = (
    "generation_config.json", "processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
AGAIN = "Evaluate the model again and run `metis-home calibrate` on these outcomes."


def weights_fingerprint(folder: str | Path) -> str:
    """
    SHA-256 over names, types, shapes and a sample of the bytes of all tensors.

    Tensors of up to 1 MiB are read whole, of larger ones the first, the last and 62 blocks of 4 KiB between, at even
    distances: a training step changes every tensor that it trains nearly everywhere, and a model of 15 GB takes
    seconds. How the tensors are spread over files does not matter. A change outside the sample is not seen, so this is
    no protection against forgery.

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
    SHA-256 over the files beside the weights that decide how a prompt is read and an answer generated: tokenizer, image
    processor, chat template, generation settings.

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
    Why the calibration in a folder's configuration holds no more; None where it does, or where there is none.

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
        return f"`calibration` in config.json is no record of `metis-home calibrate`. {AGAIN}"
    if config.get("thinking_threshold") != calibration["threshold"]:
        return (
            f"The calibration is stale: it is for the threshold {calibration['threshold']}, but `thinking_threshold` "
            f"in config.json is {config.get('thinking_threshold')}. {AGAIN}"
        )
    if calibration["weights"] != weights_fingerprint(folder):
        return f"The calibration is stale: the weights have changed since {calibration.get('date')}. {AGAIN}"
    return None
