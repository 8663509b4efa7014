"""
Outcomes: every question answered with both branches, as one table from which everything else is calculated.

| column | type | meaning |
|---|---|---|
| `task`, `id` | str | which question |
| `subject` | str | the part of the task that it belongs to; null if the row names none |
| `sample` | int | 0, 1, ... if a question was answered several times |
| `thinking_probability` | float | the router's, asked once per question; null for a dense model |
| `correct_thinking`, `correct_non_thinking` | bool | whether that branch's answer is right, see [`~answers.judge`] |
| `tokens_thinking`, `tokens_non_thinking` | int | generated tokens of that answer, including the end of turn |
| `seconds_thinking`, `seconds_non_thinking` | float | its share of the time of its batch |
| `text_thinking`, `text_non_thinking` | str | the answer |
| `error` | str | why a branch has no answer; null if all went well |

A question that failed has the reason in `error` and nulls in place of its results; no row is ever left out. A model
that answers only once per question (a dense model, or one of the branches) leaves the columns of the other mode null.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from .._extras import require_extra
from .._folders import write_whole
from ..answers import AnswerFormat, judge
from ..data.rollouts import seed_of
from ..data.work_file import WorkFile
from ..modeling.configuration_metis_home import BRANCHES
from ..tasks.rows import gold_answers, stored_rows
from .batches import OUT_OF_MEMORY, in_halves, plan_batches, prepare_batch, read_row
from .generation import generate_answers
from .row_checks import questions_of


require_extra("eval", "datasets", "pyarrow")

from datasets import Dataset, Features, Value  # noqa: E402


ANSWER_COLUMNS = {"correct": "bool", "tokens": "int64", "seconds": "float64", "text": "string"}  # one per branch
FEATURES = Features(
    {name: Value("string") for name in ("task", "id", "subject")}
    | {"sample": Value("int64"), "thinking_probability": Value("float64")}
    | {f"{name}_{branch}": Value(kind) for name, kind in ANSWER_COLUMNS.items() for branch in BRANCHES}
    | {"error": Value("string")}
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
    routed_only: bool = False,
    work: WorkFile | None = None,
    progress: Callable[[int], None] | None = None,
) -> Dataset:
    """
    Answer every row with both branches of a two-branch model, or once with a dense model.

    Rows are batched by task and length. A row that fails (an image that cannot be decoded, a prompt that is too long,
    too little memory even for one row) does not affect the other rows of its batch.

    Args:
        model ([`MetisHomeForConditionalGeneration`] or [`~transformers.Qwen2_5_VLForConditionalGeneration`]):
            If only one branch is loaded (`only_branch`), the columns of the other one stay null.
        processor ([`~transformers.Qwen2_5_VLProcessor`]):
            Its processor.
        rows (`Sequence[dict]` or [`~datasets.Dataset`]):
            Rows of the row format with `prompt`, `images` (optional), `solution` and `task`. Optional: `id`, by default
            the row's index; `subject`; `solutions`, a list of answers of which any is right; `verifier`, a function
            that takes an answer and returns whether it is right, used instead of a comparison; `error`, the reason why
            the row is not asked.
        max_new_tokens (`int`):
            Longest answer in tokens.
        batch_size (`int`):
            Rows per call of `generate`.
        samples (`int`, *optional*, defaults to 1):
            Answers per question and branch.
        temperature (`float`, *optional*, defaults to 0.0):
            0 is greedy; above 0, sample from all tokens at this temperature.
        seed (`int`, *optional*, defaults to 0):
            Seed of the sampling. The same rows, `batch_size` and `seed` give the same table on the same machine.
        routed_only (`bool`, *optional*, defaults to `False`):
            Answer each row once, with the branch that the router picks.
        work ([`~data.work_file.WorkFile`], *optional*):
            Stores every batch once it is answered; batches that it already contains are not answered again.
        progress (`Callable`, *optional*):
            Called with the number of rows after every batch.

    Returns:
        [`~datasets.Dataset`] with the columns above, one row per question and sample, in the order of the rows.

    Raises:
        ValueError: no rows, a row without a column, a prompt that is not a list of messages, a task called `"all"`, two
            rows of one task with the same `id`, several samples at temperature 0, a number out of range; too little
            memory for any row of the first batch; no question that could be answered.

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
    rows = stored_rows(rows)
    questions = questions_of(rows, processor)
    branches = [None] if routed_only else _branches(model)
    options = {"max_new_tokens": max_new_tokens, "temperature": temperature}
    done = {} if work is None else {index: work.entries["batch", index] for index in work.done("batch")}
    cells: dict[int, list[dict]] = {}  # a question's number to its records, one per sample
    with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
        for index, numbers in enumerate(plan_batches(questions, batch_size)):
            if index in done:
                cells |= zip(numbers, done[index], strict=True)
            else:
                for number in numbers:
                    known = {name: getattr(questions[number], name) for name in ("task", "id", "subject", "error")}
                    cells[number] = [dict.fromkeys(COLUMNS) | known | {"sample": sample} for sample in range(samples)]
                batch = [cells[number] for number in numbers]
                _answer_batch(
                    model, processor, [rows[number] for number in numbers], batch, branches, (seed, numbers[0]), options
                )
                if index == 0:
                    _check_first_batch([record for cell in batch for record in cell])
                if work is not None:
                    work.add("batch", index, batch)
            if progress is not None:
                progress(len(numbers))
    records = [record for number in range(len(rows)) for record in cells[number]]
    if not any(map(_has_answer, records)):
        raise ValueError(
            f"None of the {len(rows)} questions could be answered. The first: {records[0]['error']}. Fix the rows or "
            "use another model."
        )
    return Dataset.from_list(records, features=FEATURES)


