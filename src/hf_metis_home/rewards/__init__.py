"""Rewards for reinforcement learning, with the signature of TRL's. Needs the extra `train`."""

from .._extras import require_extra


require_extra("train", "trl", "math_verify")

from trl.rewards import get_soft_overlong_punishment  # noqa: E402

from ..answers.matching import answers_match  # noqa: E402
from .accuracy import accuracy_reward  # noqa: E402
from .format import format_reward, thought_leak_penalty  # noqa: E402


__all__ = ["accuracy_reward", "answers_match", "format_reward", "get_soft_overlong_punishment", "thought_leak_penalty"]
