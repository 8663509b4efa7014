"""Whether a completion has the format of its mode."""

from ..answers.format import FORMAT
from .columns import completion_texts, thinking_modes


MANY_TIMES = 4  # an answer this many times longer than the gold answer ...
MANY_CHARACTERS = 80  # ... and longer than this is more than a result
MORE_LINES = 2


def format_reward(completions: list, thinking: list[bool] | None = None, **columns) -> list[float]:
    """
    1.0 for each completion that is exactly well formed for its mode, else 0.0.

    Well formed means one thought followed by one answer that is not empty, each tag once, with only white space around
    them. The thought must be empty in non-thinking mode and must not be empty in thinking mode.

    Args:
        completions (`list`):
            Texts, or lists with one assistant message.
        thinking (`list[bool]`, *optional*):
            The column with the mode of each row; without it, as for a dense model, all rows are thinking.
        columns:
            Other columns that TRL passes; not used.

    Returns:
        `list[float]`, one per completion.

    Example:

    ```python
    >>> from hf_metis_home.rewards import format_reward

    >>> completions = ["<think></think><answer>7</answer>"] * 2
    >>> format_reward(completions, thinking=[False, True])
    [1.0, 0.0]
    ```
    """
    parsed = map(FORMAT.parse, completion_texts(completions))
    modes = thinking_modes(thinking, len(completions))
    return [float(one.well_formed and bool(one.thought) == mode) for one, mode in zip(parsed, modes, strict=True)]


def thought_leak_penalty(
    completions: list, thinking: list[bool] | None = None, solution: list[str] | None = None, **columns
) -> list[float]:
    """
    -1.0 for each completion that reasons in non-thinking mode, else 0.0; always 0.0 in thinking mode.

    Reasoning is a thought that is not empty, text outside the answer block, or an answer that is more than a result:
    longer than 80 characters and four times the gold answer, or more than two lines longer than the gold answer.
    Without a column `solution`, the length of answers does not count.

    Args:
        completions (`list`):
            Texts, or lists with one assistant message.
        thinking (`list[bool]`, *optional*):
            The column with the mode of each row; without it, all rows are thinking.
        solution (`list[str]`, *optional*):
            The column with the gold answers.
        columns:
            Other columns that TRL passes; not used.

    Returns:
        `list[float]`, one per completion.

    Example:

    ```python
    >>> from hf_metis_home.rewards import thought_leak_penalty

    >>> completions = ["<think></think><answer>7</answer>", "<think></think>3 + 4 is <answer>7</answer>"]
    >>> thought_leak_penalty(completions, thinking=[False, False])
    [0.0, -1.0]
    ```
    """
    texts = completion_texts(completions)
    modes = thinking_modes(thinking, len(texts))
    golds = [None] * len(texts) if solution is None else solution
    return [
        0.0 if mode or not _reasons(text, gold) else -1.0 for text, mode, gold in zip(texts, modes, golds, strict=True)
    ]


def _reasons(text: str, gold: str | None) -> bool:
    if (reasons := FORMAT.reasons(text)) or not gold:
        return reasons
    answer = FORMAT.parse(text).answer
    longer = len(answer) > max(MANY_CHARACTERS, MANY_TIMES * len(gold))
    return longer or _lines(answer) > _lines(gold) + MORE_LINES


def _lines(text: str) -> int:
    return sum(bool(line.strip()) for line in text.splitlines())
