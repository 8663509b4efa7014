"""Thought and answer of a reply that is still being written."""

from ..answers.openings import ANSWER, END_ANSWER, END_THINK, THINK


def split_answer(text: str, finished: bool = True) -> tuple[str, str]:
    """
    What of an answer is thought, and what is said.

    As the text grows both only grow, so that a stream can send what is new in them: an end that may become a tag is
    kept back until it is known.

    Args:
        text (`str`):
            The answer so far, with the opening that stood in the prompt, if any.
        finished (`bool`, *optional*, defaults to `True`):
            Nothing follows: nothing is kept back.

    Returns:
        `tuple[str, str]`: thought and answer, without tags. A text that opens no thought is all answer.

    Example:

    ```python
    >>> from hf_metis_home.serving.answer_split import split_answer

    >>> split_answer("<think>17 + 4</think><answer>21</answer>")
    ('17 + 4', '21')
    >>> split_answer("<think>17 + 4</thi", finished=False)
    ('17 + 4', '')
    ```
    """
    start = text.lstrip()
    if not start.startswith(THINK):
        return "", "" if THINK.startswith(start) and not finished else text
    thought, closed, answer = start.removeprefix(THINK).partition(END_THINK)
    if not closed:
        return (thought if finished else _certain(thought, END_THINK)), ""
    opened = answer.lstrip()
    if not finished and ANSWER.startswith(opened):
        return thought, ""
    answer = opened.removeprefix(ANSWER) if opened.startswith(ANSWER) else answer
    if answer.rstrip().endswith(END_ANSWER):
        return thought, answer.rstrip().removesuffix(END_ANSWER)
    return thought, answer if finished else _certain(answer, END_ANSWER)


def _certain(text: str, tag: str) -> str:
    """A text without the end of it that may be the beginning of a tag."""
    return next((text[:-n] for n in range(len(tag) - 1, 0, -1) if text.endswith(tag[:n])), text)
