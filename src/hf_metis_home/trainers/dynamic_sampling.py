"""
Dynamic sampling (DAPO, arXiv 2503.14476; bounded here): prompts whose completions all have the same reward give no
learning signal and are replaced by others before a step. TRL has no such option.

All ranks make the same decisions: rewards are gathered, and the prompts drawn depend only on seed and step.
"""

import random
from collections import defaultdict
from typing import NamedTuple

import torch
from accelerate.utils import gather_object
from trl.data_utils import prepare_multimodal_messages


class Rollout(NamedTuple):
    """One completion of a prompt, and its branch (None for a dense model)."""

    row: dict
    completion_ids: list[int]
    logprobs: list | None  # vLLM's
    thinking: bool | None


def replace_groups_without_signal(trainer, inputs: list[dict]):
    """
    Roll out this rank's rows and replace groups without a learning signal by others with one.

    Args:
        trainer ([`MetisHomeGRPOTrainer`]):
            Generates and scores.
        inputs (`list[dict]`):
            This rank's part of consecutive groups of `num_generations` copies of a row.

    Returns:
        The rows to train on, as many as before; what `_generate_single_turn` should return for them (token ids of their
        completions, and log-probabilities or None); their branches as a `torch.BoolTensor`, or None for a dense model.
        TRL then scores them again.
    """
    accelerator, size = trainer.accelerator, trainer.num_generations
    kept, has_signal = _roll_out(trainer, inputs)
    start = accelerator.process_index * len(inputs)
    missing = [group for group, useful in enumerate(has_signal) if not useful]
    count, replaced = len(has_signal), 0
    for round_number in range(trainer.args.dynamic_sampling_rounds):
        if not missing:
            break
        # Roll out as many new prompts as groups are missing; every rank takes its share.
        fresh = _draw_rows(trainer, len(missing), round_number)
        share = len(fresh) * size // accelerator.num_processes
        local = slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)
        rows = [trainer.train_dataset[fresh[i // size]] for i in range(local.start, local.stop)]
        rollouts, has_signal = _roll_out(trainer, rows)
        # Replace groups without a signal, on their rank. Ranks only exchange what was generated, because
        # all can read the dataset.
        everywhere = gather_object([rollout[1:] for rollout in rollouts])
        for group, useful in enumerate(has_signal):
            if not useful or not missing:
                continue
            place, replaced = missing.pop(0) * size, replaced + 1
            for offset in range(size):
                if start <= place + offset < start + len(inputs):
                    row = with_images(trainer.train_dataset[fresh[group]])
                    kept[place + offset - start] = Rollout(row, *everywhere[group * size + offset])
    trainer._metrics["train"]["dynamic_sampling/replaced"].append(replaced / count)
    trainer._metrics["train"]["dynamic_sampling/without_signal"].append(len(missing) / count)
    rows, completion_ids, logprobs, thinking = map(list, zip(*kept, strict=True))
    branches = torch.tensor(thinking, device=accelerator.device) if trainer.two_branch else None
    return rows, (completion_ids, None if logprobs[0] is None else logprobs), branches


def with_images(row: dict) -> dict:
    """A row with `images` as a list, empty if there are none; unchanged if the dataset has no column of images."""
    if "images" in row:
        return {**row, "images": row["images"] or []}
    if "image" in row:
        return {**row, "images": [] if row["image"] is None else [row["image"]]}
    return row


def _roll_out(trainer, rows: list[dict]) -> tuple[list[Rollout], list[bool]]:
    """This rank's rollouts, and for each group of all ranks whether it gives a learning signal."""
    rows = [with_images(row) for row in rows]
    prompts = [
        prepare_multimodal_messages(row["prompt"], images=row["images"]) if "images" in row else row["prompt"]
        for row in rows
    ]
    # TRL logs everything it generates and scores, but only what will be trained on should be logged.
    metrics, trainer._metrics = trainer._metrics, {"train": defaultdict(list), "eval": defaultdict(list)}
    try:
        _, completion_ids, _, completions, logprobs, *_ = trainer._generate(prompts)
        trainer._calculate_rewards(rows, prompts, completions, completion_ids)
    finally:
        trainer._metrics = metrics
        trainer._pending_extra_logs.clear()
        trainer._pending_metrics.clear()
    nothing = [None] * len(rows)
    thinking = trainer._thinking.tolist() if trainer.two_branch else nothing
    rollouts = [Rollout(*found) for found in zip(rows, completion_ids, logprobs or nothing, thinking, strict=True)]
    return rollouts, _has_signal(trainer, completion_ids)


def _has_signal(trainer, completion_ids: list[list[int]]) -> list[bool]:
    """For each group of the completions last scored, of all ranks, whether anything learns from it."""
    args, size = trainer.args, trainer.num_generations
    learns = torch.zeros(len(trainer._rewards) // size, dtype=torch.bool, device=trainer._rewards.device)
    if "router" in args.groups:
        learns |= trainer.router_signal(size).view(-1, size).abs().amax(dim=1) > 1e-6
    if args.groups != {"router"}:
        # With advantages per branch, a difference only between branches gives no signal.
        branches = 2 if args.advantage_group == "branch" else 1
        groups = trainer._rewards.view(-1, size // branches, branches)
        advantages = (groups - groups.mean(dim=1, keepdim=True)).reshape(-1, size)
        if args.mask_truncated_completions:
            ended = torch.tensor([ids[-1] in trainer.eos_token_ids for ids in completion_ids], device=learns.device)
            advantages = advantages * trainer.accelerator.gather(ended).view(-1, size)
        learns |= advantages.abs().amax(dim=1) > 1e-6
    return learns.tolist()


def _draw_rows(trainer, groups: int, round_number: int) -> list[int]:
    """Indices of prompts for at least `groups` groups, the same on all ranks, which they can share evenly."""
    while groups * trainer.num_generations % trainer.accelerator.num_processes:
        groups += 1
    count = len(trainer.train_dataset)
    drawn = random.Random(f"{trainer.args.seed} {trainer.state.global_step} {trainer._step} {round_number}")
    order = drawn.sample(range(count), count)
    return [order[i % count] for i in range(groups)]
