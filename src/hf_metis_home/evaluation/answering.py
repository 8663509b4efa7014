"""Answers to rows in batches, compared with the gold answer, and accuracy per task."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from ..answers import AnswerFormat
from ..data import prompt_inputs


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
            As [`~answers.AnswerFormat.parse`] reads them: the thought, and the final answer.
        correct (`bool`):
            Whether the answer is the gold answer, as `match` sees it.
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


@dataclass(frozen=True)
class GeneratedAnswer:
    """
    What a model wrote to one query.

    Args:
        text (`str`):
            The generated text.
        tokens (`int`):
            Generated tokens, the end of turn included.
        thinking (`bool`):
            The branch that answered; for a dense model, whether it wrote a thought.
        thinking_probability (`float`, *optional*):
            The router's, where it was asked.
    """

    text: str
    tokens: int
    thinking: bool
    thinking_probability: float | None


def exact_match(answer: str, solution: str) -> bool:
    """Whether an answer is the gold answer to the letter, but for space around it."""
    return answer.strip() == solution.strip()


def is_correct(text: str, solution: str, match: Callable[[str, str], bool] = exact_match) -> bool:
    """Whether a text in the answer format has an answer that matches the gold answer."""
    answer = AnswerFormat().parse(text).final
    return answer is not None and bool(match(answer, solution))


@torch.no_grad()
def generate_answers(
    model,
    processor,
    inputs,
    *,
    max_new_tokens: int,
    thinking: bool | None = None,
    thinking_threshold: float | None = None,
    temperature: float = 0.0,
) -> list[GeneratedAnswer]:
    """
    One answer to each query of a batch.

    Args:
        model ([`MetisHomeForConditionalGeneration`] or [`~transformers.Qwen2_5_VLForConditionalGeneration`]):
            A dense model answers as it will.
        processor ([`~transformers.Qwen2_5_VLProcessor`]):
            Its processor.
        inputs ([`~transformers.BatchFeature`]):
            What [`~data.prompt_inputs`] gives, on the model's device.
        max_new_tokens (`int`):
            Longest answer in tokens.
        thinking (`bool`, *optional*):
            Force a branch of a two-branch model; None asks its router.
        thinking_threshold (`float`, *optional*):
            The router's, where it is not the model's own.
        temperature (`float`, *optional*, defaults to 0.0):
            0 is greedy; above, samples from all tokens at that temperature, with torch's global generator.
    """
    two_branch = model.config.model_type == "metis_home"
    if thinking is not None and not two_branch:
        raise ValueError(f"`thinking={thinking}` forces a branch, but the model is dense ({model.config.model_type}).")
    choice = {"thinking": thinking, "thinking_threshold": thinking_threshold} if two_branch else {}
    sampling = {"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {}
    output = model.generate(
        **inputs,
        **choice,
        max_new_tokens=max_new_tokens,
        do_sample=temperature > 0,
        return_dict_in_generate=True,
        **sampling,
    )
    answers = output.sequences[:, inputs["input_ids"].shape[1] :]
    texts = processor.batch_decode(answers, skip_special_tokens=True)
    lengths = (answers != processor.tokenizer.pad_token_id).sum(dim=1).tolist()
    modes = (
        output.thinking.bool().tolist() if two_branch else [bool(AnswerFormat().parse(text).thought) for text in texts]
    )
    probabilities = output.thinking_probability.tolist() if two_branch else [math.nan] * len(texts)
    return [
        GeneratedAnswer(text, length, mode, None if math.isnan(probability) else probability)
        for text, length, mode, probability in zip(texts, lengths, modes, probabilities, strict=True)
    ]


def answer_rows(
    model,
    processor,
    rows: Sequence[dict],
    *,
    thinking: bool | None = None,
    max_new_tokens: int = 512,
    batch_size: int = 64,
    match: Callable[[str, str], bool] = exact_match,
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
        match (`Callable`, *optional*, defaults to [`exact_match`]):
            `match(answer, solution)`: whether an answer is right. Not asked where there is no answer.
        progress (`Callable`, *optional*):
            Called with the number of rows after every batch.

    Returns:
        `list[AnswerRecord]`, in the order of the rows.
    """
    records = []
    for start in range(0, len(rows), batch_size):
        batch = [rows[index] for index in range(start, min(start + batch_size, len(rows)))]
        inputs = prompt_inputs(processor, batch).to(model.device)
        answers = generate_answers(model, processor, inputs, thinking=thinking, max_new_tokens=max_new_tokens)
        for row, answer in zip(batch, answers, strict=True):
            parsed = AnswerFormat().parse(answer.text)
            records.append(
                AnswerRecord(
                    task=row["task"],
                    question=_text(row["prompt"][-1]["content"]),
                    solution=row["solution"],
                    text=answer.text,
                    thought=parsed.thought,
                    answer=parsed.final,
                    correct=is_correct(answer.text, row["solution"], match),
                    tokens=answer.tokens,
                    thinking=answer.thinking,
                    thinking_probability=answer.thinking_probability,
                )
            )
        if progress is not None:
            progress(len(batch))
    return records


def summarise(records: Iterable[AnswerRecord], pools: Mapping[str, Sequence[str]] | None = None) -> dict[str, dict]:
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
