"""
Rows for Stage-SFT from what a model gets right (arXiv 2510.20519): prompts that it always solves teach nothing, those
that it sometimes solves come with its own shortest correct trace, those that it never solves with an expert's.
"""

import math
import random
from collections import Counter, defaultdict
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from .._folders import check_output_dir, staged_folder
from ..answers.format import AnswerFormat
from .dataset_folder import write_dataset_folder
from .pass_rate import TaskReport, is_right, shortest_trace, sort_by_pass_rate
from .prompt_sets import PromptSet, training_row
from .work_file import WorkFile


def build_data(
    reasoning: PromptSet,
    model,
    output_dir: str | Path,
    *,
    general: PromptSet | None = None,
    expert=None,
    n_rollouts: int = 8,
    always_right: Literal["drop", "non_thinking"] = "drop",
    other_mode_share: float = 0.1,
    seed: int = 0,
    command: str | None = None,
) -> dict:
    """
    Make a dataset folder for [`MetisHomeSFTTrainer`], as `metis-home build-data` does.

    Rollouts are kept in `{output_dir}.rollouts.jsonl`, from which a run that was stopped goes on to the same result.

    Args:
        reasoning ([`PromptSet`]):
            Prompts for the thinking branch.
        model ([`~data.rollouts.ModelRollouts`] or [`~data.endpoint.EndpointRollouts`]):
            Whose answers are drawn.
        output_dir (`str` or `Path`):
            Must not exist, or be empty.
        general ([`PromptSet`], *optional*):
            Prompts for the non-thinking branch, answered by their `solution`; as many are taken as there are thinking
            rows.
        expert ([`~data.rollouts.ModelRollouts`] or [`~data.endpoint.EndpointRollouts`], *optional*):
            Answers prompts that the model never solves and that have no `expert_completion`.
        n_rollouts (`int`, *optional*, defaults to 8):
            Answers per prompt.
        always_right (`str`, *optional*, defaults to `"drop"`):
            What becomes of prompts that are always solved: `"drop"`, or `"non_thinking"` for a direct answer.
        other_mode_share (`float`, *optional*, defaults to 0.1):
            Share of each task's rows in the mode that it is not meant for, so that a forced mode is obeyed there.
        seed (`int`, *optional*, defaults to 0):
            Of what is chosen and of the order.
        command (`str`, *optional*):
            Written into the card.

    Returns:
        `dict`: `rows`, `thinking`, `non_thinking` (numbers of rows), `direct_shortfall`, `tasks` (per task what
        [`TaskReport`] counts), `work_file`.

    Raises:
        ValueError: bad arguments, rollouts made with other settings, or no thinking row left.
        ConnectionError: a server without an answer.
    """
    _check_arguments(n_rollouts, always_right, other_mode_share)
    output_dir = check_output_dir(output_dir)
    model.probe(reasoning[0])
    if expert is not None:
        expert.probe(reasoning[0])
    settings = {
        **model.settings,
        "n_rollouts": n_rollouts,
        "dataset": reasoning.fingerprint,
        "general_dataset": None if general is None else general.fingerprint,
        "expert": None if expert is None else expert.settings,
        "selection_seed": seed,
    }
    work = WorkFile(output_dir.with_name(f"{output_dir.name}.rollouts.jsonl"), settings)
    try:
        indices = range(len(reasoning))
        rollouts = _roll_out(work, "reasoning", model, reasoning, indices, n_rollouts)
        reports: dict[str, TaskReport] = defaultdict(TaskReport)
        traces, easy, unsolved = sort_by_pass_rate(reasoning, rollouts, reports)
        traces |= _expert_traces(reasoning, unsolved, expert, work, reports)
        if not traces:
            raise ValueError(_nothing_left(reports, expert, reasoning, work.path))
        rows = _reasoning_rows(
            reasoning, traces, easy if always_right == "non_thinking" else [], other_mode_share, seed
        )
        shortfall = 0
        if general is not None:
            direct = len(easy) if always_right == "non_thinking" else 0
            chosen = _choose(general, len(traces) - direct, seed)
            shortfall = max(0, len(traces) - direct - len(chosen))
            candidates = _share_per_task(general, chosen, other_mode_share, seed)
            drawn = _roll_out(work, "general", model, general, candidates, n_rollouts)
            rows += _general_rows(general, chosen, drawn)
    finally:
        work.close()
    random.Random(f"order {seed}").shuffle(rows)
    tasks = sorted({row["task"] for row in rows} | reports.keys())
    report = {
        "rows": len(rows),
        "thinking": sum(row["thinking"] for row in rows),
        "non_thinking": sum(not row["thinking"] for row in rows),
        "direct_shortfall": shortfall,
        "tasks": {task: reports[task].row() if task in reports else None for task in tasks},
        "work_file": str(work.path),
    }
    facts = {**model.settings, "n_rollouts": n_rollouts, "always_right": always_right, "selection_seed": seed}
    facts |= {"other_mode_share": other_mode_share, "expert": None if expert is None else expert.settings["model"]}
    with staged_folder(output_dir) as folder:
        write_dataset_folder(folder, rows, report, facts, command)
    return report


