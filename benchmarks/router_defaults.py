"""
Where should the router read, and how should it pool? The measurement behind the defaults of `MetisHomeConfigMixin`.

Every variant is upcycled from one trained base and trained end to end by the demo's Stage-SFT, the router's loss
flowing into the shared parts, on the demo's rows and on conversations of two turns. It is then judged on the dev split:
how often the router picks the right branch where the words tell the mode (`ordinary`), where only a detail of the image
does (`located`), and where an earlier turn had another mode (`two_turns`); and how often the routed hybrid answers the
hard tasks. Chance is 50 % for routing.

```bash
metis-home demo --output_dir runs/demo
python -m benchmarks.router_defaults --base runs/demo/base --output runs/router_defaults.json
```
"""

import argparse
import json
import multiprocessing
import random
import tempfile
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from rich.console import Console
from rich.table import Table


# router_layer, router_pooling, what the router may read, whether its input is normalised
VARIANTS = [
    *((layer, pooling, "prompt", True) for layer in (0, 1) for pooling in ("mean", "modality_mean", "attention")),
    (2, "modality_mean", "prompt", True),
    *((layer, "modality_mean", "prompt", False) for layer in (0, 1)),
    *((layer, pooling, "last_turn", True) for layer in (0, 1) for pooling in ("modality_mean", "attention")),
]
METRICS = ("ordinary", "located", "two_turns", "hard_accuracy")


def conversation(row: dict, earlier: dict | None) -> dict:
    """`row`, after an earlier question and its answer where there is one; each image beside its own question."""

    def query(of: dict) -> dict:
        parts = [{"type": "image", "text": None}] * len(of["images"])
        return {"role": "user", "content": [*parts, {"type": "text", "text": of["prompt"][0]["content"]}]}

    def answer(of: dict) -> dict:
        return {"role": "assistant", "content": [{"type": "text", "text": of["completion"][0]["content"]}]}

    before, images = ([], []) if earlier is None else ([query(earlier), answer(earlier)], earlier["images"])
    return {
        **row, "prompt": [*before, query(row)], "images": [*images, *row["images"]], "completion": [answer(row)]
    }  # fmt: skip


def conversations(mix: dict[str, int], count: int, split: str, seed: int, share: float):
    """Rows of a mix, a share of which are the second turn of a conversation."""
    from datasets import Dataset, Image, List

    from hf_metis_home.demo.stages import stage_rows

    rng = random.Random(seed)
    rows = list(stage_rows(mix, count, split, seed).cast_column("images", List(Image(decode=False))))
    rows = [conversation(row, rng.choice(rows) if rng.random() < share else None) for row in rows]
    return Dataset.from_list(rows).cast_column("images", List(Image()))


def restrict(model, processor, reads: str, normalised: bool) -> None:
    """Make the model's router read the last user turn alone, or its input as it is."""
    import torch

    if reads == "last_turn":
        header = processor.tokenizer("<|im_start|>user\n")["input_ids"]
        whole_prompt = model.model._router_mask

        def last_turn(input_ids, *args):
            mask = whole_prompt(input_ids, *args)
            ids = input_ids.masked_fill(~mask, -1)
            starts = (ids.unfold(1, len(header), 1) == torch.tensor(header)).all(-1)
            positions = torch.arange(ids.shape[1])
            start = torch.where(starts, positions[: starts.shape[1]], -1).amax(dim=1)
            return mask & (positions >= start[:, None])

        model.model._router_mask = last_turn
    if not normalised:
        model.model.language_model.router.normalise = lambda hidden_states: hidden_states


def measure(variant: tuple, base: Path, seed: int, steps: int) -> dict:
    """Train one variant and judge it on the dev split."""
    import datasets
    import torch
    import transformers
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    from hf_metis_home import upcycle
    from hf_metis_home.data import prompt_inputs
    from hf_metis_home.demo import stages
    from hf_metis_home.demo.presets import PRESETS
    from hf_metis_home.evaluation.metrics import summarise
    from hf_metis_home.evaluation.outcomes import collect_outcomes
    from hf_metis_home.miniature.tasks import HARD_TASKS, LOCATED_TASKS, MAX_ANSWER_TOKENS, make_dataset

    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    layer, pooling, reads, normalised = variant
    mix = stages.THINKING_MIX | stages.DIRECT_MIX
    sizes = PRESETS["small"]

    processor = AutoProcessor.from_pretrained(base)
    dense = Qwen2_5_VLForConditionalGeneration.from_pretrained(base)
    model = upcycle(dense, processor, seed=seed, router_layer=layer, router_pooling=pooling)
    restrict(model, processor, reads, normalised)
    rows = conversations(mix, steps * sizes.batch_size, "train", seed + 1, share=0.25)
    with tempfile.TemporaryDirectory() as scratch:
        stages.fit(model, processor, rows, sizes, steps, seed, scratch)

    def routed_right(rows) -> float:
        right = 0
        for start in range(0, len(rows), 100):
            batch = [rows[index] for index in range(start, min(start + 100, len(rows)))]
            thinking = model.route(**prompt_inputs(processor, batch)).thinking.bool().tolist()
            right += sum(decided == row["thinking"] for decided, row in zip(thinking, batch, strict=True))
        return right / len(rows)

    ordinary = {task: share for task, share in mix.items() if task not in LOCATED_TASKS}
    located = dict.fromkeys(LOCATED_TASKS, 1)
    hard = make_dataset(dict.fromkeys(HARD_TASKS, 150), "dev", seed)
    outcomes = collect_outcomes(
        model, processor, hard, max_new_tokens=MAX_ANSWER_TOKENS, batch_size=150, routed_only=True
    )
    return {
        "router_layer": layer, "router_pooling": pooling, "reads": reads, "normalised": normalised, "seed": seed,
        "ordinary": routed_right(conversations(ordinary, 600, "dev", seed, share=0.0)),
        "located": routed_right(conversations(located, 600, "dev", seed, share=0.0)),
        "two_turns": routed_right(conversations(mix, 600, "dev", seed, share=1.0)),
        "hard_accuracy": summarise(outcomes, pools={"hard": HARD_TASKS})["hard"]["accuracy"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure where the router should read and how it should pool.")
    parser.add_argument("--base", type=Path, required=True, help="Dense base of a demo (its `base/` folder).")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=450, help="Optimizer steps of Stage-SFT.")
    args = parser.parse_args()
    if args.output.exists():
        parser.error(f"--output is {args.output}, which exists. Choose another file, or remove it.")
    results = []
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(measure, variant, args.base, args.seed, args.steps) for variant in VARIANTS]
        for number, future in enumerate(as_completed(futures), start=1):
            results.append(future.result())
            print(f"{number} of {len(VARIANTS)}: {results[-1]}", flush=True)
    order = {variant: number for number, variant in enumerate(VARIANTS)}
    keys = ("router_layer", "router_pooling", "reads", "normalised")
    results.sort(key=lambda result: order[tuple(result[key] for key in keys)])
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    table = Table(
        *keys, *METRICS, title=f"Dev split, seed {args.seed}, {args.steps} steps; standard errors up to 2 points"
    )
    for result in results:
        table.add_row(*(str(result[key]) for key in keys), *(f"{100 * result[metric]:.1f}" for metric in METRICS))
    Console().print(table)
    print(f"Wrote {args.output}.")


if __name__ == "__main__":
    main()
