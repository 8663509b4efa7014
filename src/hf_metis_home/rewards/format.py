"""Whether a completion has the form of its mode."""

from ..answers import AnswerFormat
from .columns import completion_texts, thinking_modes


FORMAT = AnswerFormat()
MANY_TIMES = 4  # an answer this many times as long as the gold answer ...
MANY_CHARACTERS = 80  # ... and longer than this holds more than a result
MORE_LINES = 2


def format_reward(completions: list, thinking: list[bool] | None = None, **columns) -> list[float]:
    """
    1.0 where a completion is exactly well formed for its mode, else 0.0.

    Well formed is one thought followed by one answer that is not empty, each tag once, with nothing but white space
    around them. The thought has to be empty in non-thinking mode and must not be empty in thinking mode.

    Args:
        completions (`list`):
            Texts, or lists with one assistant message.
        thinking (`list[bool]`, *optional*):
            The column with the mode of each row; without it, as for a dense model, all are thinking.
        columns:
            What else TRL hands over; not used.

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
    texts = completion_texts(completions)
    rewards = []
    for text, mode in zip(texts, thinking_modes(thinking, len(texts)), strict=True):
        parsed = FORMAT.parse(text)
        rewards.append(float(parsed.well_formed and bool(parsed.thought) == mode))
    return rewards


def thought_leak_penalty(
    completions: list, thinking: list[bool] | None = None, solution: list[str] | None = None, **columns
) -> list[float]:
    """
    -1.0 where a completion in non-thinking mode reasons all the same, else 0.0; always 0.0 in thinking mode.

    Reasoning is a thought that is not empty; text outside the answer block; or an answer that holds more than a result:
    longer than 80 characters and than four times the gold answer, or more than two lines longer than the gold answer.
    Without a column `solution` answers are not measured.

    Args:
        completions (`list`):
            Texts, or lists with one assistant message.
        thinking (`list[bool]`, *optional*):
            The column with the mode of each row; without it all are thinking.
        solution (`list[str]`, *optional*):
            The column with the gold answers.
        columns:
            What else TRL hands over; not used.

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
    parsed = FORMAT.parse(text)
    begin, end = FORMAT.answer_tags
    inside = text.partition(begin)[2].partition(end)[0]
    if parsed.thought or parsed.answer != inside.strip():
        return True
    if not gold:
        return False
    longer = len(inside) > max(MANY_CHARACTERS, MANY_TIMES * len(gold))
    return longer or _lines(inside) > _lines(gold) + MORE_LINES


def _lines(text: str) -> int:
    return sum(bool(line.strip()) for line in text.splitlines())
