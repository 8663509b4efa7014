"""Figures of one run stay as they are, those of several become means with their spread, and words follow figures."""

import statistics

import pytest

from hf_metis_home.demo.results import combine


MODELS = ("base", "reasoning_only", "dense_mixed", "hybrid", "hybrid_thinking", "hybrid_non_thinking")
TASKS = ("easy", "hard", "located_easy", "located_hard")


def run(seed: int, shift: float = 0.0) -> dict:
    cells = {
        model: {
            task: {
                "accuracy": 0.1 * index + 0.02 * place + shift, "stderr": 0.01, "n": 200, "malformed": 0.0,
                "thinking_ratio": 0.3 + shift, "mean_tokens": 9.0,
            }
            for place, task in enumerate(TASKS)
        }
        for index, model in enumerate(MODELS)
    }  # fmt: skip
    return {"seed": seed, "models": cells, "seconds": {"base": 100.0 + seed}}


def test_one_run():
    results = combine([run(3)], "small")
    assert results["models"] == run(3)["models"] and results["seconds"] == {"base": 103.0}
    assert (results["seed"], results["preset"]) == (3, "small") and "seeds" not in results
    assert {"hf-metis-home", "transformers", "torch", "trl"} <= results["versions"].keys()


def test_several_runs():
    runs = [run(0), run(1, 0.1), run(2, 0.05)]
    results = combine(runs, "full")
    cell = results["models"]["hybrid"]["hard"]
    accuracies = [each["models"]["hybrid"]["hard"]["accuracy"] for each in runs]
    assert cell["accuracy"] == pytest.approx(statistics.mean(accuracies))
    assert cell["spread"]["accuracy"] == pytest.approx(statistics.stdev(accuracies))
    assert cell["n"] == 600 and results["seeds"] == runs and results["seconds"] == {"base": 101.0}


def test_the_statement_carries_the_control_and_its_figures():
    text = " ".join(combine([run(0)], "small")["statement"])
    assert "The dense control, trained on the same mixed data" in text
    # dense_mixed: 20 + 2 on hard and 20 on easy; hybrid: 30 + 2 and 30.
    assert "22.0 % on hard and 20.0 % on easy" in text and "+10.0 and +10.0 points" in text


def with_accuracy(**models) -> str:
    """The statement of a run with given accuracies, `(easy, hard)` by model."""
    one = run(0)
    for model, values in models.items():
        for task, value in zip(("easy", "hard"), values, strict=True):
            one["models"][model][task]["accuracy"] = value
    return " ".join(combine([one], "small")["statement"])


def test_the_statement_follows_the_figures():
    equal = {"base": (0.9, 0.2), "reasoning_only": (0.3, 0.9)}
    as_good = with_accuracy(**equal, dense_mixed=(0.9, 0.9), hybrid=(0.9, 0.91))
    assert "What this does not show: that two branches are needed" in as_good
    assert "Mixed data and choosing a mode explain the gain here" in as_good and "hurts the easy tasks" in as_good
    better = with_accuracy(**equal, dense_mixed=(0.9, 0.2), hybrid=(0.9, 0.9))
    assert "explain the gain" not in better and "The hybrid does better than the dense control on hard" in better
    worse = with_accuracy(**equal, dense_mixed=(0.9, 0.95), hybrid=(0.9, 0.6))
    assert "The hybrid does worse than the dense control on hard" in worse
    no_gain = with_accuracy(**{**equal, "reasoning_only": (0.95, 0.2)}, dense_mixed=(0.9, 0.2), hybrid=(0.9, 0.2))
    assert "hurts the easy tasks" not in no_gain and "explain the gain" not in no_gain


def test_a_smoke_run_claims_nothing():
    statement = combine([run(0)], "smoke")["statement"]
    assert "figures mean nothing" in " ".join(statement) and "32.0 %" not in " ".join(statement)
