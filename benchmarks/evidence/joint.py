"""
Two branches against one dense model on the same rows, and routers trained with them.

Stage-SFT on rows of both modes, without two families (`squares`, `words`), which routers are later asked about. Hybrids
with the router's loss in the shared parts, and detached from them, what it reads normalised or *raw*; the dense model
chooses its mode itself.

```bash
python -m benchmarks.evidence.joint --base runs/demo/base --seed 0 --output runs/evidence/joint_0.json
```
"""

import copy
import time

import torch
from datasets import concatenate_datasets

from hf_metis_home.demo.stages import stage_rows
from hf_metis_home.miniature.tasks import TASKS

from .common import BATCH, Results, answers, arguments, hybrid_of, load_base, prompts, questions, share, train


UNSEEN = ("squares", "words")
SEEN = tuple(task for task in TASKS if task not in UNSEEN)
THINKING = {"chain": 26, "located_hard": 18, "located_easy": 2}
DIRECT = {"shapes": 18, "corner": 6, "digits": 10, "located_easy": 14, "chain": 2, "located_hard": 2}
STEPS = 800
ARMS = {  # options of the router; None for a dense model
    "hybrid, depth 1": {"router_layer": 1},
    "dense": None,
    "hybrid, depth 1, detached": {"router_layer": 1},
    "hybrid, depth 0": {"router_layer": 0},
    "hybrid, depth 2": {"router_layer": 2},
    "hybrid, depth 1, mean": {"router_layer": 1, "router_pooling": "mean"},
    "hybrid, depth 1, attention": {"router_layer": 1, "router_pooling": "attention"},
    "hybrid, depth 1, raw": {"router_layer": 1},
    "hybrid, depth 1, attention, raw": {"router_layer": 1, "router_pooling": "attention"},
}


def joint_rows(count: int, seed: int):
    """Rows of both modes, half each."""
    modes = ((True, THINKING), (False, DIRECT))
    parts = [stage_rows(mix, count // 2, "train", seed + 1 + mode, mode) for mode, mix in modes]
    return concatenate_datasets(parts).shuffle(seed=seed)


def detach_router(model) -> None:
    """No gradient from the router into what it reads."""
    router = model.model.language_model.router
    normalise = router.normalise
    router.normalise = lambda features: normalise(features.detach())


@torch.no_grad()
def own_probability(model, processor, rows: list[dict], tasks) -> dict[str, list[float]]:
    """What a dense model gives to going on with a thought after `<think>`, against closing it at once."""
    closing = processor.tokenizer.convert_tokens_to_ids("</think>")
    found = {}
    for task in tasks:
        inputs = prompts(processor, [row for row in rows if row["task"] == task], True)
        logits = model(**inputs, logits_to_keep=1).logits[:, -1]
        found[task] = [round(1 - value, 6) for value in logits.softmax(dim=-1)[:, closing].tolist()]
    return found


def main(argv: list[str] | None = None) -> None:
    args = arguments("joint", __doc__.splitlines()[1], argv, tuple(ARMS))
    results = Results(args.output)
    base, processor = load_base(args.base)
    steps = 2 if args.smoke else STEPS
    rows = joint_rows(steps * BATCH, args.seed)
    test = questions(TASKS, 3 if args.smoke else 150, "test", args.seed)
    for arm in args.arms:
        if arm in results:
            continue
        options = ARMS[arm]
        started = time.perf_counter()
        model = copy.deepcopy(base)
        if options is not None:
            model = hybrid_of(model, processor, args.seed, **options)
            if "detached" in arm:
                detach_router(model)
            if "raw" in arm:
                model.model.language_model.router.normalise = lambda features: features
        model = train(model, processor, rows, steps, args.seed)
        record = {"seconds": round(time.perf_counter() - started)}
        results.save(arm, model)
        for mode, forced in {"free": None, "thinking": True, "direct": False}.items():
            record[mode] = answers(model, processor, test, TASKS, forced)
        if options is None:
            for task, values in own_probability(model, processor, test, TASKS).items():
                record["free"][task]["probability"] = values
        results.add(arm, record)
        cells = {task: f"{share(record['free'], [task]):.3f}" for task in TASKS}
        print(args.seed, arm, record["seconds"], cells, flush=True)


if __name__ == "__main__":
    main()
