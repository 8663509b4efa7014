"""
What is a router worth that was set from a few examples, without training?

The miniature's trained base is upcycled, `initialise_router` sees a few rows of the train split per mode, and the
router is judged on the dev split: how often it picks the right branch where the words tell the mode (`ordinary`), on
task families that gave no example (`unseen`), and where only a detail of the image tells it (`located`). Chance is
50 %.
Means and standard deviations over several draws of the examples.

```bash
metis-home demo --output_dir runs/demo
python -m benchmarks.router_start --base runs/demo/base --output runs/router_start.json
```
"""

import argparse
import json
import statistics
from pathlib import Path

from rich.console import Console
from rich.table import Table


LAYERS, POOLINGS, COUNTS = (0, 1, 2), ("mean", "modality_mean"), (2, 8, 32)
METRICS = ("ordinary", "unseen", "located")
ROWS = 400  # of the dev split, half of either mode
HELD_OUT = ("squares", "words")  # one task of each mode, for `unseen`


def examples(tasks: dict[bool, list[str]], count: int, split: str, seed: int):
    """`count` rows per mode, spread over its tasks."""
    from hf_metis_home.miniature.tasks import make_dataset

    counts = {}
    for names in tasks.values():
        for number, name in enumerate(names):
            counts[name] = count // len(names) + (number < count % len(names))
    return list(make_dataset({name: number for name, number in counts.items() if number}, split, seed))


def routed_right(model, processor, rows) -> float:
    from hf_metis_home.data import prompt_inputs

    right = 0
    for start in range(0, len(rows), 100):
        batch = rows[start : start + 100]
        thinking = model.route(**prompt_inputs(processor, batch)).thinking.bool().tolist()
        right += sum(decided == row["thinking"] for decided, row in zip(thinking, batch, strict=True))
    return right / len(rows)


def measure(base: Path, layer: int, pooling: str, draws: int) -> list[dict]:
    """All numbers of examples for one router."""
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    from hf_metis_home import initialise_router, upcycle
    from hf_metis_home.demo.stages import DIRECT_MIX, THINKING_MIX
    from hf_metis_home.miniature.tasks import LOCATED_TASKS

    processor = AutoProcessor.from_pretrained(base)
    dense = Qwen2_5_VLForConditionalGeneration.from_pretrained(base)
    model = upcycle(dense, processor, router_layer=layer, router_pooling=pooling).eval()
    mixes = {True: THINKING_MIX, False: DIRECT_MIX}
    ordinary = {mode: [task for task in mix if task not in LOCATED_TASKS] for mode, mix in mixes.items()}
    seen = {mode: [task for task in tasks if task not in HELD_OUT] for mode, tasks in ordinary.items()}
    unseen = {mode: [task for task in tasks if task in HELD_OUT] for mode, tasks in ordinary.items()}
    located = {mode: [task for task in mix if task in LOCATED_TASKS] for mode, mix in mixes.items()}
    trained_on = {"ordinary": ordinary, "unseen": seen, "located": located}
    judged_on = {"ordinary": ordinary, "unseen": unseen, "located": located}
    judges = {metric: examples(tasks, ROWS // 2, "dev", seed=0) for metric, tasks in judged_on.items()}
    results = []
    for count in COUNTS:
        scores = {metric: [] for metric in METRICS}
        for draw in range(draws):
            for metric in METRICS:
                initialise_router(model, processor, examples(trained_on[metric], count, "train", seed=draw))
                scores[metric].append(routed_right(model, processor, judges[metric]))
        summary = {m: {"mean": statistics.fmean(s), "std": statistics.stdev(s)} for m, s in scores.items()}
        results.append({"router_layer": layer, "router_pooling": pooling, "examples_per_mode": count, **summary})
    return results


def main() -> None:
    import torch
    import transformers

    parser = argparse.ArgumentParser(description="Measure routers that were set from a few examples.")
    parser.add_argument("--base", type=Path, required=True, help="Dense base of a demo (its `base/` folder).")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write.")
    parser.add_argument("--draws", type=int, default=5, help="Draws of the examples, two at least.")
    args = parser.parse_args()
    if args.output.exists():
        parser.error(f"--output is {args.output}, which exists. Choose another file, or remove it.")
    if args.draws < 2:
        parser.error(f"--draws is {args.draws}, but a standard deviation needs 2 at least.")
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    results = []
    for layer in LAYERS:
        for pooling in POOLINGS:
            results += measure(args.base, layer, pooling, args.draws)
            print(f"{len(results)} of {len(LAYERS) * len(POOLINGS) * len(COUNTS)}", flush=True)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    keys = ("router_layer", "router_pooling", "examples_per_mode")
    table = Table(*keys, *METRICS, title=f"Routed right, %, mean and standard deviation of {args.draws} draws")
    for result in results:
        cells = (f"{100 * result[metric]['mean']:.1f} ± {100 * result[metric]['std']:.1f}" for metric in METRICS)
        table.add_row(*(str(result[key]) for key in keys), *cells)
    Console().print(table)
    print(f"Wrote {args.output}.")


if __name__ == "__main__":
    main()
