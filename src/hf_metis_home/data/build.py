"""
Training rows for Stage-SFT from what a model gets right (arXiv 2510.20519): prompts that it always solves teach nothing
and are dropped, those that it sometimes solves come with its own shortest correct trace, and those that it never solves
with an expert's.
"""

import math
import random
from collections import Counter, defaultdict
from pathlib import Path
from typing import Literal

from .._folders import check_output_dir, staged_folder
from .._progress import progress
from ..answers import AnswerFormat, Completion, judge
from .dataset_folder import write_dataset_folder
from .pass_rate import TaskReport, shortest_trace, sort_by_pass_rate
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
    Write a dataset folder for [`MetisHomeSFTTrainer`], as `metis-home build-data` does.

    Rollouts are kept in `{output_dir}.rollouts.jsonl`: a stopped run continues from there, to the same result.
    Completions are read and written in the model's answer format.

    Args:
        reasoning ([`PromptSet`]):
            Prompts for the thinking branch.
        model ([`~data.rollouts.ModelRollouts`] or [`~data.endpoint.EndpointRollouts`]):
            The model that answers.
        output_dir (`str` or `Path`):
            Must not exist, or be empty.
        general ([`PromptSet`], *optional*):
            Prompts for the non-thinking branch, answered with their `solution`; as many are used as there are thinking
            rows.
        expert ([`~data.rollouts.ModelRollouts`] or [`~data.endpoint.EndpointRollouts`], *optional*):
            Answers the prompts that the model never solves and that have no `expert_completion`.
        n_rollouts (`int`, *optional*, defaults to 8):
            Answers per prompt.
        always_right (`str`, *optional*, defaults to `"drop"`):
            What to do with prompts that are always solved: `"drop"` them, or `"non_thinking"`: answer them directly.
        other_mode_share (`float`, *optional*, defaults to 0.1):
            Share of each task's rows in the other mode, so that the model learns to obey a forced mode.
        seed (`int`, *optional*, defaults to 0):
            Seed of the selection and of the order of the rows.
        command (`str`, *optional*):
            Command line to show on the dataset card.

    Returns:
        `dict`: `rows`, `thinking`, `non_thinking` (numbers of rows), `direct_shortfall`, `tasks` (per task what
        [`TaskReport`] counts), `work_file`.

    Raises:
        ValueError: bad arguments, rollouts from a run with other settings, or no thinking rows.
        ConnectionError: a server does not answer.
    """
    _check_arguments(n_rollouts, always_right, other_mode_share)
    output_dir, answer_format = check_output_dir(output_dir), model.answer_format
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
        # 1. Pass rates, and a trace for each prompt that is not always solved.
        rollouts = _roll_out(work, "reasoning", model, reasoning, range(len(reasoning)), n_rollouts)
        reports: dict[str, TaskReport] = defaultdict(TaskReport)
        traces, easy, unsolved = sort_by_pass_rate(reasoning, rollouts, answer_format, reports)
        traces |= _expert_traces(reasoning, unsolved, answer_format, expert, work, reports)
        if not traces:
            raise ValueError(_nothing_left(reports, expert, reasoning, work.path))
        # 2. Thinking rows, with some direct answers among them.
        easy = easy if always_right == "non_thinking" else []
        direct = _direct_share(reasoning, traces, easy, other_mode_share, seed)
        rows = [
            training_row(reasoning[index], None if index in direct else traces[index], answer_format)
            for index in sorted({*traces, *easy})
        ]
        # 3. As many direct answers to general prompts, with some thoughts among them.
        wanted, chosen = max(0, len(traces) - len(easy)), []
        if general is not None:
            order = list(range(len(general)))
            random.Random(f"general {seed}").shuffle(order)
            chosen = sorted(order[:wanted])
            candidates = _thinking_share(general, chosen, other_mode_share, seed)
            drawn = _roll_out(work, "general", model, general, candidates, n_rollouts)
            for index in chosen:
                solution = general.solutions[index]
                right = [text for text in drawn.get(index, []) if judge(text, solution, answer_format).correct]
                rows.append(training_row(general[index], shortest_trace(right, answer_format), answer_format))
    finally:
        work.close()
    random.Random(f"order {seed}").shuffle(rows)
    thinking = sum(row["thinking"] for row in rows)
    report = {
        "rows": len(rows),
        "thinking": thinking,
        "non_thinking": len(rows) - thinking,
        "direct_shortfall": 0 if general is None else wanted - len(chosen),
        "tasks": {
            task: reports[task].row() if task in reports else None
            for task in sorted({row["task"] for row in rows} | reports.keys())
        },
        "work_file": str(work.path),
    }
    facts = {**model.settings, "n_rollouts": n_rollouts, "always_right": always_right, "selection_seed": seed}
    facts |= {"other_mode_share": other_mode_share, "expert": None if expert is None else expert.settings["model"]}
    with staged_folder(output_dir) as folder:
        write_dataset_folder(folder, rows, report, facts, command, answer_format)
    return report


def _check_arguments(n_rollouts: int, always_right: str, other_mode_share: float) -> None:
    if n_rollouts < 1:
        raise ValueError(f"`n_rollouts` is {n_rollouts}, but a pass rate needs at least one rollout, better eight.")
    if always_right not in ("drop", "non_thinking"):
        raise ValueError(f"`always_right` is {always_right!r}, but must be 'drop' or 'non_thinking'.")
    if not 0 <= other_mode_share <= 0.5:
        raise ValueError(f"`other_mode_share` is {other_mode_share}, but must be between 0 and 0.5.")


def _roll_out(work: WorkFile, group: str, source, rows: PromptSet, indices, count: int) -> dict[int, list[str]]:
    """The rollouts of prompts: from the work file, or from the source if they are not there yet."""
    done = work.done(group)
    with progress(f"Rollouts, {group}", total=len(indices)) as advance:
        advance(len(done.intersection(indices)))
        if not done.issuperset(indices):
            for index, texts in source.roll_out(rows, indices, done, count):
                advance(index not in done)
                work.add(group, index, texts)
    return {index: work.entries[group, index] for index in indices}


def _expert_traces(
    prompts: PromptSet, unsolved: list[int], answer_format: AnswerFormat, expert, work: WorkFile, reports: dict
) -> dict[int, Completion]:
    answers = {index: (prompts[index]["expert_completion"], answer_format) for index in unsolved}
    missing = [index for index, (text, _) in answers.items() if not text]
    if expert is not None:
        drawn = _roll_out(work, "expert", expert, prompts, missing, 1)
        answers |= {index: (texts[0], expert.answer_format) for index, texts in drawn.items()}
        missing = []
    traces = {}
    for index, (text, format_of_text) in answers.items():
        report, solution = reports[prompts.tasks[index]], prompts.solutions[index]
        if index in missing:
            report.no_expert += 1
        elif judge(text, solution, format_of_text).correct and (trace := shortest_trace([text], format_of_text)):
            report.expert_traces += 1
            traces[index] = trace
        else:
            report.wrong_expert += 1
    return traces


def _direct_share(prompts: PromptSet, traces: dict, easy: list[int], share: float, seed: int) -> set[int]:
    """Which reasoning prompts get a direct answer: the easy ones, and a share of each task."""
    already = Counter(prompts.tasks[index] for index in easy)
    direct = set(easy)
    for task, members in _by_task(prompts, sorted(traces)).items():
        wanted = _share(share, len(members) + already[task]) - already[task]
        direct.update(random.Random(f"direct {task} {seed}").sample(members, max(0, min(wanted, len(members) - 1))))
    return direct


def _thinking_share(prompts: PromptSet, chosen: list[int], share: float, seed: int) -> list[int]:
    """Which general prompts get a thought: a share of each task."""
    indices = []
    for task, members in _by_task(prompts, chosen).items():
        wanted = min(_share(share, len(members)), len(members))
        indices += random.Random(f"thinking {task} {seed}").sample(members, wanted)
    return sorted(indices)


def _by_task(prompts: PromptSet, indices: list[int]) -> dict[str, list[int]]:
    tasks = defaultdict(list)
    for index in indices:
        tasks[prompts.tasks[index]].append(index)
    return tasks


def _share(share: float, count: int) -> int:
    """A share of some rows, rounded; at least one of two or more, so that no task goes without."""
    return max(math.floor(share * count + 0.5), int(share > 0 and count > 1))


def _nothing_left(reports: dict[str, TaskReport], expert, prompts: PromptSet, work_file: Path) -> str:
    total = Counter()
    for report in reports.values():
        total.update({name: value for name, value in vars(report).items() if isinstance(value, int)})
    others = "" if "expert_completion" in prompts.dataset.column_names else ", a column `expert_completion`"
    others += ", an `expert_endpoint`" if expert is None else ""
    return (
        f"No thinking row is left of {total['prompts']} prompts: {total['always']} were always solved, "
        f"{total['sometimes']} sometimes ({total['no_trace']} of them never with a well-formed thought), "
        f"{total['never']} never ({total['no_expert']} without an expert's answer, {total['wrong_expert']} with "
        f"one that is wrong or has no thought); {total['malformed']} answers were malformed. Use other "
        f"prompts{others}, or a `system_prompt` that asks for the format. The rollouts are in {work_file}."
    )
