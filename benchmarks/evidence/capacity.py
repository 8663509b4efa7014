"""
Do branches gain accuracy where the width of the feed-forward network binds?

A fraction of the miniature's width (384), random weights at the start, long joint training on rows of both modes in
contradictory conventions: digits within a thought, letters in direct answers. Two branches against one dense model of
the same width, and against one whose network is as wide as both branches together.

```bash
python -m benchmarks.evidence.capacity --width 96 --seed 0 --output runs/evidence/capacity_0.json
```
"""

import time

import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from hf_metis_home import MetisHomeConfig
from hf_metis_home.conversion.processor import prepare_processor
from hf_metis_home.demo.stages import DIRECT_MIX, THINKING_MIX, stage_rows
from hf_metis_home.miniature.model import build_miniature
from hf_metis_home.miniature.tasks import TASKS

from .common import BATCH, Results, answers, arguments, hybrid_of, questions, share, taught, train


STEPS = 2500
ARMS = {"dense": 1, "hybrid": 1, "dense, twice as wide": 2}  # times the width


def build(width: int, seed: int):
    """An untrained miniature whose text model has feed-forward networks of this width, and its processor."""
    model, processor = build_miniature(seed)
    config, generation_config = model.config, model.generation_config
    config.text_config.intermediate_size = width
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = generation_config
    prepare_processor(processor, MetisHomeConfig())
    return model, processor


def main(argv: list[str] | None = None) -> None:
    options = {"--width": {"type": int, "default": 96, "help": "Of the feed-forward networks."}}
    args = arguments("capacity", __doc__.splitlines()[1], argv, tuple(ARMS), base=False, options=options)
    results = Results(args.output)
    steps = 2 if args.smoke else STEPS
    rows = taught(stage_rows(THINKING_MIX | DIRECT_MIX, (steps * BATCH) // 2, "train", args.seed + 1))
    test = questions(TASKS, 3 if args.smoke else 150, "test", args.seed)
    for kind in args.arms:
        arm = f"width {args.width}, {kind}"
        if arm in results:
            continue
        started = time.perf_counter()
        model, processor = build(ARMS[kind] * args.width, args.seed)
        if kind == "hybrid":
            model = hybrid_of(model, processor, args.seed)
        model = train(model, processor, rows, steps, args.seed)
        record = {"seconds": round(time.perf_counter() - started)}
        for mode, forced in {"free": None, "thinking": True, "direct": False}.items():
            record[mode] = answers(model, processor, test, TASKS, forced, convention=True)
        results.add(arm, record)
        cells = {task: f"{share(record['free'], [task]):.3f}" for task in TASKS}
        print(args.seed, arm, record["seconds"], cells, flush=True)


if __name__ == "__main__":
    main()
