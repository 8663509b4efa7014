"""Trainers for two-branch models, thin over TRL's. Needs the extra `train`."""

from .._extras import require_extra


require_extra("train", "trl", "datasets")

from .sft_config import MetisHomeSFTConfig  # noqa: E402
from .sft_trainer import MetisHomeSFTTrainer  # noqa: E402


__all__ = ["MetisHomeSFTConfig", "MetisHomeSFTTrainer"]
