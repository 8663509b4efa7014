"""
The whole method on the miniature, step by step, with what each step gains (`metis-home demo --stages all`).

base -> cold start (a few written steps) -> Stage-RL on the hard tasks -> rows by pass rate from the model's own
rollouts -> upcycle -> Stage-SFT -> a router fitted to the outcomes of both branches. And from the same base the models
of the plain demo. Everything goes through the library's own trainers and commands.

Models are trained side by side, each in its own process with one thread: models this small gain little from a second
one. Nothing is chosen on the test split: the router is fitted on the dev split, thresholds keep their defaults, and
only finished models answer the test questions.
"""

import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from .._folders import staged_folder
from .._versions import versions
from .comparison import STAGES, be_quiet, run_stage, stage_line
from .presets import METHOD_SIZES, PRESETS, check_preset
from .report import MODELS
from .tables import STEPS, markdown


POOLS = ("easy", "hard", "located", "all")


def run_method_demo(preset: str = "small", seed: int = 0, output_dir: str | Path = "runs/method") -> dict:
    """
    Train all models, run all stages, and write their results.

    Args:
        preset (`str`, *optional*, defaults to `"small"`):
            `"smoke"`: a few steps, to check the installation; `"small"`: one seed; `"full"`: three seeds.
        seed (`int`, *optional*, defaults to 0):
            The first of the seeds.
        output_dir (`str` or `Path`, *optional*, defaults to `"runs/method"`):
            Folder to write. Must not exist, or be empty. Gets `method.json`, `method.md`, and per seed a folder with
            `base/`, `hybrid/` and `digits.png`, as in the plain demo, and in `method/` `stage_rl/`, `data/` and
            `hybrid/`.

    Returns:
        `dict`: what `method.json` contains: `seeds`, per seed `demo` (model to task or pool to figures), `models` (the
        same per step of the method), `seconds` and `data`; `preset` and `versions`.

    Raises:
        ValueError: an unknown preset.
        FileExistsError: `output_dir` has content.
    """
    sizes = check_preset(preset)
    seeds = range(seed, seed + sizes.seeds)
    context = multiprocessing.get_context("spawn")
    with staged_folder(output_dir) as staging, tempfile.TemporaryDirectory() as scratch:
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            folders = {number: staging / f"seed_{number}" for number in seeds}
            plain = {}  # stage and seed to a model of the plain demo
            for stages in STAGES:
                for number, folder in folders.items():
                    for stage in stages:
                        plain[stage, number] = pool.submit(_plain_model, stage, preset, number, folder, Path(scratch))
                if stages == STAGES[0]:
                    for number in seeds:
                        plain["base", number].result()
                    steps = {number: pool.submit(_run_method, preset, number, folders[number]) for number in seeds}
            found = {}
            for number in seeds:
                run = steps[number].result()
                models = {}
                for stage in (stage for stages in STAGES for stage in stages):
                    figures, run["seconds"][f"demo: {stage}"] = plain[stage, number].result()
                    models |= figures
                found[str(number)] = {**run, "demo": {name: models[name] for name in MODELS}}
        results = {"preset": preset, "versions": versions(), "seeds": found}
        (staging / "method.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        (staging / "method.md").write_text(markdown(results), encoding="utf-8")
    return results


def _plain_model(stage: str, preset: str, seed: int, folder: Path, scratch: Path) -> tuple[dict, float]:
    folder.mkdir(parents=True, exist_ok=True)
    figures, seconds = run_stage(stage, PRESETS[preset], seed, folder, scratch, POOLS)
    _say(seed, MODELS[stage][0], seconds, figures[stage])
    return figures, seconds


def _run_method(preset: str, seed: int, folder: Path) -> dict:
    """
    All stages after the base, for one seed. Leaves `method/` in `folder`.

    Returns:
        `dict`: `models`, step to what [`~demo.stages.figures_of`] returns; `seconds` per step; `data`, the pass rates
        per task.
    """
    be_quiet()
    import torch
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    from ..conversion import save_hub_folder, upcycle
    from ..miniature.tasks import TASKS, make_dataset
    from . import stages

    torch.set_num_threads(1)
    plain, sizes = PRESETS[preset], METHOD_SIZES[preset]
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder / "base")
    processor = AutoProcessor.from_pretrained(folder / "base")
    folder = folder / "method"
    folder.mkdir()
    test = make_dataset(dict.fromkeys(TASKS, sizes.test_rows), "test", seed)
    models: dict = {}
    seconds: dict = {}

    def step(name: str, function: Callable):
        started = time.perf_counter()
        model = function()
        seconds[name] = time.perf_counter() - started
        figures = stages.figures_of(name, model, processor, test, POOLS)
        models.update({key: figures[key] for key in STEPS if key in figures})
        _say(seed, STEPS[name], seconds[name], figures[name])
        return model

    model = step("base", lambda: model)
    with tempfile.TemporaryDirectory() as scratch:  # for the trainers' own files
        model = step("cold_start", lambda: stages.cold_start(model, processor, plain, sizes, seed, scratch))
        model = step("stage_rl", lambda: stages.stage_rl(model, processor, sizes, seed, scratch))
        model.save_pretrained(folder / "stage_rl")
        rows, report = stages.own_data(model, processor, sizes, seed, folder / "data")
        # Branches, shared parts and router together.
        hybrid = upcycle(model, processor, seed=seed)
        model = step("stage_sft", lambda: stages.fit(hybrid, processor, rows, plain, sizes.sft_steps, seed, scratch))
    try:
        step("outcome_router", lambda: stages.outcome_router(model, processor, sizes, seed))
    except ValueError as error:  # of a model that has learned nothing, as after a smoke run
        models["outcome_router"], seconds["outcome_router"] = None, str(error)
    save_hub_folder(model, processor, folder / "hybrid", stage="sft")
    return {"models": models, "seconds": seconds, "data": report["tasks"]}


def _say(seed: int, name: str, seconds: float, figures: dict) -> None:
    print(stage_line(seed, name, seconds, figures), file=sys.__stdout__, flush=True)  # `be_quiet` silenced the other
