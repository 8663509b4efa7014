"""
Outcomes: every question answered with both branches, as one table from which everything else is arithmetic.

| column | type | meaning |
|---|---|---|
| `task`, `id` | str | which question |
| `subject` | str | the part of the task that it belongs to; null where the row names none |
| `sample` | int | 0, 1, ... where a question was answered several times |
| `thinking_probability` | float | the router's, asked once per question; null for a dense model |
| `correct_thinking`, `correct_non_thinking` | bool | whether that branch's answer is right |
| `tokens_thinking`, `tokens_non_thinking` | int | generated tokens of that answer, the end of turn included |
| `seconds_thinking`, `seconds_non_thinking` | float | its share of the time that its batch took |
| `text_thinking`, `text_non_thinking` | str | the answer |
| `error` | str | why a branch has no answer; null where all went well |

A dense model fills the columns of the mode that it used for a question and leaves the others null.
"""

import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from .._extras import require_extra
from ..data import prompt_inputs
from .accuracy import exact_match, generate_answers, is_correct


require_extra("eval", "datasets", "pyarrow")

from datasets import Dataset, Features, Value  # noqa: E402


FEATURES = Features(
    {
        "task": Value("string"),
        "id": Value("string"),
        "subject": Value("string"),
        "sample": Value("int64"),
        "thinking_probability": Value("float64"),
        "correct_thinking": Value("bool"),
        "correct_non_thinking": Value("bool"),
        "tokens_thinking": Value("int64"),
        "tokens_non_thinking": Value("int64"),
        "seconds_thinking": Value("float64"),
        "seconds_non_thinking": Value("float64"),
        "text_thinking": Value("string"),
        "text_non_thinking": Value("string"),
        "error": Value("string"),
    }
)
COLUMNS = tuple(FEATURES)


@torch.no_grad()
def collect_outcomes(
    model,
    processor,
    rows: Sequence[dict],
    *,
    max_new_tokens: int,
    batch_size: int,
    samples: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
    match: Callable[[str, str], bool] = exact_match,
    progress: Callable[[int], None] | None = None,
) -> Dataset:
    """
    Answer every row with both branches of a two-branch model, or once with a dense model.

    Args:
        model ([`MetisHomeForConditionalGeneration`] or [`~transformers.Qwen2_5_VLForConditionalGeneration`]):
            With one branch loaded (`only_branch`) the columns of the other stay null.
        processor ([`~transformers.Qwen2_5_VLProcessor`]):
            Its processor.
        rows (`Sequence[dict]` or [`~datasets.Dataset`]):
            Rows of the row format with `prompt`, `images` (may be absent), `solution` and `task`. `id` is the row's
            `id`, or its index as text where there is none; `subject` may be absent.
        max_new_tokens (`int`):
            Longest answer in tokens.
        batch_size (`int`):
            Rows per call of `generate`.
        samples (`int`, *optional*, defaults to 1):
            Answers per question and branch.
        temperature (`float`, *optional*, defaults to 0.0):
            0 is greedy; above, samples from all tokens at that temperature.
        seed (`int`, *optional*, defaults to 0):
            Seed of the sampling. The same rows, `batch_size` and `seed` give the same table on the same machine.
        match (`Callable`, *optional*, defaults to [`~evaluation.accuracy.exact_match`]):
            `match(answer, solution)`: whether an answer is right. Not asked where a text has no answer, which is wrong.
        progress (`Callable`, *optional*):
            Called with the number of rows after every batch.

    Returns:
        [`~datasets.Dataset`] with the columns above, one row per question and sample, in the order of the rows. Where
        the device had too little memory for a batch, `error` says so and the columns of that branch are null.

    Raises:
        ValueError: no rows, a row without a column, two rows of one task with the same `id`, several samples at
            temperature 0, a number out of range.
        torch.OutOfMemoryError: in the first batch, since the next ones would fare no better.

    Example:

    ```python
    >>> from hf_metis_home.evaluation.outcomes import collect_outcomes, write_outcomes

    >>> outcomes = collect_outcomes(model, processor, rows, max_new_tokens=512, batch_size=16)
    >>> sum(outcomes["correct_thinking"]) / len(outcomes)
    >>> write_outcomes(outcomes, "outcomes.parquet")
    ```
    """
    _check_options(max_new_tokens, batch_size, samples, temperature)
    ids = _question_ids(rows)
    branches = _branches(model)
    records = []
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        for start in range(0, len(rows), batch_size):
            numbers = range(start, min(start + batch_size, len(rows)))
            batch = [{**rows[number], "images": rows[number].get("images") or []} for number in numbers]
            inputs = prompt_inputs(processor, batch).to(model.device)
            table = [
                [
                    {
                        **dict.fromkeys(COLUMNS),
                        "task": row["task"],
                        "id": ids[number],
                        "subject": row.get("subject"),
                        "sample": sample,
                    }
                    for sample in range(samples)
                ]
                for number, row in zip(numbers, batch, strict=True)
            ]
            if branches != [None]:
                for cells, probability in zip(table, model.route(**inputs).thinking_probability.tolist(), strict=True):
                    for record in cells:
                        record["thinking_probability"] = probability
            for branch in branches:
                for sample in range(samples):
                    options = {"thinking": branch, "temperature": temperature, "max_new_tokens": max_new_tokens}
                    started = time.perf_counter()
                    try:
                        answers = generate_answers(model, processor, inputs, **options)
                    except torch.OutOfMemoryError as error:
                        if start == 0:
                            raise
                        for cells in table:
                            _add_error(cells[sample], branch, error)
                        continue
                    seconds = (time.perf_counter() - started) / len(batch)
                    for row, cells, answer in zip(batch, table, answers, strict=True):
                        mode = "thinking" if answer.thinking else "non_thinking"
                        cells[sample][f"correct_{mode}"] = is_correct(answer.text, row["solution"], match)
                        cells[sample][f"tokens_{mode}"] = answer.tokens
                        cells[sample][f"seconds_{mode}"] = seconds
                        cells[sample][f"text_{mode}"] = answer.text
            records += [record for cells in table for record in cells]
            if progress is not None:
                progress(len(batch))
    return Dataset.from_list(records, features=FEATURES)


