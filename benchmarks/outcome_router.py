"""
Does a router that learns from outcomes beat one that learns from the names of the tasks?

The miniature's `located` questions are one task to whoever labels data: *what is the result?*, labelled thinking.
Whether thinking pays is in the image. A hybrid is trained on all tasks, in both modes each. Then its router is fitted
three times on the same held-out questions, everything else frozen: to task labels, to the difficulty of each row (which
nobody has outside a miniature) and to outcomes. Test questions are answered once with both branches; the rest is
arithmetic. A router is compared with the outcome router at equal mean tokens: its threshold is moved until its tokens
are those, mixing two neighbours at random where none gives them. Intervals: bootstrap over questions, paired.

```bash
metis-home demo --output_dir runs/demo
python -m benchmarks.outcome_router --bases runs/demo/base --seeds 0 --output runs/outcome_router.json
```
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from datasets import concatenate_datasets
from rich.console import Console
from rich.table import Table
from transformers import AutoProcessor, PrinterCallback, Qwen2_5_VLForConditionalGeneration

from hf_metis_home import upcycle
from hf_metis_home.data import prompt_inputs
from hf_metis_home.demo.presets import Preset
from hf_metis_home.demo.stages import DIRECT_MIX, fit, outcomes_of, stage_rows, training_arguments
from hf_metis_home.miniature.tasks import EASY_TASKS, HARD_TASKS, LOCATED_TASKS, MAX_ANSWER_TOKENS, TASKS, make_dataset
from hf_metis_home.rewards import accuracy_reward
from hf_metis_home.trainers import MetisHomeGRPOConfig, MetisHomeGRPOTrainer
from hf_metis_home.trainers.fit_router import fit_router


UNSEEN = ("squares", "words")  # a hard and an easy family, for routers that have seen neither
FAMILY_THINKS = {**dict.fromkeys(EASY_TASKS, False), **dict.fromkeys((*HARD_TASKS, *LOCATED_TASKS), True)}
BOOTSTRAPS = 2000


def train_hybrid(base, processor, seed: int, steps: int, rows: int, router_layer: int):
    """Two branches on all tasks: each family in its mode, a tenth in the other, `located` half and half."""
    # The pooling of the figures in docs/experiments.md, the default at the time.
    model = upcycle(base, processor, seed=seed, router_layer=router_layer, router_pooling="modality_mean")
    located = dict.fromkeys(LOCATED_TASKS, 10)
    thinking = {"chain": 22, "squares": 12, **located, "digits": 1, "words": 1}
    direct = {**{task: share for task, share in DIRECT_MIX.items() if task not in LOCATED_TASKS}, **located}
    direct |= {"chain": 2, "squares": 2}
    parts = [
        stage_rows(mix, rows // 2, "train", seed + 1 + mode, mode) for mode, mix in ((True, thinking), (False, direct))
    ]
    data = concatenate_datasets(parts).shuffle(seed=seed)
    with tempfile.TemporaryDirectory() as scratch:
        return fit(model, processor, data, Preset(0, steps, 32, rows, 0), steps, seed, scratch)


def probabilities(model, processor, rows) -> np.ndarray:
    found = []
    for start in range(0, len(rows), 200):
        batch = [rows[index] for index in range(start, min(start + 200, len(rows)))]
        found += model.route(**prompt_inputs(processor, batch)).thinking_probability.tolist()
    return np.array(found)


def at_tokens(probability, correct, tokens, wanted: float) -> float:
    """Accuracy of a router whose threshold is moved until its mean tokens are `wanted`, mixing two neighbours."""
    order = np.argsort(-probability, kind="stable")

    def with_thinking(values):
        """Means when none, the first, the first two, ... of the questions think."""
        change = np.cumsum((values[:, 0] - values[:, 1])[order])
        return values[:, 1].mean() + np.concatenate([[0.0], change]) / len(order)

    spent, right = with_thinking(tokens), with_thinking(correct)
    # Tokens grow with every question that thinks, but for the few whose thought is the shorter answer.
    spent = np.maximum.accumulate(spent)
    return float(np.interp(wanted, spent, right))


def compare(routers: dict, correct, tokens, names: np.ndarray, tasks: tuple, seed: int) -> dict:
    """Every router on some tasks, at the outcome router's tokens, with the paired interval of the difference."""
    chosen = np.isin(names, tasks)
    correct, tokens = correct[chosen], tokens[chosen]
    routers = {name: probability[chosen] for name, probability in routers.items()}
    rng = np.random.default_rng(seed)

    def at_once(index):
        thinks = routers["outcomes"][index] >= 0.5
        wanted = np.where(thinks, tokens[index, 0], tokens[index, 1]).mean()
        accuracy = {"outcomes": np.where(thinks, correct[index, 0], correct[index, 1]).mean()}
        for name in routers.keys() - {"outcomes"}:
            accuracy[name] = at_tokens(routers[name][index], correct[index], tokens[index], wanted)
        return accuracy, wanted

    count = int(chosen.sum())
    accuracy, wanted = at_once(np.arange(count))
    draws = [at_once(rng.integers(0, count, count))[0] for _ in range(BOOTSTRAPS)]
    result = {"n": count, "tokens": wanted}
    for name in routers:
        gain = [draw["outcomes"] - draw[name] for draw in draws]
        thinks = routers[name] >= 0.5
        result[name] = {
            "accuracy": accuracy[name],
            "gain": accuracy["outcomes"] - accuracy[name],
            "interval": [float(value) for value in np.quantile(gain, [0.025, 0.975])],
            "own_accuracy": float(np.where(thinks, correct[:, 0], correct[:, 1]).mean()),
            "own_tokens": float(np.where(thinks, tokens[:, 0], tokens[:, 1]).mean()),
            "thinking_ratio": float(thinks.mean()),
        }
    return result


