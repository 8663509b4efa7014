"""Whether the final answer of a completion is right."""

from ..answers.judging import judge
from .columns import completion_texts, gold_answers


def accuracy_reward(completions: list, solution: list[str] | None = None, **columns) -> list[float]:
    r"""
    1.0 for each completion with the right final answer, else 0.0.

    Judged by [`~answers.judge`]: a completion needs exactly one closed answer block, after the thought and with nothing
    after it, and [`~answers.matching.answers_match`] compares the answer with the gold one.

    Args:
        completions (`list`):
            Texts, or lists with one assistant message; as long as `solution`.
        solution (`list[str]`):
            The column with the gold answers.
        columns:
            Other columns that TRL passes; not used.

    Returns:
        `list[float]`, one per completion.

    Raises:
        ValueError: a gold answer is empty or not text; the message names the row.

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


# A dataset without this column is refused before the run, not at the first reward.
accuracy_reward.needs = ("solution",)  # type: ignore[attr-defined]
