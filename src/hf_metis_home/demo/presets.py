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


# Twice the batch and half the steps cost the same, and do not learn the hard tasks' arithmetic with every seed.
PRESETS = {
    "smoke": Preset(base_steps=3, stage_steps=3, batch_size=8, rows=48, test_rows=4),
    "small": Preset(base_steps=1300, stage_steps=800, batch_size=32, rows=12_000, test_rows=200),
    "full": Preset(base_steps=1300, stage_steps=800, batch_size=32, rows=12_000, test_rows=200, seeds=3),
}
