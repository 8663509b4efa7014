"""The four groups of a two-branch model's parameters, and which of them a run trains."""

from torch import nn

from ..modeling.configuration_metis_home import BRANCHES


GROUPS = ("shared", "thinking", "non_thinking", "router")

# What each value of `trainable` trains. The router is added or left out by `train_router`.
TRAINABLE = {
    "all": ("shared", "thinking", "non_thinking", "router"),
    "branches": ("thinking", "non_thinking", "router"),
    "router": ("router",),
    "thinking": ("thinking",),
    "non_thinking": ("non_thinking",),
}


def group_of(name: str) -> str:
    """The group of a parameter, by its name; adapters and copies that PEFT makes belong to what they adapt."""
    if ".router." in name:
        return "router"
    for branch in BRANCHES:
        if f".mlp.{branch}." in name or f".self_attn.{branch}." in name:
            return branch
    return "shared"


def freeze(model: nn.Module, trainable: str, train_router: bool | None) -> None:
    """
    Leave gradients on for the groups of `trainable` and off for the rest.

    What is off is off for good: a parameter that merely gets no gradient still moves under AdamW's weight decay.
    """
    groups = set(TRAINABLE[trainable])
    if train_router is not None:
        groups = groups | {"router"} if train_router else groups - {"router"}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(group_of(name) in groups)


def count_trainable(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Per group: parameters that train, and all."""
    counts = {group: [0, 0] for group in GROUPS}
    for name, parameter in model.named_parameters():
        count = counts[group_of(name)]
        count[0] += parameter.numel() * parameter.requires_grad
        count[1] += parameter.numel()
    return {group: (trained, total) for group, (trained, total) in counts.items()}


def describe_trainable(model: nn.Module) -> str:
    """One line per group, for people."""
    rows = count_trainable(model)
    return "Trainable parameters\n" + "\n".join(
        f"  {group:<13}{trained:>15,} of {total:,}" for group, (trained, total) in rows.items()
    )
