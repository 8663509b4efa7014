"""The columns that TRL passes to a reward, checked."""

from ..answers.matching import gold_text
from ..data.rows import is_conversation, text_of


def completion_texts(completions: list) -> list[str]:
    """
    The texts of completions.

    Args:
        completions (`list`):
            Strings, or lists with one assistant message (with a list of parts or text as its content).

    Raises:
        ValueError: a completion of another form.
    """
    texts = []
    for index, completion in enumerate(completions):
        if is_conversation(completion) and len(completion) == 1:
            completion = text_of(completion[0]["content"])
        if not isinstance(completion, str):
            given = str(completion)[:80]
            raise ValueError(f"Completion {index} is {given!r}, but must be text or a list with one assistant message.")
        texts.append(completion)
    return texts


def thinking_modes(thinking: list[bool] | None, count: int) -> list[bool]:
    """The mode of each row; thinking if there is no such column, because a dense model has one mode."""
    modes = [True] * count if thinking is None else list(thinking)
    _check_length("thinking", modes, count)
    for index, value in enumerate(modes):
        if not isinstance(value, bool):
            raise ValueError(
                f"Row {index}, column `thinking`: {value!r} is not True or False. It is the branch that wrote the "
                "completion."
            )
    return modes


def gold_answers(solution: list[str] | None, count: int) -> list[str]:
    """The gold answer of each row. An error names the row."""
    if solution is None:
        raise ValueError("There is no column `solution` with the gold answers. Add it to the dataset.")
    _check_length("solution", solution, count)
    for index, text in enumerate(solution):
        gold_text(text, name=f"Row {index}, column `solution`:")
    return list(solution)


def _check_length(column: str, values: list, count: int) -> None:
    if len(values) != count:
        raise ValueError(f"Column `{column}` has {len(values)} rows for {count} completions. Give one per completion.")
