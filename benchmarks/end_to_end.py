"""
A whole workload: queries that arrive in batches, most of which need a short direct answer and some a long thinking one.

```bash
python -m benchmarks.end_to_end --threads 1 --repeats 5
```

Answers have forced lengths: no token but the end of the answer is allowed at its length, and that token not before. A
row that has ended stays in its batch as padding until the longest row ends; that is how `generate` works, and padding
is not counted as tokens. So it matters how a hybrid's batches are made up:

- *as they come*: one `generate` per batch, which routes inside; every batch with one thinking query runs to its end.
- *split by route*: `route` a batch, then one `generate` for its direct and one for its thinking queries.
- *regrouped by route*: `route` all batches first, then fill batches with queries of one kind from the whole queue.

The vision features are computed once in all of them. The router's threshold is set to the share of thinking queries.
*Two dense models* are both loaded and told the right mode of every query for nothing, which flatters them: they would
need a router too. *Dense, always thinking* writes a long answer to every query, *always direct* a short one.
"""

from dataclasses import dataclass

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from hf_metis_home.modeling.router_metis_home import is_thinking

from .common import (
    Variant,
    each_thread_count,
    introduction,
    measure,
    parser,
    peak_memory,
    start,
    table,
    write_section,
)
from .models import Sizes, dense_model, hybrid_model, join, megabytes, queries, rows, seen, threshold_for
from .plots import write_plot


VARIANTS = {  # name: who answers and how batches are made up
    "hybrid, as they come": ("hybrid", "come"),
    "hybrid, split by route": ("hybrid", "split"),
    "hybrid, regrouped by route": ("hybrid", "regrouped"),
    "two dense models, split": ("two dense", "split"),
    "two dense models, regrouped": ("two dense", "regrouped"),
    "dense, always thinking": ("dense", "thinking"),
    "dense, always direct": ("dense", "direct"),
}
COLUMNS = ["", "s per query", "quartiles", "to always thinking", "tokens/s", "decoding steps"]
END = 1


class ForcedLengths(LogitsProcessor):
    """Ends every row at its own length and not before."""

    def __init__(self, prompt: int, lengths: torch.Tensor):
        self.prompt, self.lengths = prompt, lengths

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        end = self.lengths <= input_ids.shape[1] - self.prompt + 1
        scores = scores.clone()
        scores[:, END] = torch.where(end, torch.inf, -torch.inf)
        return scores


@dataclass
class Workload:
    """The queries, their modes as the hybrid's router gives them at `threshold`, and every way to answer them."""

    sizes: Sizes
    lengths: dict[bool, int]
    threshold: float
    modes: list[bool]
    steps: int = 0
    tokens: int = 0

    def __post_init__(self):
        count = len(self.modes)
        self.all = queries(self.sizes, count)
        self.batches = batches(self.sizes, count)

    def models(self, who: str) -> dict[bool, torch.nn.Module]:
        """The model that answers in each mode."""
        if who == "hybrid":
            return dict.fromkeys((True, False), hybrid_model(self.sizes, router_layer=1))
        if who == "dense":
            return dict.fromkeys((True, False), dense_model(self.sizes))
        return {True: dense_model(self.sizes, seed=0), False: dense_model(self.sizes, seed=1)}

    def generate(self, model, inputs: dict, modes: list[bool], **options):
        lengths = torch.tensor([self.lengths[mode] for mode in modes], device=self.sizes.device)
        prompt = inputs["input_ids"].shape[1]
        longest = max(self.lengths[mode] for mode in modes)
        answers = model.generate(
            **inputs,
            **options,
            do_sample=False,
            max_new_tokens=longest,
            logits_processor=LogitsProcessorList([ForcedLengths(prompt, lengths)]),
        )
        self.steps += answers.shape[1] - prompt
        self.tokens += int(((answers[:, prompt:] == END).int().cumsum(1) == 0).sum()) + len(modes)
        return answers

    def run(self, models: dict[bool, torch.nn.Module], who: str, how: str) -> None:
        self.steps = self.tokens = 0
        if how in ("thinking", "direct"):
            for batch in self.batches:
                self.generate(models[True], rows(self.all, batch), [how == "thinking"] * len(batch))
            return
        if how == "come":
            for batch in self.batches:
                modes = [self.modes[row] for row in batch]
                self.generate(models[True], rows(self.all, batch), modes, thinking_threshold=self.threshold)
            return
        waiting = {True: [], False: []}
        for batch in self.batches:
            inputs = rows(self.all, batch)
            modes = [self.modes[row] for row in batch]
            if who == "hybrid":
                inputs = seen(models[True], inputs)
                modes = models[True].route(**inputs, thinking_threshold=self.threshold).thinking.bool().tolist()
            for mode in (True, False):
                chosen = [row for row, given in enumerate(modes) if given == mode]
                waiting[mode] += [rows(inputs, [row]) for row in chosen]
                if how == "split":
                    self.answer(models, who, waiting, mode)
        for mode in (True, False):
            self.answer(models, who, waiting, mode)

    def answer(self, models: dict, who: str, waiting: dict[bool, list[dict]], mode: bool) -> None:
        while waiting[mode]:
            batch = join(waiting[mode][: self.sizes.batch])
            del waiting[mode][: self.sizes.batch]
            size = len(batch["input_ids"])
            self.generate(models[mode], batch, [mode] * size, **({"thinking": mode} if who == "hybrid" else {}))


