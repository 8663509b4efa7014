"""Greedy answers to rows in batches, compared with the gold answer, and accuracy per task."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from ..data import parse_completion, prompt_inputs


@dataclass(frozen=True)
class AnswerRecord:
    """
    One answer.

    Args:
        task, question, solution (`str`):
            From the row; the question is the text of the last message.
        text (`str`):
            The generated text.
        thought, answer (`str`, *optional*):
            As [`~data.parse_completion`] reads them.
        correct (`bool`):
            Whether the answer is the gold answer, to the letter.
        tokens (`int`):
            Generated tokens, the end of turn included.
        thinking (`bool`):
            The branch that answered; for a dense model, whether it wrote a thought.
        thinking_probability (`float`, *optional*):
            The router's, where it was asked.
    """

    task: str
    question: str
    solution: str
    text: str
    thought: str | None
    answer: str | None
    correct: bool
    tokens: int
    thinking: bool
    thinking_probability: float | None


@torch.no_grad()
def answer_rows(
    model,
    processor,
    rows: Sequence[dict],
    *,
    thinking: bool | None = None,
    max_new_tokens: int = 512,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
) -> list[AnswerRecord]:
    """
    Answer rows greedily.

    Args:
        model ([`MetisHomeForConditionalGeneration`] or [`~transformers.Qwen2_5_VLForConditionalGeneration`]):
            A dense model answers as it will.
        processor ([`~transformers.Qwen2_5_VLProcessor`]):
            Its processor.
        rows (`Sequence[dict]`):
            Rows of the row format with `prompt`, `images`, `solution` and `task`.
        thinking (`bool`, *optional*):
            Force a branch of a two-branch model; None asks its router.
        max_new_tokens (`int`, *optional*, defaults to 512):
            Longest answer in tokens.
        batch_size (`int`, *optional*, defaults to 64):
            Rows per call of `generate`.
        progress (`Callable`, *optional*):
            Called with the number of rows after every batch.

    Returns:
        `list[AnswerRecord]`, in the order of the rows.
    """
    two_branch = model.config.model_type == "metis_home"
    if thinking is not None and not two_branch:
        raise ValueError(f"`thinking={thinking}` forces a branch, but the model is dense ({model.config.model_type}).")
    choice = {"thinking": thinking} if two_branch else {}
    records = []
    for start in range(0, len(rows), batch_size):
        batch = [rows[index] for index in range(start, min(start + batch_size, len(rows)))]
        inputs = prompt_inputs(processor, batch).to(model.device)
        output = model.generate(
            **inputs, **choice, max_new_tokens=max_new_tokens, do_sample=False, return_dict_in_generate=True
        )
        answers = output.sequences[:, inputs["input_ids"].shape[1] :]
        texts = processor.batch_decode(answers, skip_special_tokens=True)
        lengths = (answers != processor.tokenizer.pad_token_id).sum(dim=1).tolist()
        for index, row in enumerate(batch):
            parsed = parse_completion(texts[index])
            probability = output.thinking_probability[index].item() if two_branch else math.nan
            records.append(
                AnswerRecord(
                    task=row["task"],
                    question=_text(row["prompt"][-1]["content"]),
                    solution=row["solution"],
                    text=texts[index],
                    thought=parsed.thought,
                    answer=parsed.answer,
                    correct=parsed.answer == row["solution"].strip(),
                    tokens=lengths[index],
                    thinking=bool(output.thinking[index]) if two_branch else bool(parsed.thought),
                    thinking_probability=None if math.isnan(probability) else probability,
                )
            )
        if progress is not None:
            progress(len(batch))
    return records


def summarise(records: Iterable[AnswerRecord], pools: dict[str, Sequence[str]] | None = None) -> dict[str, dict]:
    """
    Accuracy per task.

    Args:
        records (`Iterable[AnswerRecord]`):
            Answers of one model.
        pools (`dict[str, Sequence[str]]`, *optional*):
            Further rows of the result: name to the tasks whose answers it pools.

    Returns:
        `dict`: task or pool to `accuracy` and its `stderr` (binomial), both as shares, `n`, `thinking_ratio` (share
        answered by the thinking branch) and `mean_tokens`.
    """
    groups: dict[str, list[AnswerRecord]] = {}
    for record in records:
        groups.setdefault(record.task, []).append(record)
    for name, tasks in (pools or {}).items():
        groups[name] = [record for task in tasks for record in groups.get(task, [])]
    return {name: _summary(group) for name, group in groups.items() if group}


def _summary(records: list[AnswerRecord]) -> dict:
    n = len(records)
    accuracy = sum(record.correct for record in records) / n
    return {
        "accuracy": accuracy,
        "stderr": math.sqrt(accuracy * (1 - accuracy) / n),
        "n": n,
        "thinking_ratio": sum(record.thinking for record in records) / n,
        "mean_tokens": sum(record.tokens for record in records) / n,
    }


def _text(content) -> str:
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)
