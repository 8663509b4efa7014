"""
What is it worth that one mode can be trained without touching the other?

A reasoning model is shipped; it learns a new convention for direct answers from easy rows alone; its reasoning then
goes on with GRPO. Two branches, of which one trains at a time, against the dense model at three rates and with replay.

```bash
python -m benchmarks.evidence.story --base runs/demo/base --seed 0 --output runs/evidence/story_0.json
```
"""

import copy
import time

from datasets import concatenate_datasets

from hf_metis_home.demo.stages import DIRECT_MIX, THINKING_MIX, stage_rows
from hf_metis_home.miniature.tasks import EASY_TASKS, HARD_TASKS, LOCATED_TASKS, TASKS
from hf_metis_home.trainers.fit_router import fit_router

from .common import BATCH, Results, answers, arguments, hybrid_of, load_base, questions, reinforce, share, taught, train


FFN = ["gate_proj", "up_proj", "down_proj"]
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
BRANCHES = {
    "hybrid ffn": {},
    "hybrid lora with attention": {"branch_kind": "lora", "branch_projections": FFN + ATTENTION},
    "hybrid lora ffn": {"branch_kind": "lora", "branch_projections": FFN},
}
RATES = {"hybrid ffn": 1.5e-3, "hybrid lora with attention": 3e-3, "hybrid lora ffn": 3e-3}
# Learning rate and share of replay, the most telling first.
DENSE = [(5e-4, 0.0), (1.5e-3, 0.0), (5e-4, 0.02), (1.5e-4, 0.0)]
MORE_DENSE = [(5e-4, 0.01), (5e-4, 0.1), (1.5e-3, 0.02)]
RL_RATES = {"hybrid ffn": 6e-4, "hybrid lora with attention": 2e-3, "dense": 2e-4}
NEW_MIX = {"shapes": 16, "corner": 8, "digits": 12, "words": 8, "located_easy": 13}
THINKING, DIRECT = HARD_TASKS + LOCATED_TASKS, EASY_TASKS + ("located_easy",)


class Story:
    def __init__(self, args):
        self.seed, self.smoke = args.seed, args.smoke
        self.results = Results(args.output)
        self.base, self.processor = load_base(args.base)
        self.test = questions(TASKS, 3 if self.smoke else 150, "test", self.seed)
        self.dev = questions(TASKS, 3 if self.smoke else 50, "dev", self.seed)

    def steps(self, count: int) -> int:
        return 2 if self.smoke else count

    def dense(self, arm: str):
        return self.results.load(arm, copy.deepcopy(self.base))

    def hybrid(self, kind: str):
        return hybrid_of(self.dense("shipped"), self.processor, self.seed, **BRANCHES[kind])

    def finish(self, arm: str, model, started: float, convention: bool = True) -> None:
        """Answers of a trained model in both modes forced, and as it chooses; of a hybrid, its router fitted first."""
        seconds = time.perf_counter() - started
        self.results.save(arm, model)
        record = {"seconds": round(seconds)}
        asked = {"thinking": (THINKING, True), "direct": (DIRECT, False), "free": (TASKS, None)}
        for mode, (tasks, forced) in asked.items():
            record[mode] = answers(model, self.processor, self.test, tasks, forced, convention)
        record["dev"] = {
            "thinking": share(answers(model, self.processor, self.dev, HARD_TASKS, True, convention), HARD_TASKS),
            "direct": share(answers(model, self.processor, self.dev, DIRECT, False, convention), DIRECT),
        }
        self.results.add(arm, record)
        cells = {mode: f"{share(record[mode], tasks):.3f}" for mode, (tasks, _) in asked.items()}
        cells["hard"] = f"{share(record['thinking'], HARD_TASKS):.3f}"
        print(self.seed, arm, record["seconds"], record["dev"], cells, flush=True)

    def ship(self) -> None:
        if "shipped" in self.results:
            return
        started = time.perf_counter()
        steps = self.steps(500)
        rows = stage_rows(THINKING_MIX | DIRECT_MIX, steps * BATCH, "train", self.seed + 1)
        model = train(copy.deepcopy(self.base), self.processor, rows, steps, self.seed)
        self.finish("shipped", model, started, convention=False)

    def teach(self, kinds, dense) -> None:
        """The convention, from easy rows, with a share of replay for some dense arms."""
        steps = self.steps(300)
        count = steps * BATCH
        rows = taught(stage_rows(NEW_MIX, count, "train", self.seed + 2, thinking=False))
        replay = stage_rows(THINKING_MIX, count // 10, "train", self.seed + 1)
        for kind in kinds:
            if kind not in self.results:
                started = time.perf_counter()
                model = self.hybrid(kind)
                # Frozen parts give the router the same before and after, so it can be fitted first.
                fit_router(model, self.processor, questions(TASKS, 8 if self.smoke else 100, "train", self.seed + 3))
                model = train(model, self.processor, rows, steps, self.seed, RATES[kind], trainable="non_thinking")
                self.finish(kind, model, started)
        for rate, share_of_replay in dense:
            arm = dense_arm(rate, share_of_replay)
            if arm not in self.results:
                started = time.perf_counter()
                again = replay.select(range(min(len(replay), round(share_of_replay * count))))
                parts = [rows.select(range(len(rows) - len(again))), again] if len(again) else [rows]
                model = train(
                    self.dense("shipped"), self.processor, concatenate_datasets(parts), steps, self.seed, rate
                )
                self.finish(arm, model, started)

    def best_dense(self) -> str:
        without = [dense_arm(rate, replay) for rate, replay in DENSE if not replay]
        return max(without, key=lambda arm: sum(self.results.arms[arm]["dev"].values()))

    def reason_on(self, starts) -> None:
        """GRPO on hard tasks."""
        rows = stage_rows(THINKING_MIX, 3000 if not self.smoke else 16, "train", self.seed + 4)
        for start in starts:
            arm = f"{start}, rl"
            if arm in self.results:
                continue
            started = time.perf_counter()
            if start in BRANCHES:
                model = self.results.load(start, self.hybrid(start))
                options = {"rollout_branch": "thinking", "rate": RL_RATES[start]}
            else:
                model, options = self.dense(start), {"rate": RL_RATES["dense"]}
            prompts = 2 if self.smoke else 16
            model = reinforce(model, self.processor, rows, self.steps(80), self.seed, prompts=prompts, **options)
            self.finish(arm, model, started)


def dense_arm(rate: float, replay: float) -> str:
    return f"dense {rate:g}" + (f", replay {replay:.0%}" if replay else "")


def main(argv: list[str] | None = None) -> None:
    args = arguments("story", __doc__.splitlines()[1], argv, ("main", "more"))
    story = Story(args)
    story.ship()
    if "main" in args.arms:
        story.teach(["hybrid ffn"], DENSE)
        story.reason_on(["hybrid ffn", dense_arm(5e-4, 0.02), story.best_dense()])
    if "more" in args.arms:
        story.teach(["hybrid lora with attention", "hybrid lora ffn"], MORE_DENSE)
        story.reason_on(["hybrid lora with attention"])


if __name__ == "__main__":
    main()
