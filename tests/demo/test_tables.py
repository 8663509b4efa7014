"""The tables say what the results say; intervals over seeds and questions."""

import pytest

from hf_metis_home.demo.tables import COLUMNS, MODELS, STEPS, accuracy_interval, markdown, rows_of


def results(*accuracies: float) -> dict:
    def cells(value):
        cell = {"accuracy": value, "n": 400, "thinking_ratio": 0.5, "mean_tokens": 12.0}
        return {task: cell for task in (*COLUMNS, "all")}

    seeds = {
        str(seed): {
            "models": {step: cells(value) for step in STEPS},
            "demo": {name: cells(value) for name in MODELS},
            "seconds": {},
        }
        for seed, value in enumerate(accuracies)
    }
    return {"preset": "small", "seeds": seeds}


def test_table_of_one_and_of_two_seeds():
    assert rows_of(results(1.0))[0] == [STEPS["base"], *["100.0 (100.0, 100.0)"] * 4, "50.0", "12.0"]
    # Of two seeds a bootstrap draw has the same one twice half of the time.
    assert rows_of(results(0.0, 1.0), "demo")[0] == ["Base", *["50.0 (0.0, 100.0)"] * 4, "50.0", "12.0"]
    lines = markdown(results(0.25)).splitlines()
    tables = [line for line in lines if line.startswith("|")]
    assert len(tables) == 4 + len(STEPS) + len(MODELS) and all(line.count("|") == len(COLUMNS) + 4 for line in tables)
    assert "**Models from one base**, 1 seed(s)" in lines and "95 % interval" in lines[-1]


def test_a_step_that_failed_in_one_seed():
    found = results(0.25, 0.75)
    found["seeds"]["1"]["models"]["outcome_router"] = None
    assert rows_of(found)[-1][1:] == ["–"] * 6


def test_interval_of_one_seed_is_that_of_a_share():
    low, high = accuracy_interval([{"accuracy": 0.3, "n": 1000}])
    half = 1.96 * (0.3 * 0.7 / 1000) ** 0.5
    assert (low, high) == (pytest.approx(0.3 - half, abs=2e-3), pytest.approx(0.3 + half, abs=2e-3))


def test_interval_of_several_seeds_has_both_sources():
    within = accuracy_interval([{"accuracy": 0.5, "n": 400}] * 3)
    between = accuracy_interval([{"accuracy": value, "n": 400} for value in (0.3, 0.5, 0.7)])
    assert within == pytest.approx((0.5 - 1.96 * 0.5 / 1200**0.5, 0.5 + 1.96 * 0.5 / 1200**0.5), abs=5e-3)
    # Three different seeds with 400 questions each: the standard deviation of a draw's mean is 0.0943.
    assert between[0] < 0.36 and between[1] > 0.64
