"""
What two branches and a router cost against the dense model of the same sizes, in answering and in training.

```bash
python -m benchmarks.branches --threads 1 2 --repeats 20
python -m benchmarks.branches --device cuda --dtype bfloat16 --repeats 50
```

*One branch*: all queries of the batch take the thinking branch. *Mixed*: every second one does.
"""

import torch
from torch.nn import functional as F
from transformers import DynamicCache

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
from .counts import bytes_read, operations, shape_7b
from .models import TOLERANCE, Sizes, dense_model, hybrid_model, megabytes, queries, seen
from .plots import write_plot


ROUTER_LAYERS = (0, 1)
ROUTER_LAYERS_7B = (0, 1, 4, 14)
TOKENS_7B = 1024
COLUMNS = ["", "`router_layer`", "ms", "quartiles", "to dense"]


def variants(models: dict, sizes: Sizes) -> dict:
    """Name, model and branch arguments: the dense model, then every hybrid with one branch and mixed."""
    mixed = torch.arange(sizes.batch, device=sizes.device) % 2 == 0
    result = {("dense", "–"): (models["dense"], {})}
    for layer in ROUTER_LAYERS:
        result["one branch", str(layer)] = models[layer], {"thinking": True}
        result["mixed", str(layer)] = models[layer], {"thinking": mixed}
    return result


@torch.no_grad()
def check(models: dict, sizes: Sizes, inputs: dict) -> None:
    """Timings of models that compute different things would not compare: one branch is the dense model."""
    expected = models["dense"](**inputs).logits
    for (name, _), (model, branch) in variants(models, sizes).items():
        rows = slice(None, None, 2) if name == "mixed" else slice(None)
        torch.testing.assert_close(model(**inputs, **branch).logits[rows], expected[rows], **TOLERANCE[sizes.dtype])


def prefill(model, inputs: dict, branch: dict) -> Variant:
    return Variant(torch.no_grad()(lambda: model(**inputs, use_cache=True, logits_to_keep=1, **branch)))


@torch.no_grad()
def decode(model, inputs: dict, branch: dict, steps: int) -> Variant:
    """`steps` tokens after the prompt, whose cache is cut back to the prompt before every run."""
    cache = DynamicCache(config=model.config)
    model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1, **branch)
    filled = cache.get_seq_length()
    token = inputs["input_ids"][:, -1:]

    def prepare():
        if cache.get_seq_length() > filled:
            cache.crop(filled - cache.get_seq_length())

    @torch.no_grad()
    def run():
        for _ in range(steps):
            model(input_ids=token, past_key_values=cache, use_cache=True, **branch)

    return Variant(run, prepare, steps)


def generate(model, inputs: dict, branch: dict) -> Variant:
    return Variant(lambda: model.generate(**inputs, max_new_tokens=1, do_sample=False, **branch))


def backward(model, inputs: dict, branch: dict) -> None:
    hybrid = {"prompt_mask": torch.ones_like(inputs["input_ids"]), **branch} if branch else {}
    outputs = model(**inputs, labels=inputs["input_ids"], **hybrid)
    loss = outputs.loss
    if branch:
        thinking = torch.as_tensor(branch["thinking"], device=loss.device).long().expand(len(inputs["input_ids"]))
        loss = loss + F.cross_entropy(outputs.branch_logits, thinking)
    loss.backward()


def training(model, inputs: dict, branch: dict) -> Variant:
    return Variant(lambda: backward(model, inputs, branch), lambda: model.zero_grad(set_to_none=True))


def against_dense(timings: dict) -> list[list[str]]:
    first = next(iter(timings.values()))
    return [[*name, *timing.cells(first)] for name, timing in timings.items()]


def bars(operation: str, timings: dict) -> dict[str, float]:
    """The ratios to dense, under the names that they have in the picture."""
    first = next(iter(timings.values()))
    named = {f"{operation}, {name}, router_layer {k}": timing for (name, k), timing in timings.items() if k != "–"}
    return {name: timing.median / first.median for name, timing in named.items()}


