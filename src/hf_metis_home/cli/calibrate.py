"""
Choose the threshold of a model from its outcomes, and write it into its configuration. Nothing is generated.

Be at most two points less often right than when always thinking, with 95 % confidence:

    metis-home calibrate --model_name_or_path runs/hybrid --outcomes runs/outcomes --max_accuracy_drop 0.02

Think about at most 40 % of the questions, or write at most 200 tokens in the mean:

    metis-home calibrate --model_name_or_path runs/hybrid --outcomes runs/outcomes --thinking_ratio 0.4
    metis-home calibrate --model_name_or_path runs/hybrid --outcomes runs/outcomes --token_budget 200
"""

import sys
from dataclasses import dataclass, field

from ._run import run_verb


@dataclass
class CalibrateArguments:
    model_name_or_path: str = field(metadata={"help": "folder of a two-branch model; its config.json is written"})
    outcomes: str = field(metadata={"help": "folder that `metis-home eval` wrote, or its outcomes.parquet"})
    thinking_ratio: float | None = field(
        default=None, metadata={"help": "target: think about at most this share of the questions"}
    )
    token_budget: float | None = field(
        default=None, metadata={"help": "target: at most so many tokens per question in the mean"}
    )
    max_accuracy_drop: float | None = field(
        default=None,
        metadata={"help": "target: be right at most so much less often than when always thinking; 0.01 is one point"},
    )
    confidence: float = field(default=0.95, metadata={"help": "of the statement about the questions held out"})
    validation_fraction: float = field(default=0.5, metadata={"help": "share of the questions that are held out"})
    seed: int = field(default=0, metadata={"help": "seed of the split"})


def main(argv: list[str] | None = None) -> int:
    """`metis-home calibrate`. Takes the flags, gives the exit code."""
    return run_verb("calibrate", CalibrateArguments, _calibrate, argv, __doc__)


def _calibrate(arguments: CalibrateArguments) -> None:
    from .._extras import require_extra

    require_extra("eval", "datasets", "pyarrow", "scipy")
    from ..evaluation.calibrated_model import calibrate_model

    found = calibrate_model(**vars(arguments))
    print(found["statement"])
    print(
        f"Wrote thinking_threshold {found['threshold']:.4g} and how it was found to "
        f"{arguments.model_name_or_path}/config.json."
    )


if __name__ == "__main__":
    sys.exit(main())
