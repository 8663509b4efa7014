"""Writing tensors that are read one after another: never more than one shard in memory."""

import json
import shutil
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file

from .checkpoint import INDEX, LazyTensor


SHARD_BYTES = 5 * 10**9
SMALL_BYTES = 3 * 10**8


def shard_limit(inputs: list[Path]) -> int:
    """
    Bytes of an output shard. Tensors that are computed (averaged, merged, of another type) are held until their shard
    is written, so it is not to be larger than the largest input, unless that is small.
    """
    return min(SHARD_BYTES, max(SMALL_BYTES, *(path.stat().st_size for path in inputs)))


def check_space(folder: Path, needed: int) -> None:
    """An error where the disk of `folder`, or of its first parent that exists, has not `needed` bytes to give."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"`output_dir` needs {needed / 1e9:.1f} GB, but its disk has {free / 1e9:.1f} GB free. Free some space or "
            "choose another disk; nothing was written."
        )


def write_shards(folder: Path, tensors: dict[str, LazyTensor], shard_bytes: int) -> list[Path]:
    """
    Write `model.safetensors`, or several files of at most `shard_bytes` and their index, as `save_pretrained` does.

    Shows a progress bar on a terminal.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    shards, size = [{}], 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    total = sum(tensor.nbytes for tensor in tensors.values())
    names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    names = names if len(shards) > 1 else ["model.safetensors"]
    console = Console(stderr=True)
    columns = (TextColumn("Writing weights"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task("", total=total)
        for name, shard in zip(names, shards, strict=True):
            state = {key: tensor.read().contiguous() for key, tensor in shard.items()}
            try:
                save_file(state, folder / name, {"format": "pt"})
            except (OSError, SafetensorError) as error:
                raise OSError(
                    f"The weights could not be written ({error}). Nothing is left of them; free some space or choose "
                    "another `output_dir`, and run again."
                ) from error
            progress.advance(task, sum(tensor.nbytes for tensor in shard.values()))
    if len(shards) > 1:
        weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return [folder / name for name in names]