def routing_tables(models: dict, inputs: dict, args) -> tuple[list[str], dict[str, float]]:
    runs = {("dense", "–"): generate(models["dense"], inputs, {})}
    for layer in ROUTER_LAYERS:
        runs["branch given", str(layer)] = generate(models[layer], inputs, {"thinking": True})
        # Threshold 0 sends every query to the thinking branch, but asks the router first.
        runs["routed", str(layer)] = generate(models[layer], inputs, {"thinking_threshold": 0.0})
    routed = measure(runs, args.repeats, args.device)

    features = {layer: seen(models[layer], inputs) for layer in ROUTER_LAYERS}
    runs = {}
    for layer in ROUTER_LAYERS:
        model = models[layer]
        runs["route", layer] = Variant(lambda model=model, layer=layer: model.route(**features[layer]))
        runs["prefill", layer] = prefill(model, features[layer], {"thinking": True})
        runs["with tower", layer] = prefill(model, inputs, {"thinking": True})
    timings = measure(runs, args.repeats, args.device)
    shares = []
    for layer in ROUTER_LAYERS:
        route, alone, tower = (timings[name, layer] for name in ("route", "prefill", "with tower"))
        share = [f"{route.median / whole.median:.1%}" for whole in (alone, tower)]
        shares.append([str(layer), *route.cells(), f"{alone.median * 1e3:.2f}", *share])
    parts = [
        "**Routing inside `generate`** (one new token). Routing runs the `router_layer` shared layers and the router "
        "once more than the answer needs; the vision tower runs once either way.",
        table(COLUMNS, against_dense(routed)),
        "**`route` alone**, given the vision features, beside the prefill of one branch.",
        table(["`router_layer`", "route, ms", "quartiles", "prefill, ms", "share", "share with vision tower"], shares),
    ]
    return parts, bars("generate one token", routed)


def counted_table() -> list[str]:
    counted = []
    whole = operations(shape_7b(0), TOKENS_7B, route=False)  # one branch's prefill: the same at every depth
    for layer in ROUTER_LAYERS_7B:
        route = operations(shape_7b(layer), TOKENS_7B, route=True)
        counted.append([str(layer), f"{route / 1e12:.3f}", f"{whole / 1e12:.3f}", f"{route / whole:.2%}"])
    bounds = []
    for layer in ROUTER_LAYERS_7B:
        one, both = (bytes_read(shape_7b(layer), mixed) for mixed in (False, True))
        bounds.append([str(layer), f"{one / 1e6:.1f}", f"{both / 1e6:.1f}", f"{both / one:.2f}"])
    return [
        f"**`route` alone by operation count** at the shape of the 7B model, {TOKENS_7B} prompt tokens, without the "
        "vision tower (counted on the meta device, not timed).",
        table(["`router_layer`", "route, Tflop", "prefill, Tflop", "share"], counted),
        "**The bytes bound of decoding** there, in bf16.",
        table(["`router_layer`", "one branch, MB", "mixed, MB", "bound"], bounds),
    ]


def decode_tables(models: dict, timings: dict, sizes: Sizes) -> list[str]:
    dense = bytes_read(models["dense"], False)
    lines = []
    for (name, layer), (model, _) in variants(models, sizes).items():
        read, timing = bytes_read(model, name == "mixed"), timings[name, layer]
        measured = timing.median / timings["dense", "–"].median
        speed = read / timing.median / 1e9
        lines.append([name, layer, f"{read / 1e6:.1f}", f"{read / dense:.2f}", f"{measured:.2f}", f"{speed:.1f}"])
    columns = ["", "`router_layer`", "MB read", "bytes bound", "measured", "GB/s"]
    return [
        "**Decoding against the bytes bound.** A step reads the weights once, whatever the batch: *S* bytes of "
        "attention, norms, head and shared feed-forward networks, and *B* bytes of a branch's. The bound is the ratio "
        "of bytes, 1 for one branch and (*S* + 2*B*) / (*S* + *B*) for a mixed batch; cache and activations, the same "
        "for all, pull the ratio towards 1. Weights that stay in the processor's caches are not bound by it.",
        table(columns, lines),
    ]