def fitted_routers(model, processor, fit_rows, outcomes, rows, token_cost: float, seed: int) -> dict:
    """Probabilities of `rows` under the router as it was and as fitted on `fit_rows`. Leaves the model as it was."""
    router = model.model.language_model.router
    before = {name: tensor.clone() for name, tensor in router.state_dict().items()}
    found = {"as trained": probabilities(model, processor, rows)}
    plain = [dict(row) for row in fit_rows]
    labelled = {
        "task labels": [{**row, "thinking": FAMILY_THINKS[row["task"]]} for row in plain],
        "row labels": plain,  # difficulty: thinking where the task needs steps
    }
    for name, data in {**labelled, "outcomes": plain}.items():
        router.load_state_dict(before)
        options = {"outcomes": outcomes, "token_cost": token_cost} if name == "outcomes" else {}
        fit_router(model, processor, data, seed=seed, **options)
        found[name] = probabilities(model, processor, rows)
    router.load_state_dict(before)
    return found


def sweep(model, processor, rows, test, table, seed: int, steps: int, costs: list[float]) -> list[dict]:
    """GRPO with the router alone over a sweep of `token_cost`, and with both branches: what becomes of the ratio."""
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    results = []
    for branch, cost in [("router", cost) for cost in costs] + [("both", 0.0)]:
        model.load_state_dict(start)
        arguments = training_arguments(steps, seed, tempfile.mkdtemp()) | {
            "per_device_train_batch_size": 128, "num_generations": 8, "max_completion_length": MAX_ANSWER_TOKENS,
            "lr_scheduler_type": "constant", "lr_scheduler_kwargs": None, "warmup_steps": 0, "learning_rate": 5e-5,
            "rollout_branch": branch, "token_cost": cost, "router_learning_rate": 3e-3,
        }  # fmt: skip
        if branch == "both":
            arguments["advantage_group"] = "branch"
        trainer = MetisHomeGRPOTrainer(
            model, accuracy_reward, MetisHomeGRPOConfig(**arguments), train_dataset=rows, processing_class=processor
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        model.eval()
        if branch == "both":  # other answers: ask again
            outcomes = outcomes_of(model, processor, test)
        else:
            outcomes = table
        correct, tokens = arrays(outcomes)
        thinks = probabilities(model, processor, test) >= 0.5
        names = np.array(test["task"])
        cells = {"rollout_branch": branch, "token_cost": cost}
        for pool, tasks in {"easy": EASY_TASKS, "hard": HARD_TASKS, **{t: (t,) for t in LOCATED_TASKS}}.items():
            chosen = np.isin(names, tasks)
            cells[f"thinking {pool}"] = float(thinks[chosen].mean())
        cells["accuracy"] = float(np.where(thinks, correct[:, 0], correct[:, 1]).mean())
        cells["tokens"] = float(np.where(thinks, tokens[:, 0], tokens[:, 1]).mean())
        results.append(cells)
        model.forward = type(model).forward.__get__(model)  # without what the trainer has put in front of it
    model.load_state_dict(start)
    return results


def arrays(outcomes):
    """Correct and tokens as arrays `(questions, 2)`, thinking first."""
    pairs = [("correct_thinking", "correct_non_thinking"), ("tokens_thinking", "tokens_non_thinking")]
    return tuple(np.stack([np.array(outcomes[name], dtype=float) for name in pair], axis=1) for pair in pairs)


def run(base: Path, seed: int, args) -> dict:
    torch.set_num_threads(1)
    processor = AutoProcessor.from_pretrained(base)
    dense = Qwen2_5_VLForConditionalGeneration.from_pretrained(base)
    model = train_hybrid(dense, processor, seed, args.steps, args.rows, args.router_layer)
    fit_rows = make_dataset(dict.fromkeys(TASKS, args.fit_rows), "dev", seed + 7)
    fit_rows = fit_rows.add_column("id", [str(number) for number in range(len(fit_rows))])
    test = make_dataset(dict.fromkeys(TASKS, args.test_rows), "test", seed)
    fit_outcomes, outcomes = outcomes_of(model, processor, fit_rows), outcomes_of(model, processor, test)
    correct, tokens = arrays(outcomes)
    names = np.array(test["task"])
    result = {"seed": seed, "branches": {}}
    for task in TASKS:
        chosen = names == task
        result["branches"][task] = [*correct[chosen].mean(axis=0).tolist(), *tokens[chosen].mean(axis=0).tolist()]
    routers = fitted_routers(model, processor, fit_rows, fit_outcomes, test, args.token_cost, seed)
    result["located"] = compare(routers, correct, tokens, names, LOCATED_TASKS, seed)
    result["all"] = compare(routers, correct, tokens, names, TASKS, seed)
    seen = [index for index, task in enumerate(fit_rows["task"]) if task not in UNSEEN]
    routers = fitted_routers(
        model, processor, fit_rows.select(seen), fit_outcomes.select(seen), test, args.token_cost, seed
    )
    result["unseen"] = compare(routers, correct, tokens, names, UNSEEN, seed)
    prompts = make_dataset(dict.fromkeys(TASKS, 400), "train", seed + 9).remove_columns(["completion", "thinking"])
    result["sweep"] = sweep(model, processor, prompts, test, outcomes, seed, args.grpo_steps, args.token_costs)
    return result


HEADERS = ("router", "accuracy at equal tokens", "outcomes better by", "95 %", "own accuracy", "own tokens", "thinking")


def print_result(result: dict) -> None:
    console = Console(width=160, highlight=False)
    for part in ("located", "all", "unseen"):
        cells = result[part]
        title = f"seed {result['seed']}, {part}: {cells['n']} questions, {cells['tokens']:.1f} tokens"
        table = Table(*HEADERS, title=title)
        for name, row in cells.items():
            if isinstance(row, dict):
                low, high = row["interval"]
                compared = [f"{row['accuracy']:.3f}", f"{row['gain']:+.3f}", f"{low:+.3f} to {high:+.3f}"]
                own = [f"{row['own_accuracy']:.3f}", f"{row['own_tokens']:.1f}", f"{row['thinking_ratio']:.2f}"]
                table.add_row(name, *compared, *own)
        console.print(table)
    table = Table(*result["sweep"][0], title=f"seed {result['seed']}, GRPO")
    for row in result["sweep"]:
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
    console.print(table)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.outcome_router", description=__doc__.splitlines()[1],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)  # fmt: skip
    parser.add_argument("--bases", type=Path, nargs="+", required=True, help="Dense bases, one per seed.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--output", type=Path, required=True, help="JSON with all figures.")
    parser.add_argument("--steps", type=int, default=800, help="Of Stage-SFT.")
    parser.add_argument("--rows", type=int, default=12000, help="Of Stage-SFT.")
    parser.add_argument("--router_layer", type=int, default=1)
    parser.add_argument("--fit_rows", type=int, default=300, help="Questions per task that routers are fitted on.")
    parser.add_argument("--test_rows", type=int, default=300, help="Test questions per task.")
    parser.add_argument("--token_cost", type=float, default=0.01)
    parser.add_argument("--grpo_steps", type=int, default=40)
    parser.add_argument("--token_costs", type=float, nargs="+", default=[0.0, 0.005, 0.01, 0.02, 0.05])
    args = parser.parse_args(argv)
    if len(args.bases) != len(args.seeds):
        parser.error("--bases and --seeds must be equally many.")
    results = []
    for base, seed in zip(args.bases, args.seeds, strict=True):
        results.append(run(base, seed, args))
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        print_result(results[-1])


if __name__ == "__main__":
    main()
