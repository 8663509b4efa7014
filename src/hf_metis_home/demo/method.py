"""
The whole method on the miniature, step by step, with what each step gains (`metis-home demo --stages all`).

base -> cold start (a few written steps) -> Stage-RL on the hard tasks -> rows by pass rate from its own rollouts ->
upcycle -> Stage-SFT -> a router fitted to what both branches make of the questions.

Every step goes through the library's own trainers and commands; the model after each answers the same test questions.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PrinterCallback

from ..answers.matching import answers_match
from ..conversion import upcycle
from ..data.build import build_data
from ..data.loading import load_rows
from ..data.prompt_sets import PromptSet
from ..data.rollouts import ModelRollouts
from ..evaluation import answer_rows, summarise
from ..evaluation.outcomes import collect_outcomes
from ..miniature.tasks import EASY_TASKS, HARD_TASKS, LOCATED_TASKS, MAX_ANSWER_TOKENS, TASKS, make_dataset
from ..rewards import accuracy_reward, format_reward
from ..trainers import MetisHomeGRPOConfig, MetisHomeGRPOTrainer
from ..trainers.fit_router import fit_router
from .presets import Preset
from .stages import DIRECT_MIX, THINKING_MIX, fit, stage_rows, training_arguments


@dataclass(frozen=True)
class MethodSizes:
    """Optimizer steps of the stages, prompts whose rollouts become data, rows for the router, test rows per task."""

    cold_steps: int
    rl_steps: int
    prompts: int
    sft_steps: int
    router_rows: int
    test_rows: int
    rl_batch: int = 128
    n_rollouts: int = 8


SIZES = {
    "smoke": MethodSizes(2, 1, 12, 2, 32, 4, rl_batch=16, n_rollouts=2),
    "small": MethodSizes(465, 200, 1000, 800, 1200, 200),
}
SIZES["full"] = SIZES["small"]

POOLS = {"easy": EASY_TASKS, "hard": HARD_TASKS, "located": LOCATED_TASKS, "all": TASKS}
# More of the longest chains, which are learnt last, so that all hard tasks are sometimes right when rewards take over.
COLD_MIX = {
    "chain": 40, "squares": 8, "located_hard": 8,
    "shapes": 10, "corner": 4, "digits": 6, "words": 8, "located_easy": 8,
}  # fmt: skip
RL_LEARNING_RATE = 2e-4
TOKEN_COST = 0.002  # 500 tokens are worth one right answer; an answer here has 6 to 40


def run_method(base, processor, preset: Preset, sizes: MethodSizes, seed: int, folder: Path, say: Callable):
    """
    All stages after the base, for one seed.

    Args:
        base, processor:
            The dense base and its processor. Both are changed in place.
        preset ([`Preset`]):
            Batch size and rows of the supervised stages.
        sizes ([`MethodSizes`]):
            Of the stages here.
        seed (`int`):
            Of data, order and sampling.
        folder (`Path`):
            Gets `stage_rl/` and `data/`.
        say (`Callable`):
            Called with the name of a stage when it is done, its seconds and its summary.

    Returns:
        `dict`, and the last model: `models`, stage to pool or task to the figures of [`~evaluation.summarise`], the
        hybrid also with either branch forced; `seconds` per stage; `data`, what the pass rates were per task.
    """
    test = make_dataset(dict.fromkeys(TASKS, sizes.test_rows), "test", seed)
    results: dict = {}
    seconds: dict = {}

    def answer(name: str, model, **choice) -> None:
        records = answer_rows(
            model, processor, test, max_new_tokens=MAX_ANSWER_TOKENS, batch_size=200, match=answers_match, **choice
        )
        results[name] = summarise(records, POOLS)

    def stage(name: str, function: Callable):
        started = time.perf_counter()
        model = function()
        seconds[name] = time.perf_counter() - started
        answer(name, model)
        say(name, seconds[name], results[name])
        return model

    model = stage("base", lambda: base)
    with tempfile.TemporaryDirectory() as scratch:  # what trainers write besides
        model = stage("cold_start", lambda: cold_start(model, processor, preset, sizes, seed, scratch))
        model = stage("stage_rl", lambda: stage_rl(model, processor, sizes, seed, scratch))
        model.save_pretrained(folder / "stage_rl")
        rows, report = own_data(model, processor, sizes, seed, folder / "data")
        model = stage("stage_sft", lambda: stage_sft(model, processor, rows, preset, sizes, seed, scratch))
    answer("stage_sft_thinking", model, thinking=True)
    answer("stage_sft_non_thinking", model, thinking=False)
    try:
        stage("outcome_router", lambda: outcome_router(model, processor, sizes, seed))
    except ValueError as error:  # of a model that has learnt nothing, as after a smoke run
        results["outcome_router"], seconds["outcome_router"] = None, str(error)
    return {"models": results, "seconds": seconds, "data": report["tasks"]}, model


def cold_start(model, processor, preset: Preset, sizes: MethodSizes, seed: int, scratch: str):
    """A short supervised start on both formats, after which the hard tasks are sometimes right."""
    rows = stage_rows(COLD_MIX, preset.rows, "train", seed + 1)
    return fit(model, processor, rows, preset, sizes.cold_steps, seed, scratch)


def stage_rl(model, processor, sizes: MethodSizes, seed: int, scratch: str, callbacks=()):
    """GRPO on the hard tasks, on the dense model, as published."""
    rows = stage_rows(THINKING_MIX, max(sizes.prompts * 3, sizes.rl_batch), "train", seed + 2)
    arguments = training_arguments(sizes.rl_steps, seed, scratch) | {
        "per_device_train_batch_size": sizes.rl_batch,
        "num_generations": 8,
        "max_completion_length": MAX_ANSWER_TOKENS,
        "learning_rate": RL_LEARNING_RATE,
        "lr_scheduler_type": "constant_with_warmup",
        "lr_scheduler_kwargs": None,
        "warmup_steps": 10,
        "reward_weights": [1.0, 0.2],
        "dynamic_sampling_rounds": 1,
    }
    trainer = MetisHomeGRPOTrainer(
        model,
        [accuracy_reward, format_reward],
        MetisHomeGRPOConfig(**arguments),
        train_dataset=rows.remove_columns(["completion", "thinking"]),
        processing_class=processor,
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return model.eval()


def own_data(model, processor, sizes: MethodSizes, seed: int, folder: Path):
    """Rows by pass rate: the model's own traces where it is sometimes right, the tasks' written steps where never."""
    hard = stage_rows(THINKING_MIX, sizes.prompts, "train", seed + 3)
    experts = [row[0]["content"] for row in hard["completion"]]
    hard = hard.remove_columns(["completion", "thinking"]).add_column("expert_completion", experts)
    general = stage_rows(DIRECT_MIX, 3 * sizes.prompts, "train", seed + 4)
    report = build_data(
        PromptSet(hard, "hard prompts"),
        ModelRollouts(model, processor, "stage_rl", max_new_tokens=MAX_ANSWER_TOKENS, batch_size=16, seed=seed),
        folder,
        general=PromptSet(general.remove_columns(["completion", "thinking"]), "easy prompts"),
        n_rollouts=sizes.n_rollouts,
        seed=seed,
    )
    return load_rows(folder), report


def stage_sft(dense, processor, rows, preset: Preset, sizes: MethodSizes, seed: int, scratch: str):
    """Upcycle, and train branches, shared parts and router together on the rows."""
    model = upcycle(dense, processor, seed=seed)
    return fit(model, processor, rows, preset, sizes.sft_steps, seed, scratch)


@torch.no_grad()
def outcomes_of(model, processor, rows):
    return collect_outcomes(
        model, processor, rows, max_new_tokens=MAX_ANSWER_TOKENS, batch_size=200, match=answers_match
    )


def outcome_router(model, processor, sizes: MethodSizes, seed: int):
    """The router alone, on what both branches make of questions that no stage has trained on."""
    rows = make_dataset(dict.fromkeys(TASKS, max(1, sizes.router_rows // len(TASKS))), "dev", seed + 5)
    fit_router(model, processor, rows, outcomes=outcomes_of(model, processor, rows), token_cost=TOKEN_COST, seed=seed)
    return model