def once(sizes: Sizes, layer: int | None, train: bool) -> None:
    """What peak memory is taken of: a mixed batch answered, or one step of training on it."""
    model = dense_model(sizes) if layer is None else hybrid_model(sizes, layer)
    branch = {} if layer is None else {"thinking": torch.arange(sizes.batch, device=sizes.device) % 2 == 0}
    if not train:
        model.generate(**queries(sizes), max_new_tokens=2, do_sample=False, **branch)
        return
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    backward(model, queries(sizes), branch)
    optimizer.step()


def memory_table(sizes: Sizes, models: dict, args) -> list[str]:
    lines = []
    for layer in (None, *ROUTER_LAYERS):
        model = models["dense" if layer is None else layer]
        peaks = [peak_memory(args.device, args.threads[0], once, sizes, layer, train) for train in (False, True)]
        name = ["dense", "–"] if layer is None else ["mixed", str(layer)]
        lines.append([*name, f"{megabytes(model):.0f}", *(f"{peak:.0f}" for peak in peaks)])
    columns = ["", "`router_layer`", "weights, MB", "peak, answering, MB", "peak, a training step, MB"]
    return ["**Memory**, building the model included; a training step is one of fused AdamW.", table(columns, lines)]


def timed_parts(models: dict, sizes: Sizes, inputs: dict, args) -> tuple[list[str], dict[str, float]]:
    def timed(make, *more) -> dict:
        runs = {name: make(model, inputs, branch, *more) for name, (model, branch) in variants(models, sizes).items()}
        return measure(runs, args.repeats, args.device)

    prefilled, decoded = timed(prefill), timed(decode, args.decode_tokens)
    parts = [
        "**Prefill** of a batch, the decision given; vision tower included.",
        table(COLUMNS, against_dense(prefilled)),
        "**Decoding**, per step of the batch.",
        table(COLUMNS, against_dense(decoded)),
    ]
    pictured = {**bars("prefill", prefilled), **bars("decode", decoded)}
    parts += decode_tables(models, decoded, sizes)
    routing, routed = routing_tables(models, inputs, args)
    parts, pictured = parts + routing, pictured | routed
    if not args.skip_training:
        more, trained = training_tables(models, timed(training), args)
        parts, pictured = parts + more, pictured | trained
    return parts, pictured


def training_tables(models: dict, trained: dict, args) -> tuple[list[str], dict[str, float]]:
    parts = [
        "**Forward and backward**, the router's loss included.",
        table(COLUMNS, against_dense(trained)),
        "**Optimizer step.** A branch without rows has gradients of zero, so a batch of one branch costs the same.",
    ]
    for kind in ("foreach", "fused"):
        runs = {}
        for name, model in [
            (("dense", "–"), models["dense"]),
            *((("hybrid", str(k)), models[k]) for k in ROUTER_LAYERS),
        ]:
            runs[name] = Variant(torch.optim.AdamW(model.parameters(), lr=1e-6, **{kind: True}).step)
        lines = against_dense(measure(runs, args.repeats, args.device))
        parts.append(table([f"AdamW, {kind}", *COLUMNS[1:]], lines))
    return parts, bars("forward and backward", trained)


def main(argv: list[str] | None = None) -> None:
    arguments = parser("benchmarks.branches", __doc__.strip().splitlines()[0], repeats=20)
    arguments.add_argument("--decode_tokens", type=int, default=16, help="Tokens of one decoding run.")
    arguments.add_argument("--skip_training", action="store_true", help="Needs several times the memory of answering.")
    Sizes.add_flags(arguments)
    args = start(arguments, argv)
    sizes = Sizes.of(args)
    inputs = queries(sizes)
    models = {"dense": dense_model(sizes), **{layer: hybrid_model(sizes, layer) for layer in ROUTER_LAYERS}}
    check(models, sizes, inputs)
    parts, ratios = each_thread_count(args, lambda: timed_parts(models, sizes, inputs, args))
    parts = [introduction(args, sizes, argv), write_plot(args, ratios, "the dense model"), *parts]
    parts += ["### Counted and weighed"] if len(args.threads) > 1 else []
    parts += counted_table() + ([] if args.skip_memory else memory_table(sizes, models, args))
    write_section(args, parts)


if __name__ == "__main__":
    main()
