"""Thresholds for a target: by hand, against scipy, and that what is promised holds on questions never seen."""

import numpy as np
import pytest
from datasets import Dataset
from scipy import stats

from hf_metis_home.evaluation.calibration import calibrate_threshold, certify, drop_bound
from hf_metis_home.evaluation.outcomes import COLUMNS, FEATURES
from hf_metis_home.evaluation.routing_metrics import candidates


SPLITS = 500


def table(probability, right, tokens=None, sample=None) -> Dataset:
    """Outcomes of given probabilities and `right` `[N, 2]`, column 1 thinking; 10 and 50 tokens."""
    n = len(probability)
    tokens = np.tile([10, 50], (n, 1)) if tokens is None else tokens
    columns = {
        **{name: [None] * n for name in COLUMNS},
        "task": ["sums"] * n,
        "id": [str(number) for number in range(n)],
        "sample": [0] * n,
        "thinking_probability": list(map(float, probability)),
    }
    for column, mode in enumerate(("non_thinking", "thinking")):
        columns[f"correct_{mode}"] = [bool(value) for value in right[:, column]]
        columns[f"tokens_{mode}"] = [int(value) for value in tokens[:, column]]
    return Dataset.from_dict(columns, features=FEATURES)


def smooth(generator, n: int, levels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Thinking is right in 90 of 100 cases; the direct answer less often, the surer the router is that it is not."""
    probability = generator.uniform(size=n)
    if levels:
        probability = (probability * levels).astype(int) / levels
    right = np.stack([generator.uniform(size=n) < 0.9 - 0.5 * probability**2, generator.uniform(size=n) < 0.9], axis=1)
    return probability, right


def true_drop(threshold: float, levels: int | None = None) -> float:
    """Of [`smooth`]: the mean of `0.5 * p**2` over the questions below the threshold."""
    if levels is None:
        return 0.5 * min(threshold, 1.0) ** 3 / 3
    grid = np.arange(levels) / levels
    return float((0.5 * grid**2 * (grid < threshold)).mean())


@pytest.mark.parametrize(
    ("held_out", "levels", "max_drop"),
    [(600, None, 0.05), (80, 4, 0.0625 / 8), (300, 4, 0.04), (120, 2, 0.0624)],
    ids=["smooth", "few, at the bound", "ties", "drop just above the bound"],
)
def test_the_promise_holds_where_the_truth_is_known(held_out, levels, max_drop):
    generator, broken, above = np.random.default_rng(1), 0, 0
    for _ in range(SPLITS):
        proposed = candidates(smooth(generator, 200, levels)[0])
        threshold = certify(proposed, *smooth(generator, held_out, levels), max_drop, 0.9)
        broken += true_drop(threshold, levels) > max_drop + 1e-12
        above += threshold > 0
    assert stats.binomtest(broken, SPLITS, 0.1, alternative="greater").pvalue > 0.01, broken
    if (held_out, levels) == (600, None):
        assert above > 0.9 * SPLITS  # and it does not hold by promising nothing


@pytest.mark.parametrize(("levels", "max_drop"), [(None, 0.06), (3, 0.05), (2, 0.0624)])
def test_the_promise_holds_over_splits_of_one_table(levels, max_drop):
    probability, right = smooth(np.random.default_rng(2), 4000, levels)
    drop = right[:, 1].astype(float) - right[:, 0]
    broken = 0
    for split in range(SPLITS):
        rows = np.random.default_rng(split).permutation(len(probability))[:600]
        steps = candidates(probability[rows[:300]])
        threshold = certify(steps, probability[rows[300:]], right[rows[300:]], max_drop, 0.9)
        broken += (drop * (probability < threshold)).mean() > max_drop
    assert stats.binomtest(broken, SPLITS, 0.1, alternative="greater").pvalue > 0.01, broken


def test_a_bound_that_ignores_chance_breaks_the_promise():
    """The tests above can fail: the observed drop in place of its bound does not keep what it says."""
    generator, broken = np.random.default_rng(1), 0
    for _ in range(SPLITS):
        probability, right = smooth(generator, 300)
        steps = candidates(smooth(generator, 200)[0])
        change = right[:, 1].astype(float) - right[:, 0]
        kept = [step for step in steps if (change * (probability < step)).mean() <= 0.05]
        broken += true_drop(kept[-1]) > 0.05
    assert stats.binomtest(broken, SPLITS, 0.1, alternative="greater").pvalue < 1e-6, broken


def test_the_bound_is_two_exact_intervals():
    for lost, won in ((0, 0), (7, 3), (40, 0), (0, 40), (20, 20)):
        upper, lower = (stats.binomtest(k, 40).proportion_ci(0.9, "exact") for k in (lost, won))
        assert drop_bound(lost, won, 40, 0.9) == pytest.approx(upper.high - lower.low)  # 5 % on either side of both
    assert drop_bound(np.array([0]), np.array([0]), 100, 0.95)[0] == pytest.approx(1 - 0.025 ** (1 / 100))


def test_the_first_failure_ends_the_search():
    # 0.2 loses all, 0.8 wins all of it back: the drop at 0.9 is 0, but the way there leads through 0.5.
    probability = np.repeat([0.2, 0.8], 1000)
    right = np.repeat([[False, True], [True, False]], 1000, axis=0)
    assert certify(np.array([0.0, 0.5, 0.9]), probability, right, 0.1, 0.95) == 0.0
    assert certify(np.array([0.0, 0.1]), probability, right, 0.1, 0.95) == 0.1
    assert certify(np.array([0.0, 0.1]), probability[:20], right[:20], 0.1, 0.95) == 0.0  # too few to tell


def test_candidates_part_neighbours():
    assert candidates(np.array([0.25, 0.75, 0.25])).tolist() == [0.0, 0.5, 0.875]
    assert candidates(np.array([0.5, 1.0])).tolist() == [0.0, 0.75]  # that nobody thinks is out of reach
    close = np.array([0.5, np.nextafter(np.float32(0.5), np.float32(1))], dtype=float)
    thresholds = candidates(close)
    assert [(close.astype(np.float32) >= np.float32(t)).sum() for t in thresholds] == [2, 1, 0]


def test_ratio_and_budget():
    probability = np.linspace(0.05, 0.95, 400)
    right = np.ones((400, 2))
    found = calibrate_threshold(table(probability, right), thinking_ratio=0.4)
    assert 0.55 < found["threshold"] < 0.65 and found["questions"] == {"chosen_on": 200, "held_out": 200, "left_out": 0}
    low, high = found["held_out"]["interval"]
    expected = stats.binomtest(round(200 * found["held_out"]["thinking_ratio"]), 200).proportion_ci(0.95, "exact")
    assert (low, high) == pytest.approx((expected.low, expected.high)) and low < 0.4 < high
    found = calibrate_threshold(table(probability, right), token_budget=30)  # half of them think
    assert 0.45 < found["threshold"] < 0.55
    assert found["held_out"]["interval"][0] < 30 < found["held_out"]["interval"][1]
    assert "tokens was" in found["statement"]
    assert calibrate_threshold(table(probability, right), thinking_ratio=1)["threshold"] == 0.0
    assert calibrate_threshold(table(probability, right), thinking_ratio=0)["held_out"]["thinking_ratio"] == 0


def test_drop():
    probability, right = smooth(np.random.default_rng(0), 4000)
    found = calibrate_threshold(table(probability, right), max_accuracy_drop=0.05)
    assert found["threshold"] > 0.3 and true_drop(found["threshold"]) < 0.05
    assert found["held_out"]["accuracy_drop"] == pytest.approx(
        found["held_out"]["accuracy_thinking"] - found["held_out"]["accuracy"]
    )
    assert found["statement"].startswith("With 95% confidence the accuracy is at most 5 points below always thinking")
    few = calibrate_threshold(table(probability[:40], right[:40]), max_accuracy_drop=0.01)
    assert few["threshold"] == 0.0 and few["statement"].startswith(
        "From 20 held-out questions, no threshold above 0 can be"
    )
    assert few["held_out"]["accuracy_drop"] == 0.0


@pytest.mark.parametrize(("confidence", "words"), [(0.999, "99.9%"), (0.975, "97.5%"), (0.9, "90%")])
def test_the_statement_names_the_confidence_as_it_is(confidence, words):
    outcomes = table(*smooth(np.random.default_rng(0), 2000))
    for target in ({"max_accuracy_drop": 0.3}, {"max_accuracy_drop": 0.0001}, {"thinking_ratio": 0.5}):
        assert f"ith {words} confidence" in calibrate_threshold(outcomes, confidence=confidence, **target)["statement"]


def test_one_sample_counts_and_rows_without_a_probability_do_not():
    probability, right = np.array([0.2, 0.4, 0.6, 0.8]), np.ones((4, 2))
    rows = table(probability, right).to_list()
    again = [{**row, "sample": 1, "correct_thinking": False} for row in rows]
    failed = [{**rows[0], "id": "x", "thinking_probability": None, "correct_thinking": None}]
    once, twice = (
        calibrate_threshold(Dataset.from_list(part, features=FEATURES), thinking_ratio=0.5)
        for part in (rows, again + rows + failed)
    )
    assert twice["questions"]["left_out"] == 1 and twice["held_out"] == once["held_out"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Exactly one of `thinking_ratio`, `token_budget`, `max_accuracy_drop` is needed, not 0"),
        ({"thinking_ratio": 0.1, "token_budget": 3}, "is needed, not 2"),
        ({"thinking_ratio": 1.5}, "`thinking_ratio` is 1.5"),
        ({"token_budget": 0}, "`token_budget` is 0"),
        ({"max_accuracy_drop": 1}, "`max_accuracy_drop` is 1"),
        ({"thinking_ratio": 0.5, "confidence": 1.0}, "`confidence` is 1.0"),
        ({"thinking_ratio": 0.5, "validation_fraction": 0.01}, "holds out 0; each part needs at least 2"),
        (
            {"token_budget": 5},
            "`token_budget` is 5, but on the 10 questions that .* needs at least 10",
        ),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        calibrate_threshold(table(np.linspace(0.1, 0.9, 20), np.ones((20, 2))), **options)


def test_refuses_a_dense_model():
    dense = [{**row, "thinking_probability": None} for row in table(np.ones(4), np.ones((4, 2))).to_list()]
    with pytest.raises(ValueError, match="no router's probability"):
        calibrate_threshold(Dataset.from_list(dense, features=FEATURES), thinking_ratio=0.5)
