"""Trainers for both stages of the method, thin over TRL's. Needs the extra `train`."""

from .._extras import require_extra


require_extra("train", "trl", "datasets")

from .grpo_config import MetisHomeGRPOConfig  # noqa: E402
from .grpo_trainer import MetisHomeGRPOTrainer  # noqa: E402
from .sft_config import MetisHomeSFTConfig  # noqa: E402
from .sft_trainer import MetisHomeSFTTrainer  # noqa: E402


__all__ = ["MetisHomeGRPOConfig", "MetisHomeGRPOTrainer", "MetisHomeSFTConfig", "MetisHomeSFTTrainer"]
