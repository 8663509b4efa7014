"""
Reading the text of an answer: `<think>steps</think><answer>result</answer>`, well formed or not, whole or half written.

`metis-home space` puts this file beside the app, so it imports nothing but the standard library.
"""

from dataclasses import dataclass


THINK, END_THINK, ANSWER, END_ANSWER = "<think>", "</think>", "<answer>", "</answer>"
TAGS = (THINK, END_THINK, ANSWER, END_ANSWER)


@dataclass(frozen=True)
class Completion:
    """
    An answer taken apart.

    Args:
        thought (`str`, *optional*):
            What stands between the think tags, stripped; `""` where they are empty, None where there is no thought.
        answer (`str`, *optional*):
            What stands between the answer tags, stripped; None where there is none.
        well_formed (`bool`):
            Whether the text is one thought followed by one answer, each tag once, and nothing else.
    """

    thought: str | None
    answer: str | None
    well_formed: bool


def parse_completion(text: str, opening: str = "") -> Completion:
    """
    Take an answer apart, well formed or not, in time linear in its length.

    Args:
        text (`str`):
            Decoded tokens of an answer.
        opening (`str`, *optional*, defaults to `""`):
            What a forced opening put into the prompt, so that `text` is the rest of it.

    Returns:
        [`Completion`]. Of several answers the last one counts. Text that is cut off inside the thought gives that
        thought and no answer.

    Example:

    ```python
    >>> from hf_metis_home import parse_completion

    >>> parse_completion("<think>3 + 4</think><answer>7</answer>")
    Completion(thought='3 + 4', answer='7', well_formed=True)
    ```
    """
    text = (opening + text).strip()
    well_formed = [text.count(tag) for tag in TAGS] == [1, 1, 1, 1]
    before, opened, rest = text.partition(THINK)
    thought, closed, rest = rest.partition(END_THINK) if opened else (None, "", text)
    between, has_answer, tail = rest.rpartition(ANSWER)
    answer, answer_closed, after = tail.partition(END_ANSWER) if has_answer else (None, "", "")
    well_formed = well_formed and bool(closed and answer_closed) and not (before + between + after).strip()
    return Completion(
        thought=None if thought is None else thought.strip(),
        answer=None if answer is None else answer.strip(),
        well_formed=well_formed and bool(answer and answer.strip()),
    )


def shown_parts(text: str, opening: str = "") -> tuple[str, str]:
    """
    Thought and answer as a reader should see them, also while they are being written.

    Args:
        text (`str`):
            What has been decoded so far.
        opening (`str`, *optional*, defaults to `""`):
            What a forced opening put into the prompt.

    Returns:
        `tuple[str, str]`: thought and answer, `""` where there is none yet. Without answer tags, what follows the
        thought is the answer.

    Example:

    ```python
    >>> from hf_metis_home.answers.format import shown_parts

    >>> shown_parts("<think>3 + 4</think><ans")
    ('3 + 4', '')
    >>> shown_parts("It is 7.")
    ('', 'It is 7.')
    ```
    """
    text = opening + text
    begun = text.rfind("<")
    if begun >= 0 and any(tag.startswith(text[begun:]) and tag != text[begun:] for tag in TAGS):
        text = text[:begun]  # a tag that is half written, or was cut
    found = parse_completion(text)
    answer = found.answer
    if answer is None:
        _, closed, after = text.partition(END_THINK)
        answer = after if closed else "" if THINK in text else text
    return found.thought or "", answer.strip()