def write_outcomes(outcomes: Dataset, path: str | Path) -> Path:
    """
    Write outcomes as parquet. The file appears when it is complete; one that is there is replaced.

    Raises:
        ValueError: a column is missing or of another type.
    """
    from pyarrow import parquet

    path = Path(path)
    table = _checked(outcomes, "`outcomes`").with_format("arrow")[
        :
    ]  # with the indices of `select` and `filter` applied
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        parquet.write_table(table, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def read_outcomes(path: str | Path) -> Dataset:
    """
    Read what [`write_outcomes`] wrote. Further columns are left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no parquet, or a column is missing or of another type.
    """
    import pyarrow
    from pyarrow import parquet

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`outcomes` is {str(path)!r}, which is no file. Give the parquet that `eval` wrote.")
    try:
        table = parquet.ParquetFile(path).read()
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"`outcomes` is {str(path)!r}, which is no parquet file ({error}).") from error
    return _checked(Dataset(table), f"`outcomes` ({str(path)!r})")


def _checked(outcomes: Dataset, name: str) -> Dataset:
    """Outcomes with the columns of the table, in its order and types."""
    if missing := [column for column in COLUMNS if column not in outcomes.column_names]:
        raise ValueError(
            f"{name} has no column {', '.join(map(repr, missing))}; it has {outcomes.column_names}. Outcomes need "
            f"{list(COLUMNS)}: see `hf_metis_home.evaluation.outcomes`."
        )
    # Through the format, because the data alone does not know of `select` and `filter`.
    table = outcomes.with_format("arrow")[:].select(list(COLUMNS))
    try:
        table = table.cast(FEATURES.arrow_schema)
    except (ValueError, NotImplementedError) as error:  # pyarrow's errors are among these
        raise ValueError(f"{name} has a column of another type than outcomes have: {error}.") from error
    return Dataset(table)


def _branches(model) -> list[bool | None]:
    """The branches that can be forced; `[None]` for a dense model, which answers as it will."""
    if model.config.model_type != "metis_home":
        return [None]
    only = model.config.only_branch
    return [True, False] if only is None else [only == "thinking"]


def _add_error(record: dict, branch: bool | None, error: Exception) -> None:
    mode = {True: "thinking: ", False: "non_thinking: ", None: ""}[branch]
    record["error"] = "; ".join(filter(None, [record["error"], f"{mode}out of memory ({error})"]))


def _check_options(max_new_tokens: int, batch_size: int, samples: int, temperature: float) -> None:
    errors = [
        f"`{name}` is {value!r}, but must be at least 1."
        for name, value in (("max_new_tokens", max_new_tokens), ("batch_size", batch_size), ("samples", samples))
        if value < 1
    ]
    if not (math.isfinite(temperature) and temperature >= 0):
        errors.append(f"`temperature` is {temperature!r}, but must be 0 (greedy) or a positive number.")
    elif samples > 1 and temperature == 0:
        errors.append(
            f"`samples` is {samples}, but at `temperature` 0 all answers to a question are the same. Raise the "
            "temperature, or take one sample."
        )
    if errors:
        raise ValueError("\n".join(errors))


def _question_ids(rows: Sequence[dict]) -> list[str]:
    """The id of every row. An error for rows that cannot be answered and judged, or told apart."""
    if len(rows) == 0:
        raise ValueError("`rows` is empty, so there is nothing to answer.")
    light = rows
    if isinstance(rows, Dataset):  # does not decode the images
        light = rows.select_columns(
            [name for name in rows.column_names if name in ("prompt", "solution", "task", "id")]
        )
    ids, seen = [], {}
    for number, row in enumerate(light):
        for column in ("prompt", "solution", "task"):
            if row.get(column) is None:
                raise ValueError(
                    f"Row {number} of `rows` has no {column!r}. Outcomes need `prompt`, `solution` and `task`."
                )
        ids.append(str(number) if row.get("id") is None else str(row["id"]))
        first = seen.setdefault((row["task"], ids[-1]), number)
        if first != number:
            raise ValueError(
                f"Rows {first} and {number} of `rows` both have id {ids[-1]!r} in task {row['task']!r}, so their "
                "outcomes could not be told apart. Give each question an id of its own, or drop the column."
            )
    return ids
