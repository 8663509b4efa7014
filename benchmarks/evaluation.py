"""
What an evaluation spends outside `generate`, and what the order of its rows is worth.

    python -m benchmarks.evaluation --model_name_or_path runs/demo/hybrid

Three mixes of the miniature's questions. All are answered by both branches, in batches of the same size, by the order
that `collect_outcomes` takes (by task, then length of the prompt) and in the order in which the rows come (shuffled).
With `--model_name_or_path` of a trained hybrid, answers are as long as such a model writes them.
"""

import random
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager

import hf_metis_home.evaluation.outcomes as outcomes
from hf_metis_home.miniature.tasks import EASY_TASKS, HARD_TASKS, MAX_ANSWER_TOKENS, TASKS
from hf_metis_home.tasks.questions import load_questions

from .common import machine, parser, start, table, write_section


MIXES = {"all tasks": TASKS, "easy tasks": EASY_TASKS, "hard tasks": HARD_TASKS}
LONG = "read the digits " * 20  # in front of every second question of the mix with prompts of two lengths


def shuffled(tasks, questions: int, long_prompts: bool = False) -> list[dict]:
    rows, _ = load_questions(list(tasks), limit=max(1, questions // len(tasks)))
    order = random.Random(0).sample(range(len(rows)), len(rows))
    rows = [rows[number] for number in order]
    if long_prompts:
        for row in rows[::2]:
            row["prompt"] = [{"role": "user", "content": LONG + row["prompt"][0]["content"]}]
    return rows


@contextmanager
def as_they_come():
    """Batches in the order of the rows."""
    planned = outcomes.plan_batches
    outcomes.plan_batches = lambda questions, size: [
        list(range(start, min(start + size, len(questions)))) for start in range(0, len(questions), size)
    ]
    try:
        yield
    finally:
        outcomes.plan_batches = planned


class Clock:
    """Seconds inside a function of an object."""

    def __init__(self, model):
        self.seconds, self.generate = 0.0, model.generate
        model.generate = self

    def __call__(self, **inputs):
        started = time.perf_counter()
        try:
            return self.generate(**inputs)
        finally:
            self.seconds += time.perf_counter() - started


def timed(model, processor, rows: list[dict], batch_size: int, clock: Clock) -> tuple[float, float]:
    """Seconds of a collection, and those inside `generate`."""
    before, started = clock.seconds, time.perf_counter()
    outcomes.collect_outcomes(model, processor, rows, max_new_tokens=MAX_ANSWER_TOKENS, batch_size=batch_size)
    return time.perf_counter() - started, clock.seconds - before


def sections(args) -> list[str]:
    from hf_metis_home.cli._models import load_model

    model, processor = load_model(args.model_name_or_path)
    clock = Clock(model)
    rows, _ = load_questions(list(TASKS), limit=args.questions // len(TASKS))
    timed(model, processor, shuffled(TASKS, 64), args.batch_size, clock)  # warm-up
    seconds, inside = timed(model, processor, rows, args.batch_size, clock)
    parts = [
        f"{len(rows):,} questions, both branches, batches of {args.batch_size}: {seconds:.1f} s, of which "
        f"{inside:.1f} s ({inside / seconds:.1%}) inside `generate`.",
    ]
    lines = []
    mixes: dict[str, Callable[[], list[dict]]] = {
        name: lambda tasks=tasks: shuffled(tasks, args.mix_questions) for name, tasks in MIXES.items()
    }
    mixes["all tasks, prompts of two lengths"] = lambda: shuffled(TASKS, args.mix_questions, long_prompts=True)
    for name, make in mixes.items():
        mix = make()
        best = {"sorted": float("inf"), "as they come": float("inf")}
        for number in range(args.repeats):
            for order in list(best) if number % 2 else reversed(best):
                if order == "sorted":
                    found, _ = timed(model, processor, mix, args.batch_size, clock)
                else:
                    with as_they_come():
                        found, _ = timed(model, processor, mix, args.batch_size, clock)
                best[order] = min(best[order], found)
        ratio = best["as they come"] / best["sorted"]
        lines.append([name, str(len(mix)), f"{best['sorted']:.2f}", f"{best['as they come']:.2f}", f"{ratio:.2f}"])
    return [*parts, table(["mix", "questions", "sorted, s", "as they come, s", "factor"], lines)]


def main(argv: list[str] | None = None) -> int:
    arguments = parser("benchmarks.evaluation", "Evaluation against the time inside `generate`.", repeats=2)
    arguments.set_defaults(dtype="float32", skip_memory=True)
    arguments.add_argument("--model_name_or_path", required=True, help="A hybrid of the miniature.")
    arguments.add_argument("--questions", type=int, default=2000, help="Of the share inside `generate`.")
    arguments.add_argument("--mix_questions", type=int, default=480, help="Of every mix.")
    arguments.add_argument("--batch_size", type=int, default=32)
    args = start(arguments, argv)
    words = " ".join(sys.argv[1:] if argv is None else argv)
    words = words.replace(args.model_name_or_path, "runs/demo/hybrid").replace(f"--output {args.output}", "").strip()
    parts = sections(args)
    intro = f"`python -m benchmarks.evaluation {words}`: {machine(args)} Best of {args.repeats}, in turns."
    write_section(args, [intro, *parts])
    return 0


if __name__ == "__main__":
    sys.exit(main())
