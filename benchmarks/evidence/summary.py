"""
Tables and the stated rules, from the results of all seeds.

```bash
python -m benchmarks.evidence.summary --folder benchmarks/evidence/results
```
"""

import argparse
import json
from pathlib import Path

import numpy as np

from hf_metis_home.miniature.tasks import EASY_TASKS, HARD_TASKS, LOCATED_TASKS, TASKS, THINKING_TASKS

from .joint import ARMS, SEEN, UNSEEN
from .paired import at_equal_tokens, both_modes, difference, numbers, of_draws, right
from .story import DENSE, DIRECT, THINKING, dense_arm


LETTERED = ("corner", "digits", "located_easy")
REPLAY = dense_arm(5e-4, 0.02)
RAW = ", raw"


def load(folder: Path, command: str) -> dict[int, dict]:
    """Results of a command by seed."""
    seeds = {int(path.stem.removeprefix(f"{command}_")): path for path in folder.glob(f"{command}_*.json")}
    return {seed: json.loads(seeds[seed].read_text(encoding="utf-8")) for seed in sorted(seeds)}


def having(runs: list[dict], *arms: str) -> list[dict]:
    return [run for run in runs if all(arm in run for arm in arms)]


def cell(values: list[float], form: str = ".1f") -> str:
    """The mean of the seeds, and each."""
    return f"{np.mean(values):{form}} ({', '.join(f'{value:{form}}' for value in values)})"


def row(*cells) -> str:
    return "| " + " | ".join(str(c) for c in cells) + " |"


def head(*cells) -> str:
    return row(*cells) + "\n|" + "---|" * len(cells)


def changed(run: dict, arm: str, start: str, mode: str, tasks) -> str:
    """Texts of a mode that are not as before, of all."""
    before, after = ("".join(run[name][mode][task]["texts"] for task in tasks) for name in (start, arm))
    pairs = [(before[i : i + 6], after[i : i + 6]) for i in range(0, len(before), 6)]
    return f"{sum(a != b for a, b in pairs)}/{len(pairs)}"


def story(runs: list[dict]) -> None:
    print(head("arm", "hard, forced to think", "letters", "words backwards", "shapes", "hard, own choice",
               "easy, own choice", "thinking texts changed", "direct texts changed"))  # fmt: skip
    arms = dict.fromkeys(arm for run in runs for arm in run)
    for arm in sorted(arms, key=lambda arm: (arm != "shipped", ", rl" in arm, not arm.startswith("hybrid"))):
        found = having(runs, arm)
        start = arm.removesuffix(", rl") if ", rl" in arm else "shipped"
        asked = [("thinking", HARD_TASKS), ("direct", LETTERED), ("direct", ("words",)), ("direct", ("shapes",)),
                 ("free", HARD_TASKS), ("free", DIRECT)]  # fmt: skip
        cells = [cell([100 * right(run[arm][mode], tasks).mean() for run in found]) for mode, tasks in asked]
        moved = [
            ", ".join(changed(run, arm, start, mode, tasks) for run in found) if arm != "shipped" else ""
            for mode, tasks in (("thinking", THINKING), ("direct", DIRECT))
        ]
        print(row(arm, *cells, *moved))

    def compare(ours, theirs, mode, tasks):
        """Arms by name, or per run by a function."""
        named = [[n(run) if callable(n) else n for n in (ours, theirs)] for run in runs]
        found = [(run, names) for run, names in zip(runs, named, strict=True) if all(n in run for n in names)]
        if found:
            return difference(*([right(run[names[i]][mode], tasks) for run, names in found] for i in (0, 1)))

    def best(run):
        """In favour of dense, on the test split itself, among rates that learn the convention."""
        arms = [dense_arm(rate, 0.0) for rate, replay in DENSE if not replay and dense_arm(rate, 0.0) in run]
        if "hybrid ffn" not in run or not arms:
            return None
        wanted = right(run["hybrid ffn"]["direct"], DIRECT).mean() - 0.05
        able = [arm for arm in arms if right(run[arm]["direct"], DIRECT).mean() >= wanted] or arms
        return max(able, key=lambda arm: right(run[arm]["thinking"], HARD_TASKS).mean())

    print("\nbest rate of dense, per seed:", [best(run) for run in runs])
    print("2  hybrid ffn - dense without replay, hard:", compare("hybrid ffn", best, "thinking", HARD_TASKS))
    print("   the same, easy:", compare("hybrid ffn", best, "direct", DIRECT))
    for arm in dict.fromkeys(arm for run in runs for arm in run if "replay" in arm and ", rl" not in arm):
        print(f"3  {arm} - hybrid ffn, hard:", compare(arm, "hybrid ffn", "thinking", HARD_TASKS))
        print(f"   {arm} - hybrid ffn, easy:", compare(arm, "hybrid ffn", "direct", DIRECT))
    for arm in dict.fromkeys(arm for run in runs for arm in run if ", rl" in arm):
        start = arm.removesuffix(", rl")
        print(f"4  {arm}, gain on hard:", compare(arm, start, "thinking", HARD_TASKS))
        print("   change on easy, forced:", compare(arm, start, "direct", DIRECT))
        print("   change on easy, own choice:", compare(arm, start, "free", DIRECT))
    found = having(runs, "hybrid ffn, rl", f"{REPLAY}, rl")
    if found:
        gains = [[right(run[a][m], HARD_TASKS) for run in found] for a, m in
                 [("hybrid ffn, rl", "thinking"), ("hybrid ffn", "thinking"),
                  (f"{REPLAY}, rl", "thinking"), (REPLAY, "thinking")]]  # fmt: skip
        ours, theirs = ([a - b for a, b in zip(*pair, strict=True)] for pair in (gains[:2], gains[2:]))
        print("4  gain of the branch - gain of dense with replay:", difference(ours, theirs))
    for other in ("hybrid lora ffn", "hybrid ffn"):
        for name, tasks in (("words", ("words",)), ("letters", LETTERED)):
            print(f"5  lora with attention - {other}, {name}:",
                  compare("hybrid lora with attention", other, "direct", tasks))  # fmt: skip


