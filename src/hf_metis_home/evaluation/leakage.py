"""Whether answers have the form of their mode, and whether reasoning leaks into answers that should have none."""

import re
from collections.abc import Sequence

from ..rewards import format_reward, thought_leak_penalty


# English, as the texts of the benchmarks are; a word counts only as a whole.
REFLECTIVE = (
    "wait", "hmm", "alternatively", "let me", "let's", "double-check", "double check", "recheck", "re-check", "verify",
    "check again", "reconsider", "on second thought", "step by step", "first,", "actually,", "therefore",
)  # fmt: skip
_PATTERN = re.compile("|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in REFLECTIVE), re.IGNORECASE)


def format_validity(texts: Sequence[str], thinking: bool) -> float | None:
    """Share of texts that [`~rewards.format_reward`] finds well formed for their mode; None without texts."""
    rewards = format_reward(list(texts), thinking=[thinking] * len(texts))
    return sum(rewards) / len(rewards) if rewards else None


def leakage(texts: Sequence[str], tokens: Sequence[float]) -> dict[str, float] | None:
    """
    Signs of reasoning in answers of the non-thinking branch.

    Args:
        texts (`Sequence[str]`):
            The answers.
        tokens (`Sequence[float]`):
            Their lengths.

    Returns:
        `dict`, None without texts: `reflective`, the share of answers with a reflective word (`REFLECTIVE`); `thought`,
        the share with a thought or text around the answer, as [`~rewards.thought_leak_penalty`] sees it without a gold
        answer; `tokens`, the mean length.

    Example:

    ```python
    >>> from hf_metis_home.evaluation.leakage import leakage

    >>> leakage(["<think></think><answer>7</answer>", "Wait, 3 + 4 is <answer>7</answer>"], [9, 12])
    {'reflective': 0.5, 'thought': 0.5, 'tokens': 10.5}
    ```
    """
    if not len(texts):
        return None
    penalties = thought_leak_penalty(list(texts), thinking=[False] * len(texts))
    return {
        "reflective": sum(bool(_PATTERN.search(text)) for text in texts) / len(texts),
        "thought": -sum(penalties) / len(texts),
        "tokens": float(sum(tokens) / len(texts)),
    }
