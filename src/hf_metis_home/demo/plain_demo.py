"""
The whole thread in one command: train a dense base, upcycle it, train the hybrid and its controls, answer held-out
questions with all of them, save, reload and report.

The stages after the base do not depend on one another, so they run side by side, each in a process of its own with one
thread: models this small gain little from a second thread. What the processes need is imported in them, so that the
last one, which reads the result back from its folder, finds none of our classes registered.
"""

import json
import multiprocessing
import os
import queue
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from .._remarks import leave_out_remarks
from .presets import PRESETS, Preset
from .report import MODELS, write_report
from .results import combine


SAMPLES_PER_TASK = 2


def run_demo(preset: str = "small", seed: int = 0, output_dir: str | Path = "runs/demo") -> dict:
    """
    Run the demo and write its results.

    Args:
        preset (`str`, *optional*, defaults to `"small"`):
            `"smoke"`: a few steps, to see that everything is in place; `"small"`: one seed; `"full"`: three seeds.
        seed (`int`, *optional*, defaults to 0):
            Seed of initial weights, data and order; the first of several.
        output_dir (`str` or `Path`, *optional*, defaults to `"runs/demo"`):
            Folder to write. Must not exist, or be empty. Gets `report.html`, `results.json` and, of the first seed,
            `hybrid/` (the two-branch model as a Hub folder), `base/` (the dense base) and `digits.png` (to ask about).

    Returns:
        `dict`: what `results.json` holds: `models.{model}.{task}` with `accuracy`, `stderr`, `n`, `thinking_ratio` and
        `mean_tokens`, for the tasks and the pools `easy` and `hard`; `seconds` per stage, `versions`, `seed`, `preset`,
        `statement`; of several seeds means, `spread` and `seeds`.

    Raises:
        ValueError: an unknown preset.
        FileExistsError: `output_dir` has content.
    """
    from .._folders import staged_folder

    if preset not in PRESETS:
        raise ValueError(f"`preset` is {preset!r}, but must be one of {list(PRESETS)}.")
    sizes = PRESETS[preset]
    with staged_folder(output_dir) as staging, tempfile.TemporaryDirectory() as scratch, _Board() as board:
        runs = []
        for number in range(sizes.seeds):
            folder = staging if number == 0 else Path(scratch) / f"seed_{number}"
            runs.append(_run_seed(sizes, seed + number, folder, Path(scratch), board))
        samples = _in_process(_samples, staging / "hybrid", seed)
        results = combine(runs, preset)
        (staging / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        write_report(results, samples, staging / "report.html")
    return results


def _run_seed(sizes: Preset, seed: int, folder: Path, scratch: Path, board: "_Board") -> dict:
    """All stages for one seed. Leaves `base/` and `hybrid/` in `folder`."""
    models, seconds = {}, {}
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(3, mp_context=context) as pool:
        events = manager.Queue()

        def submit(stage: str) -> Future:
            board.add(stage, seed)
            threads = 2 if stage == "base" else 1
            return pool.submit(run_stage, stage, sizes, seed, folder, scratch, events.put, threads)

        for stages in (("base",), ("hybrid", "dense_mixed", "reasoning_only")):
            futures = [submit(stage) for stage in stages]
            while not all(future.done() for future in futures):
                board.drain(events)
            for stage, future in zip(stages, futures, strict=True):
                summaries, seconds[stage] = future.result()
                models |= summaries
            board.drain(events)
    return {"seed": seed, "models": {name: models[name] for name in MODELS}, "seconds": seconds}


def run_stage(
    stage: str, sizes: Preset, seed: int, folder: Path, scratch: Path, report: Callable | None = None, threads: int = 1
) -> tuple[dict, float]:
    """
    Train one model and answer the test questions with it, in a process of its own. `report` is called with the stage,
    the seed and the share that is done.

    Returns:
        Summaries per model (the hybrid is three: routed and forced both ways), and the seconds it took.
    """
    started = time.perf_counter()
    be_quiet()
    import torch
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration, TrainerCallback

    from ..conversion import save_hub_folder
    from ..evaluation import answer_rows, summarise
    from ..miniature.tasks import EASY_TASKS, HARD_TASKS, MAX_ANSWER_TOKENS, TASKS, make_dataset
    from . import stages

    class Report(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if report is not None and state.global_step % 5 == 0:
                report((stage, seed, 0.9 * state.global_step / state.max_steps))

    torch.set_num_threads(threads)
    work = scratch / f"{stage}_{seed}"
    if stage == "base":
        model, processor = stages.train_base(sizes, seed, work, [Report()])
        model.save_pretrained(folder / "base")
        processor.save_pretrained(folder / "base")
    else:
        base = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder / "base")
        processor = AutoProcessor.from_pretrained(folder / "base")
        train = getattr(stages, f"train_{stage}")
        model = train(base, processor, sizes, seed, work, [Report()])
    modes = {stage: {}}
    if stage == "hybrid":
        modes |= {"hybrid_thinking": {"thinking": True}, "hybrid_non_thinking": {"thinking": False}}

    rows = make_dataset(dict.fromkeys(TASKS, sizes.test_rows), "test", seed)
    if stage == "base":
        next(row for row in rows if row["task"] == "corner")["images"][0].save(folder / "digits.png")
    pools = {"easy": EASY_TASKS, "hard": HARD_TASKS}
    summaries = {}
    for name, choice in modes.items():
        records = answer_rows(model, processor, rows, max_new_tokens=MAX_ANSWER_TOKENS, batch_size=200, **choice)
        summary = summarise(records, pools)
        summaries[name] = {task: summary[task] for task in (*TASKS, *pools)}
    if stage == "hybrid":
        results = {task: {name: cell[name] for name in CARD_COLUMNS} for task, cell in summaries[stage].items()}
        save_hub_folder(model, processor, folder / "hybrid", stage="sft", notes=[CARD_NOTE], results=results)
    if report is not None:
        report((stage, seed, 1.0))
    return summaries, time.perf_counter() - started


CARD_COLUMNS = ("accuracy", "stderr", "thinking_ratio", "mean_tokens")
CARD_NOTE = (
    "A miniature of about a million parameters, trained by `metis-home demo`. It is of no use beyond its own tasks."
)


def _samples(folder: Path, seed: int) -> list[dict]:
    be_quiet()
    from ..miniature.tasks import TASKS, make_dataset
    from .samples import answer_samples

    rows = make_dataset(dict.fromkeys(TASKS, SAMPLES_PER_TASK), "test", seed + 1)
    return answer_samples(folder, sorted(rows, key=lambda row: TASKS.index(row["task"])))


def be_quiet():
    """
    No bars, prints and advice of the libraries in this process.

    Returns:
        What `sys.stdout` was.
    """
    leave_out_remarks()
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing", category=FutureWarning)  # TRL sets it
    terminal, sys.stdout = sys.stdout, open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    return terminal


def _in_process(function, *arguments):
    """Run a function in a fresh process, in which nothing has been imported yet."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


class _Board:
    """Progress of the stages: bars on a terminal, a line at the beginning and the end of each elsewhere."""

    def __init__(self):
        self.console = Console()
        columns = (TextColumn("{task.description:<26}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
        self.progress = Progress(*columns, TimeElapsedColumn(), console=self.console)
        self.tasks, self.started = {}, {}

    def __enter__(self):
        if self.console.is_terminal:
            self.progress.start()
        return self

    def __exit__(self, *error):
        self.progress.stop()

    def add(self, stage: str, seed: int) -> None:
        name = f"{stage.replace('_', ' ')} (seed {seed})"
        self.tasks[stage, seed] = self.progress.add_task(name, total=1.0)
        self.started[stage, seed] = time.perf_counter()
        if not self.console.is_terminal:
            print(f"Training and testing: {name}", flush=True)

    def drain(self, events) -> None:
        """Show what the stages have reported; waits a moment for the first report."""
        try:
            stage, seed, share = events.get(timeout=0.3)
            while True:
                self.progress.update(self.tasks[stage, seed], completed=share)
                if share == 1.0 and not self.console.is_terminal:
                    seconds = time.perf_counter() - self.started[stage, seed]
                    print(f"Finished after {seconds:.0f} s: {stage.replace('_', ' ')} (seed {seed})", flush=True)
                stage, seed, share = events.get_nowait()
        except queue.Empty:
            return
