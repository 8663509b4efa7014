"""How often a model solves its prompts, and which of its answers can be training rows."""

from dataclasses import dataclass, field

from .._progress import progress
from ..answers import AnswerFormat, Completion, judge
from .prompt_sets import PromptSet


@dataclass
class TaskReport:
    """What became of the prompts of one task."""

    prompts: int = 0
    always: int = 0
    sometimes: int = 0
    never: int = 0
    malformed: int = 0  # rollouts without a final answer
    own_traces: int = 0
    expert_traces: int = 0
    no_trace: int = 0  # right at least once, but never in the form of a thinking row
    no_expert: int = 0
    wrong_expert: int = 0
    pass_rates: list[float] = field(default_factory=list)

    def row(self) -> dict:
        """The counts and the mean pass rate, by name."""
        counts = {name: value for name, value in vars(self).items() if name != "pass_rates"}
        return {**counts, "mean_pass_rate": sum(self.pass_rates) / len(self.pass_rates) if self.pass_rates else None}


def sort_by_pass_rate(
    prompts: PromptSet, rollouts: dict[int, list[str]], answer_format: AnswerFormat, reports: dict[str, TaskReport]
) -> tuple[dict[int, Completion], list[int], list[int]]:
    """
    Sort prompts by how often they were solved.

    Args:
        prompts ([`PromptSet`]):
            Their tasks and gold answers.
        rollouts (`dict[int, list[str]]`):
            The answers to each prompt, by its index.
        answer_format ([`~answers.AnswerFormat`]):
            The format of the answers.
        reports (`dict[str, TaskReport]`):
            Updated, per task.

    Returns:
        The model's own traces for prompts that it sometimes solved, by index; the indices of prompts that it always
        solved; and of those that it never solved.
    """
    traces, easy, unsolved = {}, [], []
    with progress("Judging rollouts", total=len(rollouts)) as advance:
        for index, texts in rollouts.items():
            report, solution = reports[prompts.tasks[index]], prompts.solutions[index]
            verdicts = [judge(text, solution, answer_format) for text in texts]
            right = [text for text, verdict in zip(texts, verdicts, strict=True) if verdict.correct]
            report.prompts += 1
            report.malformed += sum(verdict.malformed for verdict in verdicts)
            report.pass_rates.append(len(right) / len(texts))
            if len(right) == len(texts):
                report.always += 1
                easy.append(index)
            elif not right:
                report.never += 1
                unsolved.append(index)
            else:
                report.sometimes += 1
                if (trace := shortest_trace(right, answer_format)) is not None:
                    report.own_traces += 1
                    traces[index] = trace
                else:
                    report.no_trace += 1
            advance(1)
    return traces, easy, unsolved


def shortest_trace(texts: list[str], answer_format: AnswerFormat) -> Completion | None:
    """The shortest of some completions that can be a thinking row; None if none can."""
    parsed = map(answer_format.parse, sorted(texts, key=lambda text: (len(text), text)))
    return next((completion for completion in parsed if completion.well_formed and completion.thought), None)
