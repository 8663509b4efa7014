"""The fixed tokens of an answer format: how an answer of either mode begins, and how a thought ends."""

from .format import FORMAT, AnswerFormat


# Texts that can follow a tag: a tokenizer may merge the tag's last characters with any of them.
PROBES = ("First", "7", "(x", " a", "  a", "\nb", "\n\nb", ".", ">", "<b", "-1", "é", "中", "\\frac", "$x", '"q"', "'s")


def opening_token_ids(tokenizer, thinking: bool, answer_format: AnswerFormat = FORMAT) -> list[int]:
    """
    The first tokens that all answers of a mode share.

    A byte-level BPE may merge the end of a tag with the text after it (`<think>First` has a token `>First`), so the
    opening can stop inside a tag. An opening with the whole tag would show the model tokens it never saw in training.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The model's tokenizer.
        thinking (`bool`):
            The mode.
        answer_format ([`~answers.AnswerFormat`], *optional*):
            The tags that the model writes.

    Returns:
        `list[int]`: token ids; those of one mode may begin like those of the other.
    """
    render = answer_format.render
    return _shared_beginning(tokenizer, [render(text, "7") if thinking else render(None, text) for text in PROBES])


def opening_text(tokenizer, thinking: bool, answer_format: AnswerFormat = FORMAT) -> str:
    """The text of [`opening_token_ids`]."""
    return tokenizer.decode(opening_token_ids(tokenizer, thinking, answer_format))


def closing_token_ids(tokenizer, answer_format: AnswerFormat = FORMAT) -> list[int]:
    """
    The tokens that close a thought and open the answer, whatever the answer, after a thought that ends with a digit.

    After other characters the first of them may be merged with the end of the thought (`.</`).
    """
    shared = _shared_beginning(tokenizer, [answer_format.render("4", text) for text in PROBES])
    thought = answer_format.render("4", "7").partition(answer_format.thinking_tags[1])[0].rstrip()
    return shared[len(tokenizer(thought, add_special_tokens=False)["input_ids"]) :]


def _shared_beginning(tokenizer, texts: list[str]) -> list[int]:
    """The tokens that all texts begin with."""
    shared = []
    for column in zip(*(tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts), strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return shared
