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

A question that failed has its reason in `error` and nulls where its results would be; no row is ever left out. A dense
model fills the columns of the mode that it used for a question and leaves the others null.
"""

import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from .._extras import require_extra
from ..data.rollouts import seed_of
from ..data.work_file import WorkFile
from ..tasks.rows import gold_answers
from .answering import exact_match, generate_answers, is_correct
from .batches import (
    OUT_OF_MEMORY,
    RowError,
    in_halves,
    plan_batches,
    prepare_batch,
    read_row,
)
from .row_checks import questions_of


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
    work: WorkFile | None = None,
    progress: Callable[[int], None] | None = None,
) -> Dataset:
    """
    Answer every row with both branches of a two-branch model, or once with a dense model.

    Rows are batched by task and length. A row that fails (an image that cannot be decoded, a prompt that is too long,
    too little memory for it alone) does not take the others of its batch along.

    Args:
        model ([`MetisHomeForConditionalGeneration`] or [`~transformers.Qwen2_5_VLForConditionalGeneration`]):
            With one branch loaded (`only_branch`) the columns of the other stay null.
        processor ([`~transformers.Qwen2_5_VLProcessor`]):
            Its processor.
        rows (`Sequence[dict]` or [`~datasets.Dataset`]):
            Rows of the row format with `prompt`, `images` (may be absent), `solution` and `task`. `id` is the row's
            `id`, or its index as text where there is none; `subject` may be absent. Where a row has `solutions`, a
            list, any of them is right; where it has `verifier`, a function of the answer, that judges in place of
            `match`; where it has `error`, words, it is not asked and these are its reason.
        max_new_tokens (`int`):
            Longest answer in tokens.
        batch_size (`int`):
            Rows per call of `generate`.
        samples (`int`, *optional*, defaults to 1):
            Answers per question and branch.
        temperature (`float`, *optional*, defaults to 0.0):
            0 is greedy; above, samples from all tokens at that temperature.
        seed (`int`, *optional*, defaults to 0):
            Seed of the sampling, from which every batch makes its own. The same rows, `batch_size` and `seed` give the
            same table on the same machine.
        match (`Callable`, *optional*, defaults to [`~evaluation.answering.exact_match`]):
            `match(answer, solution)`: whether an answer is right. Not asked where a text has no answer, which is wrong.
            Asked beforehand about every gold answer as the answer to itself: a row where that fails is not asked.
        work ([`~data.work_file.WorkFile`], *optional*):
            Keeps every batch when it is answered; those that it holds already are not answered again.
        progress (`Callable`, *optional*):
            Called with the number of rows after every batch.

    Returns:
        [`~datasets.Dataset`] with the columns above, one row per question and sample, in the order of the rows.

    Raises:
        ValueError: no rows, a row without a column, a prompt that is no list of messages, a task called `"all"`, two
            rows of one task with the same `id`, several samples at temperature 0, a number out of range; too little
            memory for any row of the first batch, since the next ones would fare no better; not one question that could
            be answered.

    Example:

    ```python
    >>> from hf_metis_home.evaluation.outcomes import collect_outcomes, write_outcomes

    >>> outcomes = collect_outcomes(model, processor, rows, max_new_tokens=512, batch_size=16)
    >>> sum(outcomes["correct_thinking"]) / len(outcomes)
    >>> write_outcomes(outcomes, "outcomes.parquet")
    ```
    """
    positions = model.config.get_text_config().max_position_embeddings
    _check_options(max_new_tokens, batch_size, samples, temperature, positions)
    questions = questions_of(rows, processor, match)
    options = {"max_new_tokens": max_new_tokens, "temperature": temperature}
    done = {} if work is None else {index: work.entries["batch", index] for index in work.done("batch")}
    found: dict[int, list[dict]] = {}
    with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
        for index, numbers in enumerate(plan_batches(questions, batch_size)):
            if index in done:
                cells = done[index]
            else:
                cells = []
                for question in (questions[number] for number in numbers):
                    record = {**dict.fromkeys(COLUMNS), "task": question.task, "id": question.id}
                    record |= {"subject": question.subject, "error": question.error}
                    cells.append([{**record, "sample": sample} for sample in range(samples)])
                _answer_batch(model, processor, rows, numbers, cells, seed, match, options)
                if index == 0:
                    _check_first_batch([record for cell in cells for record in cell])
                if work is not None:
                    work.add("batch", index, cells)
            found |= zip(numbers, cells, strict=True)
            if progress is not None:
                progress(len(numbers))
    records = [record for number in range(len(rows)) for record in found[number]]
    if not any(map(_has_answer, records)):
        raise ValueError(
            f"None of the {len(rows)} questions could be answered. The first: {records[0]['error']}. Mend the rows, or "
            "give another model."
        )
    return Dataset.from_list(records, features=FEATURES)


def _answer_batch(model, processor, rows, numbers: list[int], cells: list[list[dict]], seed: int, match, options: dict):
    """Fill the records of a batch, one per row and sample."""
    batch = [
        RowError(cell[0]["error"]) if cell[0]["error"] else read_row(rows, number)
        for number, cell in zip(numbers, cells, strict=True)
    ]
    longest = model.config.get_text_config().max_position_embeddings - options["max_new_tokens"]
    kept, inputs, errors = prepare_batch(processor, batch, longest)
    for place, reason in errors.items():
        for record in cells[place]:
            record["error"] = reason
    if not kept:
        return
    inputs = inputs.to(model.device)
    asked = [batch[place] for place in kept]
    branches = _branches(model)
    if branches == [False]:

        def route(inputs, rows):
            return model.route(**inputs).thinking_probability.tolist()

        for place, probability in zip(kept, in_halves(route, processor, asked, inputs, model.device), strict=True):
            for record in cells[place]:
                _note(record, "router: ", probability, "thinking_probability")
    for branch in branches:
        for sample in range(len(cells[0])):
            # The router is asked together with the first thinking answer, which saves reading the prompt once more:
            # at threshold 0 it sends every question there.
            asks_router = branch is True and sample == 0
            choice = {"thinking_threshold": 0.0} if asks_router else {"thinking": branch}

            def generate(inputs, rows, branch=branch, sample=sample, choice=choice):
                torch.manual_seed(seed_of(seed, numbers[0], sample, int(bool(branch)), len(rows)))
                started = time.perf_counter()
                answers = generate_answers(model, processor, inputs, **choice, **options)
                seconds = (time.perf_counter() - started) / len(rows)
                return [(answer, seconds) for answer in answers]

            results = in_halves(generate, processor, asked, inputs, model.device)
            for place, result in zip(kept, results, strict=True):
                record, prefix = cells[place][sample], {True: "thinking: ", False: "non_thinking: ", None: ""}[branch]
                if isinstance(result, str):
                    _note(record, prefix, result)
                    continue
                answer, seconds = result
                if asks_router:
                    for other in cells[place]:
                        other["thinking_probability"] = answer.thinking_probability
                mode = "thinking" if answer.thinking else "non_thinking"
                record[f"correct_{mode}"] = _is_right(answer.text, batch[place], match)
                record[f"tokens_{mode}"], record[f"seconds_{mode}"] = answer.tokens, seconds
                record[f"text_{mode}"] = answer.text


def _is_right(text: str, row: Any, match: Callable[[str, str], bool]) -> bool:
    if verifier := row.get("verifier"):
        return is_correct(text, row["solution"], lambda answer, solution: verifier(answer))
    return any(is_correct(text, solution, match) for solution in gold_answers(row))


def _note(record: dict, prefix: str, result, column: str | None = None) -> None:
    """Put a result into its column, or, where it is words, with the errors."""
    if isinstance(result, str):
        record["error"] = "; ".join(filter(None, [record["error"], prefix + result]))
    else:
        record[column] = result


def _has_answer(record: dict) -> bool:
    return record["text_thinking"] is not None or record["text_non_thinking"] is not None


def _check_first_batch(records: list[dict]) -> None:
    short = [record["error"] for record in records if record["error"] and OUT_OF_MEMORY in record["error"]]
    if short and not any(map(_has_answer, records)):
        raise ValueError(
            f"Not one question of the first batch fits into memory, each on its own ({short[0]}). Use a device with "
            "more memory, or load the weights in a smaller type."
        )


def write_outcomes(outcomes: Dataset, path: str | Path) -> Path:
    """
    Write outcomes as parquet. The file appears when it is complete; one that is there is replaced.

    Raises:
        ValueError: a column is missing or of another type.
    """
    from pyarrow import parquet

    path = Path(path)
    # Through the format, with which the indices of `select` and `filter` apply.
    table = _checked(outcomes, "`outcomes`").with_format("arrow")[:]
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


def _check_options(max_new_tokens: int, batch_size: int, samples: int, temperature: float, positions: int) -> None:
    errors = [
        f"`{name}` is {value!r}, but must be at least 1."
        for name, value in (("max_new_tokens", max_new_tokens), ("batch_size", batch_size), ("samples", samples))
        if value < 1
    ]
    if max_new_tokens >= positions:
        errors.append(
            f"`max_new_tokens` is {max_new_tokens}, but the model has {positions} positions for question and answer "
            "together (`max_position_embeddings`). Lower it."
        )
    if not (math.isfinite(temperature) and temperature >= 0):
        errors.append(f"`temperature` is {temperature!r}, but must be 0 (greedy) or a positive number.")
    elif samples > 1 and temperature == 0:
        errors.append(
            f"`samples` is {samples}, but at `temperature` 0 all answers to a question are the same. Raise the "
            "temperature, or take one sample."
        )
    if errors:
        raise ValueError("\n".join(errors))
