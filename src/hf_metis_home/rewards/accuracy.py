"""Whether the final answer is right."""

from ..answers.judging import judge
from .columns import completion_texts, gold_answers


def accuracy_reward(completions: list, solution: list[str] | None = None, **columns) -> list[float]:
    r"""
    1.0 where the answer of a completion is the gold answer, else 0.0.

    The completion has to commit itself: it needs exactly one answer block, closed, after the thought and with nothing
    behind it. What counts as the gold answer, [`~answers.matching.answers_match`] says.

    Args:
        completions (`list`):
            Texts, or lists with one assistant message; as long as `solution`.
        solution (`list[str]`):
            The column with the gold answers.
        columns:
            What else TRL hands over; not used.

    Returns:
        `list[float]`, one per completion.

    Raises:
        ValueError: a gold answer that is empty or no text; the message names the row.

    Example:

    ```python
    >>> from hf_metis_home.rewards import accuracy_reward

    >>> completions = ["<think>3 + 4</think><answer>7</answer>", "<think></think><answer>7 or 8</answer>"]
    >>> accuracy_reward(completions, solution=["7", "7"])
    [1.0, 0.0]
    ```
    """
    texts = completion_texts(completions)
    golds = gold_answers(solution, len(texts))
    return [float(judge(text, gold).correct) for text, gold in zip(texts, golds, strict=True)]


# So that a dataset without it is refused before a run, not at the first reward.
accuracy_reward.needs = ("solution",)  # type: ignore[attr-defined]
