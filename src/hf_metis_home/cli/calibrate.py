"""
Choose a model's threshold from its outcomes and write it into its configuration. Nothing is generated.

Lose at most two points of accuracy compared with always thinking, with 95 % confidence:

    metis-home calibrate --model_name_or_path runs/hybrid --outcomes runs/outcomes --max_accuracy_drop 0.02

Think about at most 40 % of the questions, or use at most 200 tokens per question on average:

    metis-home calibrate --model_name_or_path runs/hybrid --outcomes runs/outcomes --thinking_ratio 0.4
    metis-home calibrate --model_name_or_path runs/hybrid --outcomes runs/outcomes --token_budget 200
"""

from dataclasses import dataclass

from .._extras import require_extra
from ._arguments import flag
from ._run import verb


@dataclass
class CalibrateArguments:
    model_name_or_path: str = flag("folder of a two-branch model; its config.json is changed")
    outcomes: str = flag("folder that `metis-home eval` wrote, or its outcomes.parquet")
    thinking_ratio: float | None = flag("target: maximum share of questions to think about", None)
    token_budget: float | None = flag("target: maximum mean tokens per question", None)
    max_accuracy_drop: float | None = flag(
        "target: maximum accuracy drop compared with always thinking; 0.01 is one point", None
    )
    confidence: float = flag("confidence of the statement about the held-out questions", 0.95)
    validation_fraction: float = flag("share of the questions to hold out", 0.5)
    seed: int = flag("seed of the split", 0)


@verb
def main(arguments: CalibrateArguments) -> None:
    """Run `metis-home calibrate`."""
    require_extra("eval", "datasets", "pyarrow", "scipy")
    from ..evaluation.calibrated_model import calibrate_model

    calibration = calibrate_model(**vars(arguments))
    print(calibration["statement"])
    print(
        f"Wrote thinking_threshold {calibration['threshold']:.4g} and the calibration behind it to "
        f"{arguments.model_name_or_path}/config.json."
    )


if __name__ == "__main__":
    raise SystemExit(main())
