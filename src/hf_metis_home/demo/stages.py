"""
The training stages of the miniature, and its tests, as the demo, the benchmarks and the examples run them.

All training goes through the real trainers and the real processor. A stage takes models and returns models; what it
trains on follows from its sizes and a seed.
"""

from pathlib import Path
from typing import Literal

from datasets import Dataset
from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer

from ..conversion import upcycle
from ..data.build import build_data
from ..data.loading import load_rows
from ..data.prompt_sets import PromptSet
from ..data.rollouts import ModelRollouts
from ..evaluation.metrics import summarise
from ..evaluation.outcomes import collect_outcomes
from ..miniature.model import build_miniature
from ..miniature.tasks import EASY_TASKS, HARD_TASKS, LOCATED_TASKS, MAX_ANSWER_TOKENS, TASKS, make_dataset
from ..rewards import accuracy_reward, format_reward
from ..trainers import MetisHomeGRPOConfig, MetisHomeGRPOTrainer, MetisHomeSFTConfig, MetisHomeSFTTrainer
from ..trainers.fit_router import fit_router
from .presets import MethodSizes, Preset


POOLS = {"easy": EASY_TASKS, "hard": HARD_TASKS, "located": LOCATED_TASKS, "all": TASKS}
# Shares of the tasks in each stage's rows.
BASE_MIX = {
    "shapes": 26, "caption": 12, "corner": 8, "digits": 18, "words": 16, "chain": 6, "squares": 4,
    "located_easy": 6, "located_hard": 4,
}  # fmt: skip
DIRECT_MIX = {"shapes": 16, "corner": 5, "digits": 8, "words": 8, "located_easy": 13}
THINKING_MIX = {"chain": 24, "squares": 10, "located_hard": 16}
# More of the longest chains, which are learned last, so that all hard tasks are sometimes right when rewards take over.
COLD_MIX = {
    "chain": 40, "squares": 8, "located_hard": 8,
    "shapes": 10, "corner": 4, "digits": 6, "words": 8, "located_easy": 8,
}  # fmt: skip

LEARNING_RATE = 1.5e-3
RL_LEARNING_RATE = 2e-4
TOKEN_COST = 0.002  # 500 tokens are worth one right answer; an answer here has 6 to 40


def stage_rows(
    mix: dict[str, int], count: int, split: Literal["train", "dev", "test"], seed: int, thinking: bool | None = None
) -> Dataset:
    """About `count` rows in the shares of a mix, at least one per task."""
    total = sum(mix.values())
    return make_dataset({task: max(1, count * share // total) for task, share in mix.items()}, split, seed, thinking)


def train_base(preset: Preset, seed: int, output_dir: Path, callbacks=()):
    """
    The dense base, in the role of Qwen2.5-VL: it answers every task directly, the hard ones about as well as possible
    without written steps.

    Returns:
        The trained [`~transformers.Qwen2_5_VLForConditionalGeneration`] and its processor.
    """
    model, processor = build_miniature(seed)
    rows = stage_rows(BASE_MIX, preset.rows, "train", seed, thinking=False)
    return fit(model, processor, rows, preset, preset.base_steps, seed, output_dir, callbacks), processor


def train_from_base(stage: str, base, processor, preset: Preset, seed: int, output_dir: Path, callbacks=()):
    """
    A model trained from the dense base.

    Args:
        stage (`str`):
            `"hybrid"`: upcycled and trained on both modes (Stage-SFT), branches, shared parts and router together; or a
            dense control: `"reasoning_only"`, trained only on written steps, like a reasoning model; `"dense_mixed"`,
            trained on the hybrid's rows, so that it chooses its own mode.
        base, processor:
            Both are changed in place.
    """
    model = upcycle(base, processor, seed=seed) if stage == "hybrid" else base
    mix = THINKING_MIX if stage == "reasoning_only" else THINKING_MIX | DIRECT_MIX
    rows = stage_rows(mix, preset.rows, "train", seed + 1)
    return fit(model, processor, rows, preset, preset.stage_steps, seed, output_dir, callbacks)


def fit(model, processor, rows: Dataset, preset: Preset, steps: int, seed: int, output_dir: str | Path, callbacks=()):
    """Train a dense model with TRL's SFTTrainer, a two-branch one with ours; all else is equal."""
    two_branch = model.config.model_type == "metis_home"
    trainer_class, config_class = (MetisHomeSFTTrainer, MetisHomeSFTConfig) if two_branch else (SFTTrainer, SFTConfig)
    trainer = trainer_class(
        model,
        args=config_class(
            max_length=None,
            per_device_train_batch_size=preset.batch_size,
            **training_arguments(steps, seed, output_dir),
        ),
        train_dataset=rows,
        processing_class=processor,
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)  # the demo shows its own progress
    trainer.train()
    return model.eval()


def training_arguments(steps: int, seed: int, output_dir: str | Path) -> dict:
    """Arguments of all trainers of the miniature."""
    return {
        "output_dir": str(output_dir),
        "max_steps": steps,
        "learning_rate": LEARNING_RATE,
        "adam_beta2": 0.98,
        "warmup_steps": min(50, steps // 4),
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
        "seed": seed,
        "save_strategy": "no",
        "logging_steps": 20,
        "report_to": "none",
        "use_cpu": True,
        # Sensible on GPUs, slow here: a CPU without bf16 instructions emulates them.
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
    }


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


def own_data(model, processor, sizes: MethodSizes, seed: int, folder: Path) -> tuple[Dataset, dict]:
    """Rows by pass rate, and their report: the model's own traces if it is sometimes right, else the task's steps."""
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


def outcome_router(model, processor, sizes: MethodSizes, seed: int):
    """Only the router, fitted to the outcomes of both branches on questions that no stage has trained on."""
    rows = make_dataset(dict.fromkeys(TASKS, max(1, sizes.router_rows // len(TASKS))), "dev", seed + 5)
    fit_router(model, processor, rows, outcomes=outcomes_of(model, processor, rows), token_cost=TOKEN_COST, seed=seed)
    return model


def outcomes_of(model, processor, rows: Dataset) -> Dataset:
    """Answers of a model of the miniature."""
    return collect_outcomes(model, processor, rows, max_new_tokens=MAX_ANSWER_TOKENS, batch_size=200)


def figures_of(name: str, model, processor, rows: Dataset, pools: tuple[str, ...]) -> dict[str, dict]:
    """
    How well a model answers test questions.

    Returns:
        `dict`: `name` to what [`~evaluation.metrics.summarise`] returns, the tasks first, then the pools; for a hybrid
        also `{name}_thinking` and `{name}_non_thinking`, with one branch for all questions.
    """
    outcomes, threshold = outcomes_of(model, processor, rows), getattr(model.config, "thinking_threshold", 0.0)
    policies = {name: "model"}
    if model.config.model_type == "metis_home":
        policies = {name: "router", f"{name}_thinking": "thinking", f"{name}_non_thinking": "non_thinking"}
    found = {}
    for title, policy in policies.items():
        cells = summarise(outcomes, policy, threshold, {pool: POOLS[pool] for pool in pools})
        found[title] = {task: cells[task] for task in (*TASKS, *pools)}
    return found
