"""
Dynamic sampling: prompts whose completions all have the same reward teach nothing, and are replaced by others before a
step is taken (DAPO, arXiv 2503.14476; bounded here). TRL has none.

All ranks take the same decisions: rewards are gathered, and the prompts drawn depend on seed and step alone.
"""

import random
from collections import defaultdict
from typing import NamedTuple

import torch
from accelerate.utils import gather_object
from trl.data_utils import prepare_multimodal_messages


class Rollout(NamedTuple):
    """One completion of a prompt, and the branch that gave it (None for a dense model)."""

    row: dict
    completion_ids: list[int]
    logprobs: list | None  # as vLLM sampled it
    thinking: bool | None


def replace_groups_without_signal(trainer, inputs: list[dict]):
    """
    Roll out this rank's rows, replace the groups that teach nothing, and say what is left.

    Args:
        trainer ([`MetisHomeGRPOTrainer`]):
            Generates and scores.
        inputs (`list[dict]`):
            Rows of this rank: its part of consecutive groups of `num_generations` copies.

    Returns:
        The rows to train on, as many as before; what `_generate_single_turn` returns for them (token ids of their
        completions, and their log-probabilities or None); their branches as a `torch.BoolTensor`, or None for a dense
        model. Another scoring of them gives what the step trains on.
    """
    accelerator, size = trainer.accelerator, trainer.num_generations
    kept, has_signal = _roll_out(trainer, inputs)
    start = accelerator.process_index * len(inputs)
    missing = [group for group, useful in enumerate(has_signal) if not useful]
    count, replaced = len(has_signal), 0
    for round_number in range(trainer.args.dynamic_sampling_rounds):
        if not missing:
            break
        fresh = _draw_rows(trainer, len(missing), round_number)
        share = len(fresh) * size // accelerator.num_processes
        local = slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)
        rows = [trainer.train_dataset[fresh[i // size]] for i in range(local.start, local.stop)]
        rollouts, has_signal = _roll_out(trainer, rows)
        # Rows stay where they are: every rank can read the dataset. Only what was generated travels.
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
    thinking = logprobs = None
    if trainer.two_branch:
        thinking = torch.tensor([rollout.thinking for rollout in kept], device=accelerator.device)
    if kept[0].logprobs is not None:
        logprobs = [rollout.logprobs for rollout in kept]
    return [rollout.row for rollout in kept], ([rollout.completion_ids for rollout in kept], logprobs), thinking


def with_images(row: dict) -> dict:
    """A row of the dataset with a list of images, empty where there is none; as it is if it has no such column."""
    if "images" in row:
        return {**row, "images": row["images"] or []}
    if "image" in row:
        return {**row, "images": [] if row["image"] is None else [row["image"]]}
    return row


def _roll_out(trainer, rows: list[dict]) -> tuple[list[Rollout], list[bool]]:
    """This rank's rollouts, and for each group of all ranks whether it teaches anything."""
    rows = [with_images(row) for row in rows]
    prompts = [
        prepare_multimodal_messages(row["prompt"], images=row["images"]) if "images" in row else row["prompt"]
        for row in rows
    ]
    # TRL logs what it generates and scores; here only what will be trained on counts.
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
    """For each group of the completions last scored, of all ranks, whether anything that trains learns from it."""
    args, size = trainer.args, trainer.num_generations
    learns = torch.zeros(len(trainer._rewards) // size, dtype=torch.bool, device=trainer._rewards.device)
    if "router" in args.groups:
        learns |= trainer.router_signal(size).view(-1, size).abs().amax(dim=1) > 1e-6
    if args.groups != {"router"}:
        # With an advantage per branch, a group that only differs between its branches teaches nothing.
        halves = 2 if args.advantage_group == "branch" else 1
        groups = trainer._rewards.view(-1, size // halves, halves)
        advantages = (groups - groups.mean(dim=1, keepdim=True)).reshape(-1, size)
        if args.mask_truncated_completions:
            ended = torch.tensor([ids[-1] in trainer.eos_token_ids for ids in completion_ids], device=learns.device)
            advantages = advantages * trainer.accelerator.gather(ended).view(-1, size)
        learns |= advantages.abs().amax(dim=1) > 1e-6
    return learns.tolist()


def _draw_rows(trainer, groups: int, round_number: int) -> list[int]:
    """Indices of prompts for at least so many groups, the same on all ranks, to be shared out among them evenly."""
    while groups * trainer.num_generations % trainer.accelerator.num_processes:
        groups += 1
    count = len(trainer.train_dataset)
    drawn = random.Random(f"{trainer.args.seed} {trainer.state.global_step} {trainer._step} {round_number}")
    order = drawn.sample(range(count), count)
    return [order[i % count] for i in range(groups)]