def _check_arguments(n_rollouts: int, always_right: str, other_mode_share: float) -> None:
    if n_rollouts < 1:
        raise ValueError(f"`n_rollouts` is {n_rollouts}, but a pass rate needs at least one rollout, better eight.")
    if always_right not in ("drop", "non_thinking"):
        raise ValueError(f"`always_right` is {always_right!r}, but must be 'drop' or 'non_thinking'.")
    if not 0 <= other_mode_share <= 0.5:
        raise ValueError(f"`other_mode_share` is {other_mode_share}, but must lie between 0 and 0.5.")


def _roll_out(work: WorkFile, group: str, source, rows: PromptSet, indices, count: int) -> dict[int, list[str]]:
    """The rollouts of prompts, from the work file and, what is missing, from the source."""
    done = work.done(group)
    todo = [index for index in indices if index not in done]
    with tqdm(total=len(indices), initial=len(indices) - len(todo), desc=f"rollouts, {group}", disable=None) as bar:
        if todo:
            for index, texts in source.roll_out(rows, indices, done, count):
                bar.update(index not in work.done(group))
                work.add(group, index, texts)
    return {index: work.entries[group, index] for index in indices}


def _expert_traces(prompts: PromptSet, unsolved: list[int], expert, work: WorkFile, reports: dict) -> dict[int, str]:
    given = {index: prompts[index]["expert_completion"] for index in unsolved} if prompts.has_experts else {}
    given = {index: text for index, text in given.items() if text}
    if expert is not None:
        missing = [index for index in unsolved if index not in given]
        drawn = _roll_out(work, "expert", expert, prompts, missing, 1)
        given |= {index: texts[0] for index, texts in drawn.items()}
    traces = {}
    for index in unsolved:
        report = reports[prompts.tasks[index]]
        if index not in given:
            report.no_expert += 1
        elif not is_right(given[index], prompts.solutions[index]) or shortest_trace([given[index]]) is None:
            report.wrong_expert += 1
        else:
            report.expert_traces += 1
            traces[index] = given[index]
    return traces


def _thinking_row(row: dict, trace: str) -> dict:
    parsed = AnswerFormat().parse(trace)
    return training_row(row, parsed.thought, parsed.answer)


def _reasoning_rows(prompts: PromptSet, traces: dict[int, str], easy: list[int], share: float, seed: int) -> list[dict]:
    """Thinking rows, with enough direct answers per task among them."""
    already = Counter(prompts.tasks[index] for index in easy)
    direct = set(easy)
    for task, members in _by_task(prompts, sorted(traces)).items():
        wanted = _share(share, len(members) + already[task]) - already[task]
        direct.update(random.Random(f"direct {task} {seed}").sample(members, max(0, min(wanted, len(members) - 1))))
    return [
        prompts.direct_row(index) if index in direct else _thinking_row(prompts[index], traces[index])
        for index in sorted({*traces, *easy})
    ]


def _choose(prompts: PromptSet, count: int, seed: int) -> list[int]:
    """Some prompts, at random."""
    order = list(range(len(prompts)))
    random.Random(f"general {seed}").shuffle(order)
    return sorted(order[: max(0, count)])


def _share_per_task(prompts: PromptSet, chosen: list[int], share: float, seed: int) -> list[int]:
    """Which of the chosen prompts shall get a thought."""
    indices = []
    for task, members in _by_task(prompts, chosen).items():
        indices += random.Random(f"thinking {task} {seed}").sample(
            members, min(_share(share, len(members)), len(members))
        )
    return sorted(indices)


def _general_rows(prompts: PromptSet, chosen: list[int], drawn: dict[int, list[str]]) -> list[dict]:
    """Direct answers, and the model's own traces where it was asked for some and had a right one."""
    rows = []
    for index in chosen:
        right = [text for text in drawn.get(index, []) if is_right(text, prompts.solutions[index])]
        trace = shortest_trace(right)
        rows.append(prompts.direct_row(index) if trace is None else _thinking_row(prompts[index], trace))
    return rows


def _by_task(prompts: PromptSet, indices: list[int]) -> dict[str, list[int]]:
    tasks = defaultdict(list)
    for index in indices:
        tasks[prompts.tasks[index]].append(index)
    return tasks


def _share(share: float, count: int) -> int:
    """A share of a number of rows; at least one of two or more, so that no task is without."""
    return max(math.floor(share * count + 0.5), int(share > 0 and count > 1))


def _nothing_left(reports: dict, expert, prompts: PromptSet, work_file: Path) -> str:
    total = Counter()
    for report in reports.values():
        total.update({name: value for name, value in vars(report).items() if isinstance(value, int)})
    missing = [] if prompts.has_experts else ["a column `expert_completion`"]
    missing += [] if expert is not None else ["an `expert_endpoint`"]
    return (
        f"No thinking row is left of {total['prompts']} prompts: {total['always']} were always solved, "
        f"{total['sometimes']} sometimes ({total['no_trace']} of them never in the form "
        f"<think>…</think><answer>…</answer>), {total['never']} never ({total['no_expert']} without an expert's "
        f"answer, {total['wrong_expert']} with one that is wrong or has no thought). Give other prompts"
        f"{''.join(f', {name}' for name in missing)}, or a `system_prompt` that asks for the form. The rollouts are in "
        f"{work_file}."
    )
