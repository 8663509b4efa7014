"""
Other ways to have two behaviours in one batch, at the same sizes, all through `generate`.

```bash
python -m benchmarks.rivals --threads 1 --repeats 20
```

- *hybrid, low rank*: branches of the other kind, low-rank changes of one network, the branch given.
- *both, then `where`*: the hybrid's weights, but every row goes through both branches and a mask selects. It is what
  runs under `torch.compile`, and what a server does that cannot gather rows.
- *LoRA*: the dense model with two PEFT adapters on its feed-forward networks; a mixed batch names one per row. Other
  weights, so other answers: what it computes is checked against its own adapters one at a time. For queries of one kind
  an adapter could also be merged; that is the dense model.
- *two passes*: one full pass over the prompt decides, as in X-LoRA, then the answer starts afresh. Its best case: the
  hybrid's own weights, the vision features computed once, and one decision per query instead of one per token.

The hybrid's router decides at the threshold that splits the batch in halves; the others get the same split.
"""

import time
from dataclasses import dataclass
from functools import partial

import peft
import torch
from peft import LoraConfig, get_peft_model
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
    synchronise,
    table,
    write_section,
)
from .models import TOLERANCE, Sizes, dense_model, hybrid_model, megabytes, queries, seen, threshold_for
from .plots import write_plot


NAMES = (
    "dense", "hybrid, branch given", "hybrid, routed", "hybrid, low rank", "both, then where", "LoRA", "two passes"
)  # fmt: skip
COLUMNS = ["", "prefill, ms", "quartiles", "to dense", "step, ms", "quartiles", "to dense"]
ADAPTERS = ("non_thinking", "thinking")


def lora(sizes: Sizes, rank: int):
    """Adapters that do something: PEFT's own start is zero, whose product some kernels could shorten."""
    targets = r".*language_model\.layers\.\d+\.mlp\.(gate|up|down)_proj"
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, init_lora_weights=False)
    model = get_peft_model(dense_model(sizes), config, adapter_name=ADAPTERS[0])
    model.add_adapter(ADAPTERS[1], config)
    return model.eval().to(sizes.device, getattr(torch, sizes.dtype))


def without_choice(model):
    """Let every two-branch layer compute both branches on all rows, by the path that a traced graph takes."""

    def mask(routing, hidden_states):
        rows = torch.as_tensor(routing.thinking, device=hidden_states.device)
        return rows.bool().expand(hidden_states.shape[0])

    model.model.language_model._branch = mask
    return model


@torch.no_grad()
def two_passes(model, head: torch.nn.Linear, inputs: dict, thinking, **generation):
    features = seen(model, inputs)
    hidden = model.model(**features, thinking=True, use_cache=False).last_hidden_state
    head(hidden.mean(dim=1).float()).argmax(dim=-1).tolist()  # decided; the batch's split stands in for it
    return model.generate(**features, thinking=thinking, **generation)


@dataclass(frozen=True)
class Split:
    """Which queries of a batch think, and the threshold at which the router says so."""

    thinking: tuple[bool, ...]
    threshold: float

    @property
    def mixed(self) -> bool:
        return len(set(self.thinking)) == 2

    def given(self, device: str) -> bool | torch.Tensor:
        return torch.tensor(self.thinking, device=device) if self.mixed else self.thinking[0]

    def adapters(self) -> list[str]:
        return [ADAPTERS[flag] for flag in self.thinking]


def splits(sizes: Sizes) -> list[Split]:
    """All queries thinking, and the router's own halves of the batch."""
    probability = hybrid_model(sizes, router_layer=1).route(**queries(sizes)).thinking_probability
    threshold = threshold_for(probability)
    return [Split((True,) * sizes.batch, 0.0), Split(tuple(is_thinking(probability, threshold).tolist()), threshold)]


def answers(name: str, sizes: Sizes, rank: int, split: Split):
    """A function from the number of new tokens (and a clock) to the answers of one batch, and the model behind it."""
    inputs, thinking = queries(sizes), split.given(sizes.device)
    if name == "dense":
        model, options = dense_model(sizes), {}
    elif name == "LoRA":
        model = lora(sizes, rank)
        model.set_adapter("thinking")
        options = {"adapter_names": split.adapters()} if split.mixed else {}
    else:
        kind = {"branch_kind": "lora", "branch_rank": rank} if name == "hybrid, low rank" else {}
        model, options = hybrid_model(sizes, router_layer=1, **kind), {"thinking": thinking}
        if name == "hybrid, routed":
            options = {"thinking_threshold": split.threshold}
        if name == "both, then where":
            without_choice(model)
        if name == "two passes":
            head = torch.nn.Linear(sizes.hidden, 2).to(sizes.device)
            return lambda *new: two_passes(model, head, inputs, thinking, **length(*new)), model
    return lambda *new: model.generate(**inputs, **options, **length(*new)), model


def length(tokens: int, *processors: LogitsProcessor) -> dict:
    return {
        "max_new_tokens": tokens,
        "min_new_tokens": tokens,
        "do_sample": False,
        "logits_processor": LogitsProcessorList(processors),
    }


