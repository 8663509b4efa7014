"""What TRL hands over to a reward, as the rewards read it."""

from ..answers.matching import gold_text


def completion_texts(completions: list) -> list[str]:
    """
    The texts of completions.

    Args:
        completions (`list`):
            Strings, or lists with one assistant message (whose content may be a list of parts).

    Raises:
        ValueError: a completion of another form.
    """
    return [_text(completion, index) for index, completion in enumerate(completions)]


def thinking_modes(thinking: list[bool] | None, count: int) -> list[bool]:
    """The mode of every row; thinking where there is no such column, as a dense model has one mode."""
    if thinking is None:
        return [True] * count
    _check_length("thinking", thinking, count)
    for index, value in enumerate(thinking):
        if not isinstance(value, bool):
            raise ValueError(
                f"Row {index}, column `thinking`: {value!r} is not True or False. It names the branch that wrote the "
                "completion."
            )
    return list(thinking)


def gold_answers(solution: list[str] | None, count: int) -> list[str]:
    """The gold answer of every row. An error names the row."""
    if solution is None:
        raise ValueError("There is no column `solution`, which holds the gold answers. Add it to the dataset.")
    _check_length("solution", solution, count)
    for index, text in enumerate(solution):
        gold_text(text, name=f"Row {index}, column `solution`:")
    return list(solution)


def _check_length(column: str, values: list, count: int) -> None:
    if len(values) != count:
        raise ValueError(f"Column `{column}` has {len(values)} rows for {count} completions. Give one per completion.")


def _text(completion, index: int) -> str:
    if isinstance(completion, str):
        return completion
    if isinstance(completion, list) and len(completion) == 1 and isinstance(completion[0], dict):
        content = completion[0].get("content")
        if isinstance(content, str):
            return content
        if isinstance(content, list) and all(isinstance(part, dict) for part in content):
            return "".join(part.get("text") or "" for part in content)
    raise ValueError(
        f"Completion {index} is {str(completion)[:80]!r}, but must be text or a list with one assistant message."
    )