def _answer_batch(
    model, processor, rows: list[dict], cells: list[list[dict]], branches: list, seed: tuple[int, int], options: dict
) -> None:
    """Fill in the records of a batch: per row a cell with one record per sample."""
    asked = [read_row(row, cell[0]["error"]) for row, cell in zip(rows, cells, strict=True)]
    longest = model.config.get_text_config().max_position_embeddings - options["max_new_tokens"]
    places, inputs, errors = prepare_batch(processor, asked, longest)
    for place, reason in errors.items():
        for record in cells[place]:
            record["error"] = reason
    if not places:
        return
    inputs, kept = inputs.to(model.device), [asked[place] for place in places]
    answer_format = AnswerFormat.of(model.config)

    def run(function: Callable, name: str, samples: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Yield the place and the result of each row; for a row that fails, note the error in its records."""
        for place, result in zip(places, in_halves(function, processor, kept, inputs, model.device), strict=True):
            if not isinstance(result, str):
                yield place, result
                continue
            for record in (cells[place][sample] for sample in samples):
                record["error"] = "; ".join(filter(None, [record["error"], f"{name}{result}"]))

    every = range(len(cells[0]))
    if branches == [False]:  # otherwise the router is asked together with the thinking branch
        for place, probability in run(
            lambda batch: model.route(**batch).thinking_probability.tolist(), "router: ", every
        ):
            for record in cells[place]:
                record["thinking_probability"] = probability
    for branch in branches:
        for sample in every:
            # The first thinking answer asks the router too, which saves reading the prompt once more: at threshold 0 it
            # sends every question to the thinking branch.
            choice = {"thinking_threshold": 0.0} if branch is True and sample == 0 else {"thinking": branch}

            def generate(inputs, branch=branch, sample=sample, choice=choice):
                count = len(inputs["input_ids"])
                torch.manual_seed(seed_of(*seed, sample, int(bool(branch)), count))
                started = time.perf_counter()
                answers = generate_answers(model, processor, inputs, **choice, **options)
                seconds = (time.perf_counter() - started) / count
                return [(answer, seconds) for answer in answers]

            name = {True: "thinking: ", False: "non_thinking: ", None: ""}[branch]
            for place, (answer, seconds) in run(generate, name, [sample]):
                if answer.thinking_probability is not None:
                    for other in cells[place]:
                        other["thinking_probability"] = answer.thinking_probability
                row = rows[place]
                verdict = judge(answer.text, gold_answers(row), answer_format, verifier=row.get("verifier"))
                values = {"correct": verdict.correct, "tokens": answer.tokens, "seconds": seconds, "text": answer.text}
                mode = "thinking" if answer.thinking else "non_thinking"
                cells[place][sample] |= {f"{column}_{mode}": value for column, value in values.items()}


def _has_answer(record: dict) -> bool:
    return record["text_thinking"] is not None or record["text_non_thinking"] is not None


def _branches(model) -> list[bool | None]:
    """The branches that can be forced; `[None]` for a dense model, which chooses by itself."""
    if model.config.model_type != "metis_home":
        return [None]
    only = model.config.only_branch
    return [True, False] if only is None else [only == "thinking"]


def _check_first_batch(records: list[dict]) -> None:
    """Stop if there is too little memory for any row, because the next batches would fail too."""
    short = [record["error"] for record in records if record["error"] and OUT_OF_MEMORY in record["error"]]
    if short and not any(map(_has_answer, records)):
        raise ValueError(
            f"Not one question of the first batch fits into memory, even on its own ({short[0]}). Use a device with "
            "more memory, or load the weights with a smaller `dtype`."
        )


def write_outcomes(outcomes: Dataset, path: str | Path) -> Path:
    """
    Write outcomes as Parquet. The file appears once it is complete; an existing file is replaced.

    Raises:
        ValueError: a column is missing or has another type.
    """
    import pyarrow
    from pyarrow import parquet

    path = Path(path)
    buffer = pyarrow.BufferOutputStream()
    parquet.write_table(_checked(outcomes, "`outcomes`").with_format("arrow")[:], buffer)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, buffer.getvalue().to_pybytes())
    return path


def read_outcomes(path: str | Path, argument: str = "outcomes") -> Dataset:
    """
    Read what [`write_outcomes`] wrote. Other columns are dropped. `argument` is what errors call the path.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not Parquet, or a column is missing or has another type.
    """
    import pyarrow
    from pyarrow import parquet

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"`{argument}` is {str(path)!r}, which is not a file. Pass the folder that `metis-home eval` wrote."
        )
    try:
        table = parquet.ParquetFile(path).read()
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"`{argument}` is {str(path)!r}, which is not a Parquet file ({error}).") from error
    return _checked(Dataset(table), f"`{argument}` ({str(path)!r})")


def _checked(outcomes: Dataset, name: str) -> Dataset:
    """Outcomes with exactly the columns of the table, in its order and types."""
    if missing := [column for column in COLUMNS if column not in outcomes.column_names]:
        raise ValueError(
            f"{name} has no column {', '.join(map(repr, missing))}; it has {outcomes.column_names}. Outcomes need "
            f"{list(COLUMNS)}: see `hf_metis_home.evaluation.outcomes`."
        )
    # `.data` would ignore `select` and `filter`, so through the format.
    table = outcomes.with_format("arrow")[:].select(list(COLUMNS))
    try:
        return Dataset(table.cast(FEATURES.arrow_schema))
    except (ValueError, NotImplementedError) as error:  # includes pyarrow's errors
        raise ValueError(f"{name} has a column of the wrong type: {error}.") from error


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
