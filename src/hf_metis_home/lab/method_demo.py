"""
The whole method as a command: `metis-home demo --stages all`, with a table of what each step gains.

Seeds run side by side, each in a process of its own with one thread: models this small gain little from a second one.
"""

import json
import multiprocessing
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path

from .presets import PRESETS
from .results import PACKAGES


# Rows of the table: the key in the results, and what it is.
STEPS = {
    "base": "base, answers directly",
    "cold_start": "cold start, dense",
    "stage_rl": "Stage-RL, dense",
    "stage_sft": "Stage-SFT, two branches, routed",
    "stage_sft_thinking": "  thinking branch",
    "stage_sft_non_thinking": "  non-thinking branch",
    "outcome_router": "router fitted on outcomes",
}
COLUMNS = {"easy": "easy", "hard": "hard", "located_easy": "located, easy", "located_hard": "located, hard"}


def run_method_demo(preset: str = "small", seed: int = 0, output_dir: str | Path = "runs/method") -> dict:
    """
    Run all stages and write their results.

    Args:
        preset (`str`, *optional*, defaults to `"small"`):
            `"smoke"`: a few steps, to see that everything is in place; `"small"`: one seed; `"full"`: two seeds.
        seed (`int`, *optional*, defaults to 0):
            The first of the seeds.
        output_dir (`str` or `Path`, *optional*, defaults to `"runs/method"`):
            Folder to write. Must not exist, or be empty. Gets `method.json`, `method.md`, and per seed a folder with
            `base/`, `stage_rl/`, `data/` and `hybrid/`.

    Returns:
        `dict`: what `method.json` holds: `seeds` (per seed `models`: step to task or pool to figures, `seconds` and
        `data`), `preset` and `versions`.

    Raises:
        ValueError: an unknown preset.
        FileExistsError: `output_dir` has content.
    """
    from .._folders import staged_folder

    if preset not in PRESETS:
        raise ValueError(f"`preset` is {preset!r}, but must be one of {list(PRESETS)}.")
    seeds = range(seed, seed + (2 if preset == "full" else 1))
    with staged_folder(output_dir) as staging:
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
            runs = [pool.submit(_run_seed, preset, number, staging / f"seed_{number}") for number in seeds]
            found = {str(number): run.result() for number, run in zip(seeds, runs, strict=True)}
        results = {"preset": preset, "versions": {name: version(name) for name in PACKAGES}, "seeds": found}
        (staging / "method.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        (staging / "method.md").write_text(markdown(results), encoding="utf-8")
    return results


def _run_seed(preset: str, seed: int, folder: Path) -> dict:
    import torch

    from ..conversion import save_hub_folder
    from .demo import be_quiet
    from .method import SIZES, run_method
    from .stages import train_base

    torch.set_num_threads(1)
    terminal = be_quiet()
    folder.mkdir(parents=True)

    def say(name: str, seconds: float, summary: dict) -> None:
        cells = ", ".join(f"{task} {100 * summary[task]['accuracy']:.0f} %" for task in ("easy", "hard"))
        print(f"seed {seed}, {STEPS[name].strip()} ({seconds:.0f} s): {cells}", file=terminal, flush=True)

    with tempfile.TemporaryDirectory() as scratch:
        base, processor = train_base(PRESETS[preset], seed, Path(scratch))
    base.save_pretrained(folder / "base")
    processor.save_pretrained(folder / "base")
    found, model = run_method(base, processor, PRESETS[preset], SIZES[preset], seed, folder, say)
    save_hub_folder(model, processor, folder / "hybrid", stage="sft")
    return found


def rows_of(results: dict) -> list[list[str]]:
    """The table: a row per step, means over the seeds."""
    runs = list(results["seeds"].values())
    lines = []
    for step, name in STEPS.items():
        cells = [run["models"].get(step) for run in runs]
        if None in cells:
            lines.append([name, *["–"] * (len(COLUMNS) + 2)])
            continue
        values = [_points([cell[task]["accuracy"] for cell in cells]) for task in COLUMNS]
        tokens = statistics.mean(cell["all"]["mean_tokens"] for cell in cells)
        lines.append([name, *values, _points([cell["all"]["thinking_ratio"] for cell in cells]), f"{tokens:.1f}"])
    return lines


def _points(values: list[float]) -> str:
    """Percent, the mean and, of several seeds, each."""
    mean = f"{100 * statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({', '.join(f'{100 * value:.1f}' for value in values)})"


def markdown(results: dict) -> str:
    """The table as Markdown."""
    head = ["step", *(f"{label}, %" for label in COLUMNS.values()), "thinking, %", "tokens"]
    lines = [head, ["---"] + ["--:"] * (len(head) - 1), *rows_of(results)]
    return "\n".join("| " + " | ".join(line).replace("  ", "&nbsp;&nbsp;") + " |" for line in lines) + "\n"
