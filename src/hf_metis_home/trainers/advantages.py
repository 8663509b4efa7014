"""
What a group of completions teaches: advantages for the branches, and targets for the router.

All functions take values of the whole generation batch, `num_generations` consecutive ones per prompt. If both branches
answer, they take turns: even positions of a group are thinking.
"""

import torch


def alternating(count: int, start: int, num_generations: int) -> torch.BoolTensor:
    """Which of `count` rows are thinking, `(count,)`; the first one is row `start` of the generation batch."""
    return (torch.arange(start, start + count) % num_generations) % 2 == 0


def branch_advantages(rewards: torch.Tensor, num_generations: int, scale_rewards: str) -> torch.Tensor:
    """
    Advantages of completions over those of the same prompt *and branch*; TRL's are over those of the same prompt.

    Args:
        rewards (`torch.FloatTensor` of shape `(N,)`):
            Weighted sums over the reward functions.
        num_generations (`int`):
            Completions per prompt, even.
        scale_rewards (`str`):
            What they are divided by, as in [`~trl.GRPOConfig`].

    Returns:
        `torch.FloatTensor` of shape `(N,)`.
    """
    pairs = rewards.view(-1, num_generations // 2, 2)  # [prompts, completions per branch, branches]
    advantages = pairs - pairs.mean(dim=1, keepdim=True)
    if scale_rewards == "group" and num_generations > 2:
        advantages = advantages / (pairs.std(dim=1, keepdim=True) + 1e-4)
    elif scale_rewards == "batch":
        advantages = advantages / (rewards.std() + 1e-4)
    return advantages.flatten()


def router_gain(utilities: torch.Tensor, num_generations: int) -> torch.Tensor:
    """Mean utility of the thinking branch minus the other's, per prompt, repeated for its completions: `(N,)`."""
    mean = utilities.view(-1, num_generations // 2, 2).mean(dim=1)  # [prompts, 2]
    return (mean[:, 0] - mean[:, 1]).repeat_interleave(num_generations)


def router_advantages(utilities: torch.Tensor, num_generations: int) -> torch.Tensor:
    """Utility of each completion minus the mean of the prompt's others (leave one out): `(N,)`."""
    groups = utilities.view(-1, num_generations)
    return ((groups - groups.mean(dim=1, keepdim=True)) * num_generations / (num_generations - 1)).flatten()
