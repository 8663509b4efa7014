"""
Timing, peak memory, the machine's description and the page, for all benchmarks.

Variants are timed in turns within one run, so that whatever else the machine does hits all of them alike; the order is
reversed in every second round, so that no variant always follows the same one.
"""

import argparse
import gc
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch


PAGE = Path(__file__).parents[1] / "docs" / "performance.md"


@dataclass
class Variant:
    """
    `run` is timed; `prepare`, before every run, is not. `count`: how many units (tokens, queries) one run makes. With
    `own_clock`, `run` returns the seconds that count.
    """

    run: Callable[[], object]
    prepare: Callable[[], object] = lambda: None
    count: int = 1
    own_clock: bool = False


@dataclass
class Timing:
    """Seconds per unit."""

    median: float
    low: float  # first quartile
    high: float  # third quartile

    def cells(self, reference: "Timing | None" = None, unit: float = 1e3, digits: int = 2) -> list[str]:
        """Median, quartiles (in milliseconds, unless `unit` says otherwise) and, with a reference, the ratio to it."""
        median, low, high = (f"{value * unit:.{digits}f}" for value in (self.median, self.low, self.high))
        return [median, f"{low} to {high}", *([] if reference is None else [f"{self.median / reference.median:.2f}"])]


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def measure(variants: dict[str, Variant], repeats: int, device: str, warmup: int = 1) -> dict[str, Timing]:
    """Time every variant `repeats` times, in turns; the first `warmup` rounds do not count."""
    seconds = {name: [] for name in variants}
    gc.collect()
    gc.freeze()  # the libraries' own objects, which take long to look through, are left out of later collections
    for number in range(warmup + repeats):
        names = list(variants) if number % 2 else list(reversed(variants))
        for name in names:
            variant = variants[name]
            variant.prepare()
            # A collection in the middle of a run would be charged to whoever happens to run.
            gc.collect()
            gc.disable()
            synchronise(device)
            start = time.perf_counter()
            result = variant.run()
            synchronise(device)
            elapsed = result if variant.own_clock else time.perf_counter() - start
            gc.enable()
            if number >= warmup:
                seconds[name].append(elapsed / variant.count)
    gc.unfreeze()
    return {name: _timing(values) for name, values in seconds.items()}


def _timing(values: list[float]) -> Timing:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return Timing(median, low, high)


def peak_memory(device: str, threads: int, function: Callable, *args) -> float:
    """
    MB (1e6 bytes) that `function(*args)` needs at its peak, in a process of its own.

    CPU: the high-water mark of the resident set, less what the process held after loading torch. CUDA: what torch's
    allocator has handed out. `function` and `args` must be importable and picklable.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (device, threads, function, args))


def _peak(device: str, threads: int, function: Callable, args: tuple) -> float:
    torch.set_num_threads(threads)
    if device == "cuda":
        function(*args)
        return torch.cuda.max_memory_allocated() / 1e6
    import transformers.models.qwen2_5_vl.modeling_qwen2_5_vl  # noqa: F401

    # Not `getrusage`: on Linux a new process inherits that mark from its parent.
    before = status("VmRSS")
    function(*args)
    return status("VmHWM") - before


def status(field: str, process: int | str = "self") -> float:
    """MB (1e6 bytes) that Linux reports about a process in a field of `/proc/*/status`."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ValueError(f"/proc/{process}/status has no {field}: pass --skip_memory on this system.")


def machine(args: argparse.Namespace) -> str:
    """One line: what the figures below it were measured on, and with what."""
    import transformers

    if args.device == "cuda":
        hardware = torch.cuda.get_device_name()
    else:
        cpuinfo = Path("/proc/cpuinfo")
        names = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.exists() else []
        hardware = names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()
        used = " and ".join(str(threads) for threads in args.threads)
        used = f"{used} used, " if used else ""
        hardware += f", {os.cpu_count()} cores, {used}load {os.getloadavg()[0]:.1f} at the end"
    return (
        f"{hardware}; {args.dtype}; Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}; {time.strftime('%Y-%m-%d')}."
    )


