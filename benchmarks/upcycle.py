"""
What upcycling a checkpoint costs, in memory and in time, against copying the bytes that it writes.

```bash
python -m benchmarks.upcycle                # the 3B shape: about 33 GB of disk for a while
python -m benchmarks.upcycle --shape tiny
```

Both are timed until their files are on the disk (`fsync`), and both start with their input on it and not in the page
cache: 12.5 GB would not stay there on every machine. Every conversion is a process of its own, started and watched from
here; its imports do not count.
"""

import multiprocessing
import os
import shutil
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from zlib import crc32

import torch
from transformers import Qwen2_5_VLConfig

from hf_metis_home.conversion.checkpoint import LazyTensor, expected_shapes, is_branch_tensor, legacy_name, native_name
from hf_metis_home.conversion.tensor_writer import write_shards
from hf_metis_home.miniature.model import build_processor
from hf_metis_home.miniature.tokenizer import build_tokenizer

from .common import Variant, introduction, measure, parser, start, status, table, write_section


# Sizes of the text model, of the vision tower, and bytes of a shard: Qwen2.5-VL-3B-Instruct's, and some that a test can
# afford.
SHAPES = {
    "3b": (
        {
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        },
        {"depth": 32, "hidden_size": 1280, "num_heads": 16, "intermediate_size": 3420, "out_hidden_size": 2048},
        4 * 10**9,
    ),
    "tiny": (
        {
            "vocab_size": 256,
            "hidden_size": 64,
            "intermediate_size": 256,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]},
        },
        {"depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 64, "out_hidden_size": 64},
        4 * 10**5,
    ),
}
TOKENS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
DTYPE = torch.bfloat16
MEMORY_ALLOWED = 300 * 10**6  # above the largest input shard
TIME_ALLOWED = 1.5  # times a copy


def dense_tensors(shape: str) -> tuple[Qwen2_5_VLConfig, dict[str, LazyTensor]]:
    """Configuration and random tensors, drawn when they are written, under the names of checkpoints on the Hub."""
    text, vision, _ = SHAPES[shape]
    tokenizer = build_tokenizer()
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config={**vision, "fullatt_block_indexes": list(range(vision["depth"]))[7::8] or [1]},
        tie_word_embeddings=True,
        dtype=DTYPE,
        architectures=["Qwen2_5_VLForConditionalGeneration"],
        **{field: tokenizer.convert_tokens_to_ids(token) for field, token in TOKENS.items()},
    )

    def drawn(name: str, shape: tuple[int, ...]) -> LazyTensor:
        generator = torch.Generator().manual_seed(crc32(name.encode()))
        return LazyTensor(shape, DTYPE, lambda: torch.empty(shape, dtype=DTYPE).normal_(generator=generator))

    shapes = expected_shapes(config)
    del shapes["lm_head.weight"]  # tied, so not stored
    return config, {legacy_name(name): drawn(name, shape) for name, shape in shapes.items()}


def weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def to_disk(folder: Path, drop: bool = False) -> None:
    """Wait until the weights in a folder are on the disk; with `drop`, also take them out of the page cache."""
    for path in weights(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            if drop:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def copy(source: Path, target: Path) -> float:
    """Seconds of a plain copy of the weights."""
    target.mkdir()
    began = time.perf_counter()
    for path in weights(source):
        shutil.copyfile(path, target / path.name)
    to_disk(target)
    return time.perf_counter() - began


def convert(source: Path, target: Path, pause: float = 0.002) -> tuple[float, float]:
    """Seconds of a conversion, and bytes of anonymous memory at its peak above what the process held before it."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_convert, args=(there, source, target))
    process.start()
    there.close()
    # Watched from outside: a thread of the process would see nothing while native code holds Python's lock.
    before = peak = here.recv()
    while not here.poll(pause):
        peak = max(peak, status("RssAnon", process.pid))
    seconds = here.recv()
    process.join()
    return seconds, (peak - before) * 1e6


def _convert(connection: Connection, source: Path, target: Path) -> None:
    from hf_metis_home.conversion import upcycle_checkpoint

    connection.send(status("RssAnon"))
    began = time.perf_counter()
    upcycle_checkpoint(source, target)
    to_disk(target)
    connection.send(time.perf_counter() - began)


def measured(source: Path, folder: Path, repeats: int) -> list[str]:
    output, copied, peaks = folder / "hybrid", folder / "copy", []

    def before_converting():
        shutil.rmtree(output, ignore_errors=True)
        shutil.rmtree(copied, ignore_errors=True)
        to_disk(source, drop=True)

    def converting() -> float:
        seconds, peak = convert(source, output)
        peaks.append(peak)
        return seconds

    def before_copying():
        shutil.rmtree(copied, ignore_errors=True)
        to_disk(output, drop=True)

    # The last one goes first in the round that does not count, so a copy always has something to copy.
    timings = measure(
        {
            "plain copy of the result": Variant(lambda: copy(output, copied), before_copying, own_clock=True),
            "upcycling": Variant(converting, before_converting, own_clock=True),
        },
        repeats,
        "cpu",
    )
    read, written = ([path.stat().st_size for path in weights(place)] for place in (source, output))
    reference = timings["plain copy of the result"]
    lines = [
        [name, *timing.cells(unit=1, digits=1), f"{sum(written) / timing.median / 1e9:.2f}",
         f"{timing.median / reference.median:.2f}"]
        for name, timing in timings.items()
    ]  # fmt: skip
    slow = timings["upcycling"].median / reference.median > TIME_ALLOWED
    large = max(peaks) > max(read) + MEMORY_ALLOWED
    sizes = [max(read), max(peaks), max(read) + MEMORY_ALLOWED]
    return [
        f"**Time**, until the files are on the disk; the input is on it at the start, and not in the page cache. Read: "
        f"{sum(read) / 1e9:.2f} GB of weights in {len(read)} files, which are also hashed. Written: "
        f"{sum(written) / 1e9:.2f} GB in {len(written)}. The aim, at most {TIME_ALLOWED} times a copy, is "
        f"{'missed' if slow else 'met'}.",
        table(["", "s", "quartiles", "GB/s written", "to a copy"], lines),
        f"**Memory** that no file backs (`RssAnon`, read every 2 ms, the highest of {len(peaks)} conversions), above "
        f"what the process holds after its imports. The aim, at most the largest input shard and "
        f"{MEMORY_ALLOWED / 1e6:.0f} MB, is {'missed' if large else 'met'}.",
        table(["", "MB"], [[name, f"{size / 1e6:.0f}"] for name, size in zip(
            ["largest input shard", "peak of upcycling", "allowed"], sizes, strict=True)]),
    ]  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    arguments = parser("benchmarks.upcycle", __doc__.strip().splitlines()[0], repeats=3, computes=False)
    arguments.add_argument("--shape", choices=list(SHAPES), default="3b", help="Sizes of the dense model.")
    arguments.add_argument("--dir", type=Path, help="On the disk to measure; the system's temporary folder if not set.")
    args = start(arguments, argv)
    place = Path(args.dir or tempfile.gettempdir())
    if not place.is_dir():
        arguments.error(f"--dir is {str(place)!r}, which is no folder. Make it, or name another.")
    config, tensors = dense_tensors(args.shape)
    dense = sum(tensor.nbytes for tensor in tensors.values())
    twice = sum(tensor.nbytes for name, tensor in tensors.items() if is_branch_tensor(native_name(name), 0))
    needed, free = dense + 2 * (dense + twice), shutil.disk_usage(place).free
    if free < 1.05 * needed:
        arguments.error(
            f"--dir is {str(place)!r}, whose disk has {free / 1e9:.1f} GB free, but {1.05 * needed / 1e9:.1f} GB are "
            "needed for the dense checkpoint, the result and its copy. Name a folder on another disk."
        )
    with tempfile.TemporaryDirectory(prefix="upcycle-", dir=place) as folder:
        source = Path(folder, "dense")
        source.mkdir()
        write_shards(source, tensors, SHAPES[args.shape][2])
        config.save_pretrained(source)
        build_processor(build_tokenizer()).save_pretrained(source)
        parts = measured(source, Path(folder), args.repeats)
    text, vision, _ = SHAPES[args.shape]
    sizes = (
        f"hidden size {text['hidden_size']}, FFN {text['intermediate_size']}, {text['num_hidden_layers']} layers, "
        f"vocabulary {text['vocab_size']}, a vision tower of {vision['depth']} layers, the head tied"
    )
    write_section(args, [introduction(args, sizes, argv), *parts])


if __name__ == "__main__":
    main()
