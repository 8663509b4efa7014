"""Tiny models, prompts and rewards for trainers on rewards."""

import torch
from datasets import Dataset
from PIL import Image

from hf_metis_home.trainers import MetisHomeGRPOConfig, MetisHomeGRPOTrainer
from tests.fixtures_text import tiny_dense, word_level_processor

from .common import QUESTIONS, make_hybrid


def make_prompts(count: int = 8, images=(1, 0, 2)) -> Dataset:
    rows = [
        {
            "prompt": [{"role": "user", "content": QUESTIONS[index % 3]}],
            "images": [
                Image.new("RGB", (56, 56), (index * 37 % 256, 90 * image, 60))
                for image in range(images[index % len(images)])
            ],
            "solution": str(index % 10),
        }
        for index in range(count)
    ]
    return Dataset.from_list(rows)


def parity(completion_ids, **kwargs) -> list[float]:
    """Varies among the answers of an untrained model."""
    return [float(sum(ids) % 3) for ids in completion_ids]


def likes_thinking(thinking, **kwargs) -> list[float]:
    return [float(value) for value in thinking]


def make_dense(seed: int = 0):
    processor = word_level_processor()
    return tiny_dense(processor, seed=seed), processor


def make_grpo(folder, model=None, dataset=None, rewards=(parity,), eval_dataset=None, trainer_options=None, **options):
    """A trainer of a tiny hybrid, or of a dense model without `rollout_branch`; `options` are the configuration's."""
    defaults = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 6,
        "max_steps": 1,
        "logging_steps": 1,
        "save_strategy": "no",
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "mask_truncated_completions": False,  # an untrained model never ends its answer
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
    }
    options = {**defaults, **options}
    if model is None:
        model = make_hybrid() if options.get("rollout_branch") else make_dense()
    return MetisHomeGRPOTrainer(
        model[0],
        list(rewards),
        MetisHomeGRPOConfig(**options),
        train_dataset=make_prompts() if dataset is None else dataset,
        eval_dataset=eval_dataset,
        processing_class=model[1],
        **(trainer_options or {}),
    )


def first_batch(trainer) -> dict:
    """The rollouts that the trainer would take its first step on."""
    trainer.current_gradient_accumulation_steps = 1  # which `train` sets
    trainer.model.train()
    return trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))


def rows_of(batch: dict):
    """Of every row of a TRL batch: prompt and completion without padding, `(1, T)` each, and its images."""
    images = batch.get("num_images") or [0] * len(batch["prompt_ids"])
    first_image = first_patch = 0
    for index, number in enumerate(images):
        prompt = batch["prompt_ids"][index][batch["prompt_mask"][index].bool()]
        completion = batch["completion_ids"][index][batch["completion_mask"][index].bool()]
        vision = {}
        if number:
            grid = batch["image_grid_thw"][first_image : first_image + number]
            patches = int(grid.prod(dim=1).sum())
            pixels = batch["pixel_values"][first_patch : first_patch + patches]
            vision = {"image_grid_thw": grid, "pixel_values": pixels}
            first_image, first_patch = first_image + number, first_patch + patches
        yield prompt[None], completion[None], vision


def inputs_of(model, ids: torch.Tensor, vision: dict) -> dict:
    """Without token types a dense Qwen2.5-VL numbers image tokens like text, without a word."""
    types = {"mm_token_type_ids": (ids == model.config.image_token_id).long()} if vision else {}
    return {"input_ids": ids, **types, **vision}


def log_probs_by_hand(model, batch: dict, thinking=None) -> torch.Tensor:
    """
    Log-probabilities of the completions of a TRL batch, row by row, by the plain forward; 0 where they are masked.

    `thinking` is None for a dense model, or has the branch of every row.
    """
    found = torch.zeros(batch["completion_ids"].shape)
    for index, (prompt, completion, vision) in enumerate(rows_of(batch)):
        length = completion.shape[1]
        ids = torch.cat([prompt, completion], dim=1)
        choice = {} if thinking is None else {"thinking": bool(thinking[index])}
        with torch.no_grad():
            logits = type(model).forward(model, **inputs_of(model, ids, vision), **choice).logits[0, :-1]
        scores = logits.log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        found[index, :length] = scores[len(scores) - length :]
    return found
