"""The four groups of a two-branch model's parameters, and which of them a run trains."""

from torch import nn

from ..modeling.configuration_metis_home import BRANCHES


GROUPS = ("shared", "thinking", "non_thinking", "router")

# What each value of `trainable` trains. All of a dense model is `shared`.
TRAINABLE = {
    "all": ("shared", "thinking", "non_thinking", "router"),
    "branches": ("thinking", "non_thinking", "router"),
    "router": ("router",),
    "thinking": ("thinking",),
    "non_thinking": ("non_thinking",),
}


def group_of(name: str) -> str:
    """The group of a parameter, by its name. PEFT's adapters and copies belong to what they adapt."""
    if ".router." in name:
        return "router"
    for branch in BRANCHES:
        if f".mlp.{branch}." in name or f".self_attn.{branch}." in name:
            return branch
    return "shared"


def trained_groups(trainable: str, train_router: bool | None) -> set[str]:
    """The groups of a value of `trainable`, with the router added or removed by `train_router`."""
    groups = set(TRAINABLE[trainable])
    if train_router is not None:
        groups = groups | {"router"} if train_router else groups - {"router"}
    return groups


def freeze(model: nn.Module, groups: set[str], unfreeze: bool = True) -> None:
    """
    Turn gradients off outside `groups`, and on inside unless `unfreeze` is False (then PEFT's choice stays).

    A parameter that requires a gradient but gets none would still move under AdamW's weight decay.
    """
    for name, parameter in model.named_parameters():
        inside = group_of(name) in groups
        parameter.requires_grad_(inside and (unfreeze or parameter.requires_grad))


def move_to_rate(optimizer, model: nn.Module, rates: dict[str, float]) -> None:
    """
    Give groups of parameters a learning rate of their own.

    Args:
        optimizer ([`~torch.optim.Optimizer`]):
            Its parameter groups are split in place; their other settings stay the same.
        model (`nn.Module`):
            Its parameter names determine the groups.
        rates (`dict[str, float]`):
            Learning rate by the name of the group.
    """
    names = {id(parameter): group_of(name) for name, parameter in model.named_parameters()}
    for settings in list(optimizer.param_groups):
        for name, rate in rates.items():
            moved = [parameter for parameter in settings["params"] if names.get(id(parameter)) == name]
            if moved:
                settings["params"] = [p for p in settings["params"] if names.get(id(p)) != name]
                rest = {key: value for key, value in settings.items() if key not in ("params", "lr", "initial_lr")}
                optimizer.add_param_group({**rest, "params": moved, "lr": rate})


def count_trainable(model: nn.Module) -> dict[str, tuple[int, int]]:
    """By group: trainable and all parameters."""
    counts = {group: [0, 0] for group in GROUPS}
    for name, parameter in model.named_parameters():
        size = getattr(parameter, "ds_numel", parameter.numel())  # ZeRO-3 keeps the data elsewhere
        count = counts[group_of(name)]
        count[0] += size * parameter.requires_grad
        count[1] += size
    return {group: (trained, total) for group, (trained, total) in counts.items()}


def describe_trainable(model: nn.Module) -> str:
    """A printable table with one line per group."""
    rows = count_trainable(model)
    return "Trainable parameters\n" + "\n".join(
        f"  {group:<13}{trained:>15,} of {total:,}" for group, (trained, total) in rows.items() if total
    )
