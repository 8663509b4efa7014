"""
The hybrid and its controls: train a dense base, upcycle it, train the hybrid and the controls, answer test questions
with all of them, save, reload and report (`metis-home demo`).

The stages after the base do not depend on each other, so they run side by side, each in its own process with one
thread: models this small gain little from a second thread. A process imports what it needs itself, so that the last
one, which reloads the hybrid from its folder, has none of our classes registered.
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
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path

from .._folders import staged_folder
from .._progress import progress
from .._remarks import leave_out_remarks
from .presets import Preset, check_preset
from .report import MODELS, write_report
from .results import combine


STAGES = ("base", "hybrid", "dense_mixed", "reasoning_only")
SAMPLES_PER_TASK = 2
CARD_COLUMNS = ("accuracy", "stderr", "thinking_ratio", "mean_tokens")
CARD_NOTE = "A miniature of about a million parameters, trained by `metis-home demo`. It only handles its own tasks."


def run_demo(preset: str = "small", seed: int = 0, output_dir: str | Path = "runs/demo") -> dict:
    """
    Run the demo and write its results.

    Args:
        preset (`str`, *optional*, defaults to `"small"`):
            `"smoke"`: a few steps, to check the installation; `"small"`: one seed; `"full"`: three seeds.
        seed (`int`, *optional*, defaults to 0):
            Seed of initial weights, data and order; the first of several.
        output_dir (`str` or `Path`, *optional*, defaults to `"runs/demo"`):
            Folder to write. Must not exist, or be empty. Gets `report.html`, `results.json` and, for the first seed,
            `hybrid/` (the two-branch model as a Hub folder), `base/` (the dense base) and `digits.png` (a picture to
            ask about).

    Returns:
        `dict`: what `results.json` contains: `models.{model}.{task}` with `accuracy`, `stderr`, `n`, `malformed`,
        `thinking_ratio` and `mean_tokens`, for the tasks and the pools `easy` and `hard`; `seconds` per stage,
        `versions`, `seed`, `preset`, `statement`; with several seeds means, `spread` and `seeds`.

    Raises:
        ValueError: an unknown preset.
        FileExistsError: `output_dir` has content.
    """
    sizes = check_preset(preset)
    with staged_folder(output_dir) as staging, tempfile.TemporaryDirectory() as scratch:
        folders = {number: Path(scratch) / f"seed_{number}" for number in range(seed, seed + sizes.seeds)}
        runs = train_models(sizes, {**folders, seed: staging}, ("easy", "hard"))
        # In a fresh process, where nothing has been imported yet.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            samples = pool.submit(_samples, staging / "hybrid", seed).result()
        results = combine(runs, preset)
        (staging / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        write_report(results, samples, staging / "report.html")
    return results


def train_models(
    sizes: Preset, folders: dict[int, Path], pools: tuple[str, ...], method: Callable[..., dict] | None = None
) -> list[dict]:
    """
    Train and test the models of the comparison for some seeds, and show the progress.

    Args:
        sizes ([`~demo.presets.Preset`]):
            Of the stages.
        folders (`dict[int, Path]`):
            Seed to its folder, which gets `base/`, `hybrid/` and `digits.png`.
        pools (`tuple[str, ...]`):
            Names of the pools of tasks to report.
        method (`Callable`, *optional*):
            More work after the base, called in its own process with seed, folder and a function to report to, as
            [`run_stage`] does.

    Returns:
        `list[dict]`: per seed `seed`, `models` (name to figures), `seconds` (per stage) and the result of `method`.
    """
    context = multiprocessing.get_context("spawn")
    jobs: dict = {}
    percent = 100 / len(folders) / (len(STAGES) + (method is not None))  # of one job
    with (
        tempfile.TemporaryDirectory() as scratch,  # for the trainers' own files
        context.Manager() as manager,
        ProcessPoolExecutor(3, mp_context=context) as pool,
        progress("Training and testing", total=100, unit="%") as advance,
    ):
        events = manager.Queue()
        for stages in STAGES[:1], STAGES[1:]:
            for seed, folder in folders.items():
                if method is not None and stages != STAGES[:1]:  # the longest job first
                    jobs["method", seed] = pool.submit(method, seed, folder, events.put)
                for stage in stages:
                    threads = 2 if stage == "base" and len(folders) == 1 else 1
                    given = (sizes, seed, folder, Path(scratch), pools, threads, events.put)
                    jobs[stage, seed] = pool.submit(run_stage, stage, *given)
            while not (all(job.done() for job in jobs.values()) and events.empty()):
                with suppress(queue.Empty):
                    event = events.get(timeout=0.3)
                    print(event, flush=True) if isinstance(event, str) else advance(percent * event)
            for job in jobs.values():
                job.result()  # raises the error of a job that failed
    runs = []
    for seed in folders:
        found = {stage: jobs[stage, seed].result() for stage in STAGES}
        models = {name: figures for stage in STAGES for name, figures in found[stage][0].items()}
        seconds = {stage: seconds for stage, (_, seconds) in found.items()}
        run = {"seed": seed, "models": {name: models[name] for name in MODELS}, "seconds": seconds}
        runs.append(run if method is None else run | {"method": jobs["method", seed].result()})
    return runs


def run_stage(
    stage: str,
    sizes: Preset,
    seed: int,
    folder: Path,
    scratch: Path,
    pools: tuple[str, ...],
    threads: int,
    report: Callable[[float | str], None],
) -> tuple[dict, float]:
    """
    Train one model and answer the test questions with it, in its own process. `report` is called with the share of the
    work that was done since the last call, and with a line to print.

    Returns:
        `dict`, `float`: what [`~demo.stages.figures_of`] returns, and the seconds it took.
    """
    started = time.perf_counter()
    be_quiet()
    import torch
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration, TrainerCallback

    from ..conversion import save_hub_folder
    from ..miniature.tasks import TASKS, make_dataset
    from . import stages

    class Report(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            report(0.9 / state.max_steps)

    torch.set_num_threads(threads)
    folder.mkdir(parents=True, exist_ok=True)
    work = scratch / f"{stage}_{seed}"
    rows = make_dataset(dict.fromkeys(TASKS, sizes.test_rows), "test", seed)
    if stage == "base":
        model, processor = stages.train_base(sizes, seed, work, [Report()])
        model.save_pretrained(folder / "base")
        processor.save_pretrained(folder / "base")
        next(row for row in rows if row["task"] == "corner")["images"][0].save(folder / "digits.png")
    else:
        base = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder / "base")
        processor = AutoProcessor.from_pretrained(folder / "base")
        model = stages.train_from_base(stage, base, processor, sizes, seed, work, [Report()])
    figures = stages.figures_of(stage, model, processor, rows, pools)
    if stage == "hybrid":
        results = {task: {name: cell[name] for name in CARD_COLUMNS} for task, cell in figures[stage].items()}
        save_hub_folder(model, processor, folder / "hybrid", stage="sft", notes=[CARD_NOTE], results=results)
    seconds = time.perf_counter() - started
    report(0.1)
    report(stage_line(seed, MODELS[stage][0], seconds, figures[stage]))
    return figures, seconds


def stage_line(seed: int, name: str, seconds: float, figures: dict) -> str:
    """The line to print when a stage is done."""
    cells = ", ".join(f"{task} {100 * figures[task]['accuracy']:.0f} %" for task in ("easy", "hard"))
    return f"seed {seed}, {name.strip()} ({seconds:.0f} s): {cells}"


def _samples(folder: Path, seed: int) -> list[dict]:
    """
    Test questions and answers of the model in a Hub folder, loaded as anyone would, with `trust_remote_code=True`. For
    [`~demo.report.write_report`].
    """
    be_quiet()
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from ..answers import AnswerFormat
    from ..evaluation.outcomes import collect_outcomes
    from ..miniature.tasks import MAX_ANSWER_TOKENS, TASKS, make_dataset

    torch.set_num_threads(1)
    model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True).eval()
    if not type(model).__module__.startswith("transformers_modules."):
        raise RuntimeError(f"The model was built by {type(model).__module__}, not by the code in {folder}.")
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    rows = make_dataset(dict.fromkeys(TASKS, SAMPLES_PER_TASK), "test", seed + 1)
    rows = sorted(rows, key=lambda row: TASKS.index(row["task"]))
    outcomes = collect_outcomes(
        model, processor, rows, max_new_tokens=MAX_ANSWER_TOKENS, batch_size=len(rows), routed_only=True
    )
    samples = []
    for row, outcome in zip(rows, outcomes, strict=True):
        mode = "non_thinking" if outcome["text_thinking"] is None else "thinking"
        parsed = AnswerFormat.of(model.config).parse(outcome[f"text_{mode}"])
        image = row["images"][0] if row["images"] else None
        asked = {"image": image, "question": row["prompt"][-1]["content"], "gold": row["solution"], "task": row["task"]}
        routed = {"thinking_probability": outcome["thinking_probability"], "thinking": mode == "thinking"}
        answered = {"thought": parsed.thought, "answer": parsed.answer, "correct": outcome[f"correct_{mode}"]}
        samples.append(asked | routed | answered)
    return samples


def be_quiet() -> None:
    """Silence bars, prints and advice of the libraries in this process."""
    leave_out_remarks()
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing", category=FutureWarning)  # TRL sets it
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
