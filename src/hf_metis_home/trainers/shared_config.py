"""What both trainers' configurations share: the router's loss, and learning rates per group of parameters."""

from dataclasses import dataclass, field, fields


@dataclass
class RouterTrainingConfig:
    """Fields of [`MetisHomeSFTConfig`] and [`MetisHomeGRPOConfig`], which document them."""

    router_loss_coef: float = field(default=1.0, metadata={"help": "Weight of the router's loss."})
    router_learning_rate: float | None = field(
        default=1e-3, metadata={"help": "Learning rate of the router; None: the run's `learning_rate`."}
    )
    branch_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the branches; None: the run's `learning_rate`."}
    )


def wrong_choices(args) -> list[str]:
    """An error for every field of ours with a value outside its `choices`."""
    ours = [kind.__annotations__ for kind in type(args).__mro__ if kind.__module__.startswith(f"{__package__}.")]
    choices = {field.name: field.metadata["choices"] for field in fields(args) if "choices" in field.metadata}
    return [
        f"`{name}` is {getattr(args, name)!r}, but must be one of {allowed}."
        for name, allowed in choices.items()
        if any(name in names for names in ours) and getattr(args, name) not in allowed
    ]


def wrong_router_options(args) -> list[str]:
    """An error for every wrong value of the fields above, and for TRL's field that looks like one of them."""
    errors = []
    if args.router_loss_coef < 0:
        errors.append(f"`router_loss_coef` is {args.router_loss_coef}, but must not be negative.")
    for name in ("router_learning_rate", "branch_learning_rate"):
        if (rate := getattr(args, name)) is not None and rate <= 0:
            errors.append(f"`{name}` is {rate}, but must be positive, or None.")
    if args.router_aux_loss_coef is not None:
        errors.append("`router_aux_loss_coef` is for mixture-of-experts models. Use `router_loss_coef`.")
    return errors
