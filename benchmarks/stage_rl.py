"""
What does Stage-RL add to a middling start, and what does it cost elsewhere?

The miniature's base gets the cold start of `metis-home demo --stages all`, then GRPO on the hard tasks for longer than
the demo has time for. Every hundred steps questions of the dev split are answered; the checkpoint is kept that has most
of the hard ones right among those that have lost at most four points on the easy ones. The same test questions are
answered before, by what was kept, and after the last step, as the model chooses and with the mode given: the opening of
a thought where a task needs steps, that of a direct answer elsewhere.

```bash
metis-home demo --output_dir runs/demo
python -m benchmarks.stage_rl --base runs/demo/base --seed 0 --steps 500 --output runs/stage_rl.json
```
"""

import argparse
import dataclasses
import json
import math
import tempfile
from pathlib import Path

import torch
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration, TrainerCallback

from hf_metis_home.conversion import prepare_processor
from hf_metis_home.demo.presets import METHOD_SIZES, PRESETS
from hf_metis_home.demo.stages import POOLS, cold_start, stage_rl
from hf_metis_home.miniature.tasks import TASKS, THINKING_TASKS, make_dataset
from hf_metis_home.modeling import MetisHomeConfig

from .evidence.common import answers


LOOK, DEV_ROWS, MOST_LOST = 100, 100, 0.04  # steps between looks, dev questions per task, of their share of easy ones


def right(model, processor, rows: list[dict]) -> dict[str, dict[str, list[bool]]]:
    """Per task and pool whether each answer is right, as the model chooses and with the mode given."""
    direct = [task for task in TASKS if task not in THINKING_TASKS]
    cells = {
        "own choice": answers(model, processor, rows, TASKS),
        "mode given": answers(model, processor, rows, THINKING_TASKS, True)
        | answers(model, processor, rows, direct, False),
    }
    found = {how: {task: [d == "1" for d in cells[how][task]["correct"]] for task in TASKS} for how in cells}
    for tasks in found.values():
        tasks |= {pool: [value for task in names for value in tasks[task]] for pool, names in POOLS.items()}
    return found


class KeepBest(TrainerCallback):
    """Weights of the best look at the dev split, with the mode given."""

    def __init__(self, model, processor, seed: int):
        self.processor, self.rows = processor, list(make_dataset(dict.fromkeys(TASKS, DEV_ROWS), "dev", seed))
        self.looks, self.best = [], None
        self.look(model, step=0)

    def look(self, model, step: int) -> None:
        found = right(model, self.processor, self.rows)["mode given"]
        shares = {pool: sum(found[pool]) / len(found[pool]) for pool in ("hard", "easy")}
        self.looks.append({"step": step, **shares})
        print(self.looks[-1], flush=True)
        allowed = [look for look in self.looks if look["easy"] >= self.looks[0]["easy"] - MOST_LOST]
        if max(allowed, key=lambda look: look["hard"]) is self.looks[-1]:
            self.best = {name: value.clone() for name, value in model.state_dict().items()}

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step % LOOK == 0:
            self.look(model.eval(), state.global_step)
            model.train()


def compare(before: list[bool], after: list[bool]) -> dict:
    """Shares right, and the standard error of their difference on the same questions."""
    change = [int(b) - int(a) for a, b in zip(before, after, strict=True)]
    mean, n = sum(change) / len(change), len(change)
    variance = sum((value - mean) ** 2 for value in change) / (n - 1)
    return {"n": n, "before": sum(before) / n, "after": sum(after) / n, "stderr": math.sqrt(variance / n)}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.stage_rl",
        description=__doc__.splitlines()[1],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--base", type=Path, required=True, help="Dense base of a demo.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=500, help="Of Stage-RL.")
    parser.add_argument("--test_rows", type=int, default=300, help="Test questions per task.")
    parser.add_argument("--output", type=Path, required=True, help="JSON with all figures.")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    processor = AutoProcessor.from_pretrained(args.base)
    prepare_processor(processor, MetisHomeConfig())  # it knows the openings; without one it renders as before
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(args.base)
    sizes = dataclasses.replace(METHOD_SIZES["small"], rl_steps=args.steps)
    rows = list(make_dataset(dict.fromkeys(TASKS, args.test_rows), "test", args.seed))
    with tempfile.TemporaryDirectory() as scratch:
        model = cold_start(model, processor, PRESETS["small"], sizes, args.seed, scratch)
        before = right(model, processor, rows)
        keep = KeepBest(model, processor, args.seed)
        model = stage_rl(model, processor, sizes, args.seed, scratch, [keep])
    after = {"last step": right(model, processor, rows)}
    model.load_state_dict(keep.best)
    after = {"kept": right(model, processor, rows)} | after
    found = {
        f"{which}, {how}": {task: compare(before[how][task], cells[how][task]) for task in before[how]}
        for which, cells in after.items()
        for how in before
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps({"looks": keep.looks, **found}, indent=2) + "\n", encoding="utf-8")
    for how, tasks in found.items():
        print(how)
        for task, cell in tasks.items():
            gain = cell["after"] - cell["before"]
            change = f"({gain:+.3f} ± {cell['stderr']:.3f}, n={cell['n']})"
            print(f"  {task:<14}{cell['before']:.3f} -> {cell['after']:.3f}  {change}")


if __name__ == "__main__":
    main()