class Clock(LogitsProcessor):
    """Notes when the scores of each token were there."""

    def __init__(self, device: str):
        self.device, self.times = device, []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        synchronise(self.device)
        self.times.append(time.perf_counter())
        return scores


def decode(answer, tokens: int, device: str) -> float:
    """Seconds of an answer after its first token; what happens before is not for the steps to pay."""
    clock = Clock(device)
    answer(tokens, clock)
    return clock.times[-1] - clock.times[0]


@torch.no_grad()
def check(sizes: Sizes, built: dict, split: Split) -> None:
    """Equal outputs where they are defined: same weights on the same split; LoRA's rows against one adapter each."""
    inputs, thinking, close = queries(sizes), split.given(sizes.device), TOLERANCE[sizes.dtype]
    hybrid_answers, hybrid = built["hybrid, branch given"]
    expected = hybrid(**inputs, thinking=thinking).logits
    torch.testing.assert_close(built["both, then where"][1](**inputs, thinking=thinking).logits, expected, **close)
    for name in ("hybrid, routed", "both, then where", "two passes"):
        if sizes.dtype == "float32" and not torch.equal(built[name][0](4), hybrid_answers(4)):
            raise ValueError(f"`{name}` and the hybrid answer differently, so their timings do not compare.")
    if not split.mixed:
        torch.testing.assert_close(built["dense"][1](**inputs).logits, expected, **close)
        return
    model = built["LoRA"][1]
    found = model(**inputs, adapter_names=split.adapters()).logits
    for flag, adapter in enumerate(ADAPTERS):
        model.set_adapter(adapter)
        rows = thinking == bool(flag)
        torch.testing.assert_close(found[rows], model(**inputs).logits[rows], **close)


def once(name: str, sizes: Sizes, rank: int, split: Split) -> None:
    answers(name, sizes, rank, split)[0](2)


def timed_parts(split: Split, built: dict, args) -> tuple[list[str], dict[str, float]]:
    runs = {}
    for name in NAMES:
        answer = built[name][0]
        decoding = partial(decode, answer, args.answer_tokens, args.device)
        runs[name, "prefill"] = Variant(partial(answer, 1))
        runs[name, "step"] = Variant(decoding, count=args.answer_tokens - 1, own_clock=True)
    timings = measure(runs, args.repeats, args.device)
    lines = [
        [name, *(cell for part in ("prefill", "step") for cell in timings[name, part].cells(timings["dense", part]))]
        for name in NAMES
    ]
    title = "**Half the queries thinking, half not.**" if split.mixed else "**All queries of one kind.**"
    note = " *dense* has one behaviour and stands here for comparison." if split.mixed else ""
    parts = [
        f"{title} Prefill: `generate` of one token, deciding included; step: each later one of "
        f"{args.answer_tokens}.{note}",
        table(COLUMNS, lines),
    ]
    kind = "half and half" if split.mixed else "one kind"
    named = {f"{part}, {kind}: {name}": (name, part) for part in ("prefill", "step") for name in NAMES[1:]}
    return parts, {
        label: timings[name, part].median / timings["dense", part].median for label, (name, part) in named.items()
    }


def main(argv: list[str] | None = None) -> None:
    arguments = parser("benchmarks.rivals", __doc__.strip().splitlines()[0], repeats=20)
    arguments.add_argument("--answer_tokens", type=int, default=32, help="Tokens of an answer, two at least.")
    arguments.add_argument("--rank", type=int, default=16, help="Rank of the LoRA adapters.")
    Sizes.add_flags(arguments)
    args = start(arguments, argv)
    if args.answer_tokens < 2:
        arguments.error("--answer_tokens must be at least 2, so that there is a step after the prefill.")
    sizes = Sizes.of(args)
    built = {split: {name: answers(name, sizes, args.rank, split) for name in NAMES} for split in splits(sizes)}
    for split, models in built.items():
        check(sizes, models, split)

    def timed() -> tuple[list[str], dict[str, float]]:
        measured = [timed_parts(split, models, args) for split, models in built.items()]
        return [part for parts, _ in measured for part in parts], {
            k: v for _, bars in measured for k, v in bars.items()
        }

    parts, ratios = each_thread_count(args, timed)
    if not args.skip_memory:
        lines = []
        for name, (_, model) in built[split].items():
            peak = peak_memory(args.device, args.threads[0], once, name, sizes, args.rank, split)
            lines.append([name, f"{megabytes(model):.0f}", f"{peak:.0f}"])
        parts += [
            "**Memory** for the mixed batch, building the model included.",
            table(["", "weights, MB", "peak, MB"], lines),
        ]
    about = (
        f"LoRA of rank {args.rank} (PEFT {peft.__version__}); hybrids with `router_layer` 1. All but *LoRA*, "
        "*hybrid, low rank* and *dense* gave equal answers, and so did *dense* to queries of one kind."
    )
    picture = write_plot(args, ratios, "the dense model")
    write_section(args, [introduction(args, sizes, argv), about, picture, *parts])


if __name__ == "__main__":
    main()