def routed(run: dict, arm: str, tasks) -> np.ndarray:
    """1 where the mode is that of the task."""
    cells = run[arm]["free"]
    thinks = (
        right(cells, tasks, "thought") if arm in ("dense", "shipped") else numbers(cells, tasks, "probability") >= 0.5
    )
    wanted = np.concatenate([np.full(len(cells[task]["correct"]), task in THINKING_TASKS) for task in tasks])
    return (thinks == wanted).astype(float)


def joint(runs: list[dict]) -> None:
    easy = tuple(task for task in EASY_TASKS if task in SEEN)
    pools = {"seen": SEEN, "easy": easy, "chain": ("chain",), "located": LOCATED_TASKS, **{t: (t,) for t in UNSEEN}}
    print(head("arm", *(f"{pool}, right" for pool in pools), "located, mode", "squares and words, mode", "tokens"))
    for arm in ARMS:
        if found := having(runs, arm):
            cells = [cell([100 * right(r[arm]["free"], tasks).mean() for r in found]) for tasks in pools.values()]
            modes = [cell([100 * routed(r, arm, tasks).mean() for r in found]) for tasks in (LOCATED_TASKS, UNSEEN)]
            spent = cell([numbers(r[arm]["free"], SEEN, "tokens").mean() for r in found])
            print(row(arm, *cells, *modes, spent))
    print()
    for arm in ARMS:
        found = having(runs, arm, "dense")
        if arm == "dense" or not found:
            continue
        for name, tasks in (("located", LOCATED_TASKS), ("unseen", UNSEEN)):
            sides = [[routed(run, which, tasks) for run in found] for which in (arm, "dense")]
            print(f"6  {arm} - dense's own choice, mode of {name}:", difference(*sides))
        for name, tasks in pools.items():
            sides = [[right(run[which]["free"], tasks) for run in found] for which in (arm, "dense")]
            print(f"9  {arm} - dense, {name}:", difference(*sides))
    for arm in (arm for arm in ARMS if arm.endswith(RAW)):
        found = having(runs, arm, arm.removesuffix(RAW))
        for name, tasks in (("located", LOCATED_TASKS), ("unseen", UNSEEN)) if found else ():
            sides = [[routed(run, which, tasks) for run in found] for which in (arm, arm.removesuffix(RAW))]
            print(f"12 {arm} - normalised, mode of {name}:", difference(*sides))
    found = having(runs, "hybrid, depth 1", "dense")
    for pool in ("seen", "located") if found else ():
        functions = {"dense, its own choice": [], "dense, the hybrid's router": []}
        for run in found:
            hybrid, dense = run["hybrid, depth 1"], run["dense"]
            router, own = (numbers(arm["free"], pools[pool], "probability") for arm in (hybrid, dense))
            ours = (router, *both_modes(hybrid, pools[pool]))
            for name, dial in zip(functions, (own, router), strict=True):
                theirs = (dial, *both_modes(dense, pools[pool]))
                functions[name].append(at_equal_tokens(ours, theirs, ours))
        for name, per_seed in functions.items():
            counts = [len(right(run["dense"]["free"], pools[pool])) for run in found]
            print(f"10 hybrid - {name}, at the hybrid's tokens, {pool}:", of_draws(per_seed, counts))


