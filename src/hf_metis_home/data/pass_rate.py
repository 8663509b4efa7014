"""How often a model solves its prompts, and which of its answers can be taught."""

from dataclasses import dataclass, field

from tqdm import tqdm

from ..answers.format import AnswerFormat
from ..answers.judging import judge
from .prompt_sets import PromptSet


@dataclass
class TaskReport:
    """What became of the prompts of one task."""

    prompts: int = 0
    always: int = 0
    sometimes: int = 0
    never: int = 0
    own_traces: int = 0
    expert_traces: int = 0
    no_trace: int = 0  # right at least once, but never in the form of a thinking row
    no_expert: int = 0
    wrong_expert: int = 0
    pass_rates: list[float] = field(default_factory=list)

    def row(self) -> dict:
        """The report as a row of a table."""
        rate = sum(self.pass_rates) / len(self.pass_rates) if self.pass_rates else None
        counts = {name: value for name, value in vars(self).items() if name != "pass_rates"}
        return {**counts, "mean_pass_rate": rate}


def sort_by_pass_rate(prompts: PromptSet, rollouts: dict, reports: dict) -> tuple[dict[int, str], list[int], list[int]]:
    """
    Sort prompts by how often they were solved.

    Args:
        prompts ([`PromptSet`]):
            Their tasks and gold answers.
        rollouts (`dict[int, list[str]]`):
            Index to answers.
        reports (`dict[str, TaskReport]`):
            Counted into, per task.

    Returns:
        Own traces of prompts that were sometimes solved, by index; the indices of those always solved; of those never.
    """
    traces, easy, unsolved = {}, [], []
    for index, texts in tqdm(rollouts.items(), desc="checking", disable=None):
        report, solution = reports[prompts.tasks[index]], prompts.solutions[index]
        right = [text for text in texts if is_right(text, solution)]
        report.prompts += 1
        report.pass_rates.append(len(right) / len(texts))
        if len(right) == len(texts):
            report.always += 1
            easy.append(index)
        elif not right:
            report.never += 1
            unsolved.append(index)
        else:
            report.sometimes += 1
            if (trace := shortest_trace(right)) is not None:
                report.own_traces += 1
                traces[index] = trace
            else:
                report.no_trace += 1
    return traces, easy, unsolved


def is_right(text: str, solution: str) -> bool:
    """Whether a completion commits itself to the gold answer."""
    return judge(text, solution).correct


def shortest_trace(texts: list[str]) -> str | None:
    """The shortest text that can be a thinking row."""
    parsed = [(len(text), text) for text in texts if (one := AnswerFormat().parse(text)).well_formed and one.thought]
    return min(parsed)[1] if parsed else None
