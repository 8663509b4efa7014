"""Whether answers have the form of their mode, and whether reasoning leaks into answers that should have none."""

import re
from collections.abc import Sequence

from ..answers.format import FORMAT, AnswerFormat


# English, as the texts of the benchmarks are; a word counts only as a whole.
REFLECTIVE = (
    "wait", "hmm", "alternatively", "let me", "let's", "double-check", "double check", "recheck", "re-check", "verify",
    "check again", "reconsider", "on second thought", "step by step", "first,", "actually,", "therefore",
)  # fmt: skip
_PATTERN = re.compile("|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in REFLECTIVE), re.IGNORECASE)


def format_validity(texts: Sequence[str], thinking: bool, answer_format: AnswerFormat = FORMAT) -> float | None:
    """Share of texts that are well formed and have a thought exactly if their mode has one; None without texts."""
    parsed = [answer_format.parse(text) for text in texts]
    return sum(one.well_formed and bool(one.thought) == thinking for one in parsed) / len(parsed) if parsed else None


def leakage(
    texts: Sequence[str], tokens: Sequence[float], answer_format: AnswerFormat = FORMAT
) -> dict[str, float] | None:
    """
    Signs of reasoning in answers of the non-thinking branch.

    Args:
        texts (`Sequence[str]`):
            The answers.
        tokens (`Sequence[float]`):
            Their lengths.
        answer_format ([`~answers.AnswerFormat`], *optional*):
            The tags that the model writes.

    Returns:
        `dict`, None without texts: `reflective`, the share of answers with a reflective word (`REFLECTIVE`); `thought`,
        the share with a thought, or with text around the answer; `tokens`, the mean length.

    Example:

    ```python
    >>> from hf_metis_home.evaluation.leakage import leakage

    >>> leakage(["<think></think><answer>7</answer>", "Wait, 3 + 4 is <answer>7</answer>"], [9, 12])
    {'reflective': 0.5, 'thought': 0.5, 'tokens': 10.5}
    ```
    """
    if not len(texts):
        return None
    return {
        "reflective": sum(bool(_PATTERN.search(text)) for text in texts) / len(texts),
        "thought": sum(map(answer_format.reasons, texts)) / len(texts),
        "tokens": float(sum(tokens) / len(texts)),
    }