def probes(runs: dict[int, dict], joint_runs: dict[int, dict], story_runs: dict[int, dict]) -> None:
    """Against the own choice of the dense model on the same rows: of `joint`, or the one that `story` ships."""

    def pairs(arm):
        others, dense = (joint_runs, "dense") if arm.startswith("detached") else (story_runs, "shipped")
        found = [(probe, others.get(seed, {}), dense) for seed, probe in runs.items() if arm in probe]
        return found if arm.startswith("base") else [trio for trio in found if dense in trio[1]]

    def chosen(probe, arm, tasks):
        wanted = np.concatenate([np.full(len(probe[arm]["thinks"][t]), t in THINKING_TASKS) for t in tasks])
        return (_digits(probe[arm]["thinks"], tasks) == wanted).astype(float)

    def answered(probe, run, arm, tasks):
        correct, _ = both_modes(run["hybrid, depth 1, detached"], tasks)
        return np.where(_digits(probe[arm]["thinks"], tasks) == 1, correct[:, 0], correct[:, 1])

    print(head("read", "located", "minus dense's own choice", "unseen", "minus dense's own choice"))
    for arm in dict.fromkeys(arm for run in runs.values() for arm in run):
        if not (found := pairs(arm)):
            continue
        cells = []
        for tasks in (LOCATED_TASKS, UNSEEN):
            ours = [chosen(probe, arm, tasks) for probe, *_ in found]
            cells.append(cell([100 * side.mean() for side in ours]))
            known = not arm.startswith("base")  # a base has no choice of its own
            cells.append(difference(ours, [routed(run, dense, tasks) for _, run, dense in found]) if known else "")
        print(row(arm, *cells))
    print()
    for arm in dict.fromkeys(arm for run in runs.values() for arm in run if RAW in arm):
        found = [probe for probe in runs.values() if arm in probe and arm.replace(RAW, "") in probe]
        sides = [[chosen(probe, which, LOCATED_TASKS) for probe in found] for which in (arm, arm.replace(RAW, ""))]
        print(f"12 {arm} - normalised, located:", difference(*sides))
    for arm in dict.fromkeys(arm for run in runs.values() for arm in run if arm.endswith("outcomes")):
        other = arm.removesuffix("outcomes") + "row labels"
        found = [(probe, run) for probe, run, _ in pairs(arm) if other in probe]
        for name, tasks in (("located", LOCATED_TASKS), ("unseen", UNSEEN)):
            sides = [[answered(probe, run, which, tasks) for probe, run in found] for which in (arm, other)]
            print(f"8  {arm} - row labels, answers, {name}:", difference(*sides))


def _digits(thinks: dict, tasks) -> np.ndarray:
    return np.array([int(digit) for task in tasks for digit in thinks[task]])


def capacity(runs: list[dict]) -> None:
    pools = {"all": TASKS, "hard": HARD_TASKS, "located": LOCATED_TASKS, "easy": EASY_TASKS}
    print(head("arm", *(f"{pool}, own choice" for pool in pools), "hard, forced to think", "easy, forced directly"))
    arms = dict.fromkeys(arm for run in runs for arm in run)
    for arm in arms:
        asked = [("free", tasks) for tasks in pools.values()] + [("thinking", HARD_TASKS), ("direct", EASY_TASKS)]
        found = having(runs, arm)
        print(row(arm, *(cell([100 * right(run[arm][mode], tasks).mean() for run in found]) for mode, tasks in asked)))
    for other in arms:
        hybrid = other.partition(", ")[0] + ", hybrid"
        if (found := having(runs, hybrid, other)) and other != hybrid:
            for name, tasks in pools.items():
                sides = [[right(run[arm]["free"], tasks) for run in found] for arm in (hybrid, other)]
                print(f"11 hybrid - {other}, {name}:", difference(*sides))


def facts(runs: list[dict]) -> None:
    modes = ("direct", "thinking")
    arms = dict.fromkeys(arm for run in runs for arm in run)
    print(head("arm", "facts recalled", *modes))
    for arm in arms:
        found = having(runs, arm)
        print(
            row(
                arm,
                *(
                    cell([100 * right(run[arm], tasks).mean() for run in found])
                    for tasks in (modes, modes[:1], modes[1:])
                ),
            )
        )
    print()
    for kind in ("different", "same"):
        hybrid = next((arm for arm in arms if arm.startswith(f"{kind}, hybrid")), None)
        for other in (arm for arm in arms if arm.startswith(f"{kind}, dense")):
            if found := having(runs, other, hybrid):
                sides = [[right(run[arm], modes) for run in found] for arm in (hybrid, other)]
                print(f"{'15' if kind == 'different' else '16'} {hybrid} - {other}:", difference(*sides))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.summary", description=__doc__.splitlines()[1])
    parser.add_argument("--folder", type=Path, required=True, help="Results of all seeds.")
    folder = parser.parse_args(argv).folder
    print("Per cell the mean of the seeds and each, in percent; differences in points with 95 % intervals and seeds.\n")
    if story_runs := load(folder, "story"):
        story(list(story_runs.values()))
    print()
    if joint_runs := load(folder, "joint"):
        joint(list(joint_runs.values()))
    print()
    if runs := load(folder, "probes"):
        probes(runs, joint_runs, story_runs)
    print()
    if capacity_runs := load(folder, "capacity"):
        capacity(list(capacity_runs.values()))
    print()
    if facts_runs := load(folder, "facts"):
        facts(list(facts_runs.values()))


if __name__ == "__main__":
    main()
