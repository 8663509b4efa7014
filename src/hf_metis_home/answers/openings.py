"""
The text of an answer: `<think>steps</think><answer>result</answer>`, or `<think></think><answer>result</answer>` from
the non-thinking branch (arXiv 2510.20519). Rendering, and the openings that force one or the other.
"""

from .format import ANSWER, END_ANSWER, END_THINK, TAGS, THINK


# How an answer can go on after a tag: each may join the tag's last characters into another token.
PROBES = ("First", "7", "(x", " a", "  a", "\nb", "\n\nb", ".", ">", "<b", "-1", "é", "中", "\\frac", "$x", '"q"', "'s")


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
