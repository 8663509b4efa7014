"""The one rule for whether a completion is right: rewards, pass rates, evaluation and reports all use it."""

from collections.abc import Callable
from dataclasses import dataclass

from .format import FORMAT, AnswerFormat
from .matching import answers_match


@dataclass(frozen=True)
class Verdict:
    """
    What [`judge`] says about a completion.

    Args:
        correct (`bool`):
            Whether the final answer is right. A malformed completion is not.
        malformed (`bool`):
            Whether there is no final answer, see [`~answers.Completion`].
        answer (`str`, *optional*):
            The final answer; None if the completion is malformed.
    """

    correct: bool
    malformed: bool
    answer: str | None


def judge(
    text: str,
    solution: str | list[str] | tuple[str, ...] | None,
    answer_format: AnswerFormat = FORMAT,
    opening: str = "",
    verifier: Callable[[str], bool] | None = None,
) -> Verdict:
    """
    Judge a completion by its final answer. What stands inside the thought does not count.

    Args:
        text (`str`):
            The decoded tokens of a completion.
        solution (`str` or `list[str]`):
            The gold answer, or several of which any is right. Not used with a `verifier`.
        answer_format ([`~answers.AnswerFormat`], *optional*):
            The tags that the model writes.
        opening (`str`, *optional*, defaults to `""`):
            The part of the answer that is in the prompt, which `text` continues.
        verifier (`Callable`, *optional*):
            `verifier(answer)`: whether an answer is right, instead of a comparison with `solution` by
            [`~answers.matching.answers_match`].

    Returns:
        [`Verdict`]

    Raises:
        ValueError: `solution` is empty or not text.

    Example:

    ```python
    >>> from hf_metis_home.answers import judge

    >>> judge("<think>3 + 4</think><answer>7</answer>", "7")
    Verdict(correct=True, malformed=False, answer='7')
    >>> judge("<think>3 + 4", "7")
    Verdict(correct=False, malformed=True, answer=None)
    ```
    """
    answer = answer_format.parse(text, opening).final
    if answer is None:
        return Verdict(correct=False, malformed=True, answer=None)
    if verifier is not None:
        return Verdict(bool(verifier(answer)), malformed=False, answer=answer)
    golds = solution if isinstance(solution, (list, tuple)) else [solution]
    if not golds:
        raise ValueError("`solution` is an empty list, but a completion needs a gold answer to be judged by.")
    return Verdict(any(answers_match(answer, gold) for gold in golds), malformed=False, answer=answer)
