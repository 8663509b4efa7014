"""
The miniature reproduction as a command, `metis-home demo --stages all`: from one base per seed the models of the plain
demo, and the whole method with what each of its steps gains.

Models are trained side by side, each in a process of its own with one thread: models this small gain little from a
second one. No choice is made on the test split: the router on outcomes is fitted on the dev split, thresholds stay at
their defaults, and only finished models answer the test questions.
"""

import json
import multiprocessing
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path

from .plain_demo import be_quiet, run_stage
from .presets import PRESETS
from .report import MODELS
from .results import METRICS, PACKAGES, accuracy_interval


# Rows of the method's table: the key in the results, and what it is.
STEPS = {
    "base": "base, answers directly",
    "cold_start": "cold start, dense",
    "stage_rl": "Stage-RL, dense",
    "stage_sft": "Stage-SFT, two branches, routed",
    "stage_sft_thinking": "  thinking branch",
    "stage_sft_non_thinking": "  non-thinking branch",
    "outcome_router": "router fitted on outcomes",
}
# Both tables: the key in a seed's results, its title and its rows.
TABLES = {
    "demo": ("Models from one base", {name: title for name, (title, _) in MODELS.items()}),
    "models": ("The method, step by step", STEPS),
}
COLUMNS = {"easy": "easy", "hard": "hard", "located_easy": "located, easy", "located_hard": "located, hard"}
INTERVALS = (
    "In brackets the 95 % interval: bootstrap over seeds and, within a seed, questions. Few seeds make it too narrow."
)


def run_method_demo(preset: str = "small", seed: int = 0, output_dir: str | Path = "runs/method") -> dict:
    """
    Train all models and run all stages, and write their results.

    Args:
        preset (`str`, *optional*, defaults to `"small"`):
            `"smoke"`: a few steps, to see that everything is in place; `"small"`: one seed; `"full"`: three seeds.
        seed (`int`, *optional*, defaults to 0):
            The first of the seeds.
        output_dir (`str` or `Path`, *optional*, defaults to `"runs/method"`):
            Folder to write. Must not exist, or be empty. Gets `method.json`, `method.md`, and per seed a folder with
            `base/`, `hybrid/` and `digits.png`, as in the plain demo, and in `method/` `stage_rl/`, `data/` and
            `hybrid/`.

    Returns:
        `dict`: what `method.json` holds: `seeds`, per seed `demo` (model to task or pool to figures), `models` (the
        same per step of the method), `seconds` and `data`; `preset` and `versions`.

    Raises:
        ValueError: an unknown preset.
        FileExistsError: `output_dir` has content.
    """
    from .._folders import staged_folder

    if preset not in PRESETS:
        raise ValueError(f"`preset` is {preset!r}, but must be one of {list(PRESETS)}.")
    seeds = range(seed, seed + PRESETS[preset].seeds)
    context = multiprocessing.get_context("spawn")
    with staged_folder(output_dir) as staging, tempfile.TemporaryDirectory() as scratch:
        with ProcessPoolExecutor(2, mp_context=context) as pool:

            def plain(stages: tuple[str, ...]) -> dict:
                return {
                    (stage, number): pool.submit(
                        _plain_model, stage, preset, number, staging / f"seed_{number}", Path(scratch)
                    )
                    for number in seeds
                    for stage in stages
                }

            runs = plain(("base",))
            for run in runs.values():
                run.result()
            steps = {number: pool.submit(_run_method, preset, number, staging / f"seed_{number}") for number in seeds}
            runs |= plain(("reasoning_only", "dense_mixed", "hybrid"))
            found = {}
            for number in seeds:
                models, seconds = {}, {}
                for (stage, of), run in runs.items():
                    if of == number:
                        summaries, seconds[f"demo: {stage}"] = run.result()
                        models |= summaries
                method = steps[number].result()
                seconds |= method["seconds"]
                found[str(number)] = {**method, "demo": {name: models[name] for name in MODELS}, "seconds": seconds}
        results = {"preset": preset, "versions": {name: version(name) for name in PACKAGES}, "seeds": found}
        (staging / "method.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        (staging / "method.md").write_text(markdown(results), encoding="utf-8")
    return results


def _plain_model(stage: str, preset: str, seed: int, folder: Path, scratch: Path) -> tuple[dict, float]:
    """A model of the plain demo, with a pool of all tasks besides."""
    folder.mkdir(parents=True, exist_ok=True)
    summaries, seconds = run_stage(stage, PRESETS[preset], seed, folder, scratch)
    from ..miniature.tasks import TASKS

    for cells in summaries.values():
        metrics = [metric for metric in METRICS if metric != "stderr"]
        cells["all"] = {metric: statistics.mean(cells[task][metric] for task in TASKS) for metric in metrics}
    _say(seed, TABLES["demo"][1][stage], seconds, summaries[stage])
    return summaries, seconds


def _run_method(preset: str, seed: int, folder: Path) -> dict:
    import torch
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    from ..conversion import save_hub_folder
    from .method import SIZES, run_method

    torch.set_num_threads(1)
    be_quiet()
    base = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder / "base")
    processor = AutoProcessor.from_pretrained(folder / "base")
    (folder / "method").mkdir()

    def say(name: str, seconds: float, summary: dict) -> None:
        _say(seed, STEPS[name], seconds, summary)

    sizes = SIZES[preset]
    found, model = run_method(base, processor, PRESETS[preset], sizes, seed, folder / "method", say)
    save_hub_folder(model, processor, folder / "method" / "hybrid", stage="sft")
    return found


def _say(seed: int, name: str, seconds: float, summary: dict) -> None:
    cells = ", ".join(f"{task} {100 * summary[task]['accuracy']:.0f} %" for task in ("easy", "hard"))
    # Training has silenced `sys.stdout`.
    print(f"seed {seed}, {name.strip()} ({seconds:.0f} s): {cells}", file=sys.__stdout__, flush=True)


def rows_of(results: dict, table: str = "models") -> list[list[str]]:
    """A table, by its key in `TABLES`: a row per model or step, means over the seeds."""
    runs = [run[table] for run in results["seeds"].values()]
    lines = []
    for step, name in TABLES[table][1].items():
        cells = [run.get(step) for run in runs]
        if None in cells:
            lines.append([name, *["–"] * (len(COLUMNS) + 2)])
            continue
        values = [_accuracy([cell[task] for cell in cells]) for task in COLUMNS]
        thinking = 100 * statistics.mean(cell["all"]["thinking_ratio"] for cell in cells)
        tokens = statistics.mean(cell["all"]["mean_tokens"] for cell in cells)
        lines.append([name, *values, f"{thinking:.1f}", f"{tokens:.1f}"])
    return lines


def _accuracy(cells: list[dict]) -> str:
    """Percent, the mean over the seeds, and its interval."""
    mean = 100 * statistics.mean(cell["accuracy"] for cell in cells)
    low, high = accuracy_interval(cells)
    return f"{mean:.1f} ({100 * low:.1f}, {100 * high:.1f})"


def markdown(results: dict) -> str:
    """Both tables as Markdown."""
    head = ["", *(f"{label}, %" for label in COLUMNS.values()), "thinking, %", "tokens"]
    parts = []
    for table, (title, _) in TABLES.items():
        lines = [head, ["---"] + ["--:"] * (len(head) - 1), *rows_of(results, table)]
        text = "\n".join("| " + " | ".join(line).replace("  ", "&nbsp;&nbsp;") + " |" for line in lines)
        parts.append(f"**{title}**, {len(results['seeds'])} seed(s)\n\n{text}\n")
    return "\n".join([*parts, f"{INTERVALS}\n"])