def introduction(args: argparse.Namespace, sizes: object, argv: list[str] | None) -> str:
    """How the section was made. Paths of this machine, which say nothing about the figures, are left out."""
    words = list(sys.argv[1:] if argv is None else argv)
    for flag in ("--output", "--dir"):
        if flag in words:
            del words[words.index(flag) : words.index(flag) + 2]
    return (
        f"`{' '.join(['python -m', args.benchmark, *words])}`: {machine(args)} Random weights: {sizes}. Medians and "
        f"quartiles of {args.repeats} rounds, in which the variants of a table take turns."
    )


def parser(benchmark: str, description: str, repeats: int, computes: bool = True) -> argparse.ArgumentParser:
    """The flags that every benchmark has, or every one that `computes`."""
    result = argparse.ArgumentParser(
        prog=f"python -m {benchmark}",
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    result.set_defaults(benchmark=benchmark)
    if computes:
        result.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
        result.add_argument("--threads", type=int, nargs="+", default=[1], help="Threads on a CPU; each is measured.")
        result.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
        result.add_argument("--skip_memory", action="store_true", help="Leave out peak memory: each needs a process.")
    else:
        result.set_defaults(device="cpu", threads=[], dtype="bfloat16")
    result.add_argument("--repeats", type=int, default=repeats, help="Rounds that count, after one that does not.")
    result.add_argument("--output", type=Path, default=PAGE, help="Page whose section is replaced; made where missing.")
    return result


def start(arguments: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Parse the flags and set what has to stand before the first model."""
    args = arguments.parse_args(argv)
    if args.repeats < 1 or min(args.threads, default=1) < 1 or len(set(args.threads)) < len(args.threads):
        arguments.error("--repeats and --threads must be at least 1, and every number of threads given once.")
    if args.device == "cuda" and not torch.cuda.is_available():
        arguments.error("--device is cuda, but torch finds no CUDA device. Use --device cpu.")
    # A whole run is lost if its page cannot take it, so this is found out before.
    try:
        markers(args.output, section_of(args))
    except (OSError, ValueError) as error:
        arguments.error(f"--output: {error}")
    if args.threads:
        torch.set_num_threads(args.threads[0])
    torch.manual_seed(0)
    return args


def each_thread_count(args: argparse.Namespace, timed: Callable[[], tuple[list[str], dict]]) -> tuple[list[str], dict]:
    """Run `timed`, which gives parts of a section and ratios, once per number of threads, under a heading each."""
    parts, ratios = [], {}
    for threads in args.threads:
        torch.set_num_threads(threads)
        more, ratios[threads] = timed()
        parts += ([f"### With {threads} thread{'s' if threads > 1 else ''}"] if len(args.threads) > 1 else []) + more
    torch.set_num_threads(args.threads[0])
    return parts, ratios


def table(columns: list[str], rows: list[list[str]]) -> str:
    """A markdown table: the first column left, the others right."""
    lines = [columns, ["---"] + ["--:"] * (len(columns) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def section_of(args: argparse.Namespace) -> str:
    return args.benchmark.rpartition(".")[2]


def markers(page: Path, section: str) -> tuple[str, str]:
    first, last = f"<!-- {section}: start -->", f"<!-- {section}: end -->"
    if page.exists():
        text = page.read_text(encoding="utf-8")
        if text.count(first) != 1 or text.count(last) != 1 or text.index(first) > text.index(last):
            raise ValueError(f"{page} must hold `{first}` and, below it, `{last}`, once each: the figures go between.")
    return first, last


def write_section(args: argparse.Namespace, parts: list[str]) -> None:
    """Replace what stands between a section's markers; a missing page is made with these alone."""
    page, section = args.output, section_of(args)
    first, last = markers(page, section)
    text = page.read_text(encoding="utf-8") if page.exists() else f"{first}\n{last}\n"
    before, rest = text.split(first)
    body = "\n\n".join(part.strip() for part in parts)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(f"{before}{first}\n\n{body}\n\n{last}{rest.split(last)[1]}", encoding="utf-8")
    print(body, f"\nWrote the section `{section}` of {page}.", sep="\n", file=sys.stdout)
