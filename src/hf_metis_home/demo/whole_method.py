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
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from .._folders import staged_folder
from .._versions import versions
from .comparison import be_quiet, stage_line, train_models
from .presets import METHOD_SIZES, PRESETS, check_preset
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
    with staged_folder(output_dir) as staging:
        folders = {number: staging / f"seed_{number}" for number in range(seed, seed + sizes.seeds)}
        seeds = {}
        for run in train_models(sizes, folders, POOLS, partial(_run_method, preset)):
            method = run["method"]
            seconds = method["seconds"] | {f"demo: {stage}": value for stage, value in run["seconds"].items()}
            seeds[str(run["seed"])] = {**method, "demo": run["models"], "seconds": seconds}
        results = {"preset": preset, "versions": versions(), "seeds": seeds}
        (staging / "method.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        (staging / "method.md").write_text(markdown(results), encoding="utf-8")
    return results


def _run_method(preset: str, seed: int, folder: Path, report: Callable[[float | str], None]) -> dict:
    """
    All stages after the base, for one seed. Leaves `method/` in `folder`. `report` as in `run_stage`.

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
        report(0.2)  # there are five steps
        report(stage_line(seed, STEPS[name], seconds[name], figures[name]))
        return model

    model = step("base", lambda: model)
    with tempfile.TemporaryDirectory() as scratch:  # for the trainers' own files
        model = step("cold_start", lambda: stages.cold_start(model, processor, plain, sizes, seed, scratch))
        model = step("stage_rl", lambda: stages.stage_rl(model, processor, sizes, seed, scratch))
        model.save_pretrained(folder / "stage_rl")
        rows, pass_rates = stages.own_data(model, processor, sizes, seed, folder / "data")
        # Branches, shared parts and router together.
        hybrid = upcycle(model, processor, seed=seed)
        model = step("stage_sft", lambda: stages.fit(hybrid, processor, rows, plain, sizes.sft_steps, seed, scratch))
    try:
        step("outcome_router", lambda: stages.outcome_router(model, processor, sizes, seed))
    except ValueError as error:  # of a model that has learned nothing, as after a smoke run
        models["outcome_router"], seconds["outcome_router"] = None, str(error)
    save_hub_folder(model, processor, folder / "hybrid", stage="sft")
    return {"models": models, "seconds": seconds, "data": pass_rates["tasks"]}
