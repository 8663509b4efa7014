"""Sizes of a demo run. Light to import, so that the command line can check its arguments at once."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """Sizes of a run: optimizer steps, rows per batch, rows to draw batches from, test rows per task, seeds."""

    base_steps: int
    stage_steps: int
    batch_size: int
    rows: int
    test_rows: int
    seeds: int = 1


@dataclass(frozen=True)
class MethodSizes:
    """Optimizer steps of the stages, prompts that are rolled out for data, rows for the router, test rows per task."""

    cold_steps: int
    rl_steps: int
    prompts: int
    sft_steps: int
    router_rows: int
    test_rows: int
    rl_batch: int = 128
    n_rollouts: int = 8


# Twice the batch and half the steps cost the same, but then not every seed learns the arithmetic of the hard tasks.
PRESETS = {
    "smoke": Preset(base_steps=3, stage_steps=3, batch_size=8, rows=48, test_rows=4),
    "small": Preset(base_steps=1300, stage_steps=800, batch_size=32, rows=12_000, test_rows=200),
    "full": Preset(base_steps=1300, stage_steps=800, batch_size=32, rows=12_000, test_rows=200, seeds=3),
}
METHOD_SIZES = {
    "smoke": MethodSizes(2, 1, 12, 2, 32, 4, rl_batch=16, n_rollouts=2),
    "small": MethodSizes(465, 200, 1000, 800, 1200, 200),
}
METHOD_SIZES["full"] = METHOD_SIZES["small"]


def check_preset(preset: str) -> Preset:
    """The sizes of a preset, by its name."""
    if preset not in PRESETS:
        raise ValueError(f"`preset` is {preset!r}, but must be one of {list(PRESETS)}.")
    return PRESETS[preset]
