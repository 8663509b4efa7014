"""Writes safetensors files from tensors that are read one at a time: no more than one is ever in memory."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from .._progress import progress
from .checkpoint import DTYPES, INDEX, SINGLE, LazyTensor


SHARD_BYTES = 5 * 10**9
SMALL_BYTES = 3 * 10**8
PIECE_BYTES = 2**20
TYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def check_space(folder: Path, tensors: dict[str, LazyTensor]) -> None:
    """Raise an error if the disk of `folder`, or of its first parent that exists, has no room for the tensors."""
    needed = sum(tensor.nbytes for tensor in tensors.values())
    folder = folder.resolve()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"`output_dir` needs {needed / 1e6:.1f} MB, but its disk has {free / 1e6:.1f} MB free. Choose another disk."
        )


def shard_limit(sources: list[Path]) -> int:
    """
    Bytes of an output shard: those of the largest source file, so that whoever could fetch and load that can do the
    same with the output, but between 300 MB and 5 GB.
    """
    return min(SHARD_BYTES, max(SMALL_BYTES, *(path.stat().st_size for path in sources)))


def write_shards(folder: Path, tensors: dict[str, LazyTensor], shard_bytes: int) -> None:
    """
    Write `model.safetensors`, or shards of at most `shard_bytes` and their index, as `save_pretrained` does.

    Raises:
        OSError: the disk has no room for them.
    """
    check_space(folder, tensors)
    shards, size = [{}], 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    total = sum(tensor.nbytes for tensor in tensors.values())
    names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    names = names if len(shards) > 1 else [SINGLE]
    with progress("Writing weights", total, "bytes") as advance:
        for name, shard in zip(names, shards, strict=True):
            _write(folder / name, shard, advance)
    if len(shards) > 1:
        weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write(path: Path, tensors: dict[str, LazyTensor], advance: Callable[[int], None]) -> None:
    """
    Write one safetensors file, one tensor at a time; `safetensors.torch.save_file` needs all of them in memory.

    Tensors that another file stores unchanged are copied from there in pieces, which is faster than mapping them.
    """
    # Larger dtypes first, as safetensors orders them, so that every tensor starts at a multiple of its item size.
    tensors = dict(sorted(tensors.items(), key=lambda item: -item[1].dtype.itemsize))
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": TYPE_NAMES[tensor.dtype], "shape": tensor.shape, "data_offsets": [begin, end]}
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with path.open("wb", buffering=0) as file:
        _write_all(file, len(head).to_bytes(8, "little") + head)
        for tensor in tensors.values():
            if tensor.stored is None:
                _write_all(file, tensor.read().contiguous().reshape(-1).view(torch.uint8).numpy())
            else:
                _copy(*tensor.stored, tensor.nbytes, file)
            advance(tensor.nbytes)


def _copy(source: Path, begin: int, count: int, file) -> None:
    piece = memoryview(bytearray(min(PIECE_BYTES, count)))
    with source.open("rb", buffering=0) as stored:
        stored.seek(begin)
        while count:
            read = stored.readinto(piece[:count])
            if not read:
                raise OSError(f"{str(source)!r} became shorter while it was read.")
            _write_all(file, piece[:read])
            count -= read


def _write_all(file, content) -> None:
    content = memoryview(content)
    while content.nbytes:  # a full disk accepts part of the data before it refuses the rest
        content = content[file.write(content) :]