def batches(sizes: Sizes, count: int) -> list[list[int]]:
    return [list(range(first, min(first + sizes.batch, count))) for first in range(0, count, sizes.batch)]


def make_workload(sizes: Sizes, count: int, share: float, lengths: dict[bool, int]) -> Workload:
    """Routed batch by batch, as the timed runs do it, so that rounding cannot give a query another mode there."""
    hybrid, inputs = hybrid_model(sizes, router_layer=1), queries(sizes, count)
    batched = [hybrid.route(**rows(inputs, batch)).thinking_probability for batch in batches(sizes, count)]
    probability = torch.cat(batched)
    threshold = threshold_for(probability, share)
    return Workload(sizes, lengths, threshold, is_thinking(probability, threshold).tolist())


def once(workload: Workload, name: str) -> None:
    who, how = VARIANTS[name]
    workload.run(workload.models(who), who, how)


def main(argv: list[str] | None = None) -> None:
    arguments = parser("benchmarks.end_to_end", __doc__.strip().splitlines()[0], repeats=5)
    arguments.add_argument("--queries", type=int, default=40)
    arguments.add_argument("--thinking_share", type=float, default=0.2, help="Share of queries that need thinking.")
    arguments.add_argument("--direct_tokens", type=int, default=8, help="Length of a direct answer.")
    arguments.add_argument("--thinking_tokens", type=int, default=128, help="Length of a thinking answer.")
    Sizes.add_flags(arguments)
    args = start(arguments, argv)
    sizes = Sizes.of(args)
    lengths = {True: args.thinking_tokens, False: args.direct_tokens}
    workload = make_workload(sizes, args.queries, args.thinking_share, lengths)
    models = {who: workload.models(who) for who in ("hybrid", "two dense", "dense")}
    runs, counts = {}, {}
    for name, (who, how) in VARIANTS.items():
        run = runs[name] = Variant(lambda who=who, how=how: workload.run(models[who], who, how), count=args.queries)
        run.run()
        counts[name] = workload.steps, workload.tokens
        expected = sum(lengths[{"thinking": True, "direct": False}.get(how, mode)] for mode in workload.modes)
        if workload.tokens != expected:
            raise ValueError(f"`{name}` wrote {workload.tokens} tokens instead of {expected}.")

    def timed() -> tuple[list[str], dict[str, float]]:
        timings = measure(runs, args.repeats, args.device, warmup=0)  # each has run once above
        reference, lines = timings["dense, always thinking"], []
        for name, timing in timings.items():
            steps, tokens = counts[name]
            cells = timing.cells(reference, unit=1, digits=4)
            lines.append([name, *cells, f"{tokens / (timing.median * args.queries):.0f}", str(steps)])
        return [table(COLUMNS, lines)], {name: timing.median / reference.median for name, timing in timings.items()}

    measured, ratios = each_thread_count(args, timed)
    about = (
        f"{args.queries} queries, {sum(workload.modes)} of them with a thinking answer of {args.thinking_tokens} "
        f"tokens, the others with a direct one of {args.direct_tokens}; hybrid with `router_layer` 1."
    )
    picture = write_plot(args, ratios, "the dense model that always thinks")
    parts = [introduction(args, sizes, argv), about, picture, *measured]
    if not args.skip_memory:
        lines = []
        for name, (who, _) in VARIANTS.items():
            peak = peak_memory(args.device, args.threads[0], once, workload, name)
            lines.append([name, f"{megabytes(*set(models[who].values())):.0f}", f"{peak:.0f}"])
        parts += ["**Memory**, building the models included.", table(["", "weights, MB", "peak, MB"], lines)]
    write_section(args, parts)


if __name__ == "__main__":
    main()
