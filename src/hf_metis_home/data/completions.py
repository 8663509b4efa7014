"""
The text of an answer: `<think>steps</think><answer>result</answer>`, or `<think></think><answer>result</answer>` from
the non-thinking branch (arXiv 2510.20519). Rendering, reading back, and the openings that force one or the other.
"""

from dataclasses import dataclass


THINK, END_THINK, ANSWER, END_ANSWER = "<think>", "</think>", "<answer>", "</answer>"
TAGS = (THINK, END_THINK, ANSWER, END_ANSWER)

# How an answer can go on after a tag: each may join the tag's last characters into another token.
PROBES = ("First", "7", "(x", " a", "  a", "\nb", "\n\nb", ".", ">", "<b", "-1", "é", "中", "\\frac", "$x", '"q"', "'s")


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


def render_completion(thought: str | None, answer: str) -> str:
    """
    The text of an answer.

    Args:
        thought (`str`, *optional*):
            The steps; None or `""` for a direct answer.
        answer (`str`):
            The result.

    Raises:
        ValueError: a tag inside the thought or the answer, or an answer without text.

    Example:

    ```python
    >>> from hf_metis_home import render_completion

    >>> render_completion(None, "yes")
    '<think></think><answer>yes</answer>'
    ```
    """
    thought = thought or ""
    for name, text in (("thought", thought), ("answer", answer)):
        if found := [tag for tag in TAGS if tag in text]:
            raise ValueError(
                f"`{name}` contains {found[0]!r}; the tags of the format cannot stand inside it. Remove it."
            )
    if not answer.strip():
        raise ValueError(f"`answer` is {answer!r}, but an answer needs text.")
    return f"{THINK}{thought}{END_THINK}{ANSWER}{answer}{END_ANSWER}"


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


def opening_token_ids(tokenizer, thinking: bool) -> list[int]:
    """
    The first tokens that every answer of a mode shares, whatever comes next.

    A byte-level BPE may join the end of a tag to what follows it (`<think>First` has a token `>First`), so the opening
    can stop inside a tag: an opening that spelled the tag out would show the model tokens it has never been trained on.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The model's tokenizer.
        thinking (`bool`):
            The mode.

    Returns:
        `list[int]`: token ids; those of one mode may begin like those of the other.
    """
    return _shared_beginning(
        tokenizer, [render_completion(probe, "7") if thinking else render_completion(None, probe) for probe in PROBES]
    )


def opening_text(tokenizer, thinking: bool) -> str:
    """The text of [`opening_token_ids`]."""
    return tokenizer.decode(opening_token_ids(tokenizer, thinking))


def closing_token_ids(tokenizer) -> list[int]:
    """
    The tokens that close a thought and open the answer, whatever the answer, after a thought that ends with a digit.

    After other characters the first of them may be joined to the thought (`.</`).
    """
    thought = f"{THINK}4"
    shared = _shared_beginning(tokenizer, [f"{thought}{END_THINK}{ANSWER}{probe}{END_ANSWER}" for probe in PROBES])
    return shared[len(tokenizer(thought, add_special_tokens=False)["input_ids"]) :]


def _shared_beginning(tokenizer, texts: list[str]) -> list[int]:
    """The tokens that all texts begin with."""
    shared = []
    for column in zip(*(tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts), strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return shared
