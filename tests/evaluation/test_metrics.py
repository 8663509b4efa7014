"""Metrics against small tables worked out by hand, and against other people's implementations."""

import json
import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.calibration import calibration_curve
from sklearn.metrics import auc

from hf_metis_home.answers import AnswerFormat
from hf_metis_home.evaluation.intervals import bootstrap_shares, interval
from hf_metis_home.evaluation.leakage import format_validity, leakage
from hf_metis_home.evaluation.metrics import evaluate_outcomes, summarise
from hf_metis_home.evaluation.outcomes import COLUMNS, FEATURES
from hf_metis_home.evaluation.routing_metrics import (
    calibration_error,
    call_curve,
    call_performance,
    hacc,
    nauc,
    reliability,
)
from hf_metis_home.reports.hub_results import eval_results


THOUGHT, DIRECT = "<think>3+4</think><answer>7</answer>", "<think></think><answer>7</answer>"


def row(number: int, probability, thinking, direct, **values) -> dict:
    """`thinking`, `direct`: whether the branch is right, and its tokens; None where it has no answer."""
    sides = {"thinking": thinking, "non_thinking": direct}
    cells = {"task": "sums", "id": str(number), "sample": 0, "thinking_probability": probability}
    for name, side in sides.items():
        if side is not None:
            cells |= {f"correct_{name}": side[0], f"tokens_{name}": side[1], f"seconds_{name}": side[1] / 10}
            cells[f"text_{name}"] = THOUGHT if name == "thinking" else DIRECT
    return {**dict.fromkeys(COLUMNS), **cells, **values}


def table(rows: list[dict]) -> Dataset:
    return Dataset.from_list(rows, features=FEATURES)


# Thinking alone is right on 0 and 1, both on 2, neither on 3. At 0.5 the router thinks on 0 and 2.
HAND = [
    row(0, 0.9, (True, 30), (False, 6), subject="a"),
    row(1, 0.4, (True, 30), (False, 6), subject="a"),
    row(2, 0.6, (True, 20), (True, 6), subject="b"),
    row(3, 0.1, (False, 40), (False, 10), subject="b"),
]


def test_the_table_worked_out_by_hand():
    metrics = evaluate_outcomes(table(HAND), 0.5, draws=50)
    assert json.loads(json.dumps(metrics)) == metrics
    cells = metrics["tasks"]["all"]
    assert metrics["tasks"]["sums"] == cells and (cells["n"], cells["failed"]) == (4, 0)
    found = {name: [cell[key] for key in ("accuracy", "tokens", "thinking_ratio", "seconds")]
             for name, cell in cells["policies"].items()}  # fmt: skip
    assert found == {
        "router": [0.5, 16.5, 0.5, pytest.approx(1.65)],  # 30 + 6 + 20 + 10
        "thinking": [0.75, 30.0, 1.0, pytest.approx(3.0)],
        "non_thinking": [0.25, 7.0, 0.0, pytest.approx(0.7)],
        "random": [0.5, 18.5, 0.5, pytest.approx(1.85)],
        "oracle": [0.75, 19.0, 0.5, pytest.approx(1.9)],  # thinks on 0 and 1 alone: 30 + 30 + 6 + 10
    }
    assert cells["tokens_saved"] == pytest.approx(1 - 16.5 / 30) == cells["seconds_saved"]
    assert cells["regret"] == 0.25
    assert cells["hacc"] == 0.5  # 0 right; 1 should think; 2 both right, so the short one; 3 short
    assert cells["ece"] == pytest.approx((0.1 + 0.6) / 2)  # thinking pays on 0 (0.9) and 1 (0.4)
    assert cells["format"] == {"thinking": 1.0, "non_thinking": 1.0}
    assert cells["leakage"] == {"reflective": 0.0, "thought": 0.0, "tokens": 7.0}
    assert cells["policies"]["thinking"]["tokens_p95"] == pytest.approx(np.percentile([30, 30, 20, 40], 95))
    subjects = metrics["subjects"]["sums"]
    assert subjects["a"]["accuracy"]["router"] == 0.5 and subjects["b"]["thinking_ratio"] == 0.5


def test_summaries_of_tasks_and_pools():
    rows = [
        *(row(0, None, (True, 10), None), row(1, None, None, (False, 2))),
        *(row(2, None, None, (True, 2), text_non_thinking="<answer>7"), row(3, None, None, (True, 2))),
        row(0, None, (False, 8), None, task="b"), row(1, None, None, None, task="b", error="image"),
    ]  # fmt: skip
    found = summarise(table(rows), pools={"both": ("sums", "b"), "none": ("c",)})
    assert found["sums"] == {
        "accuracy": 0.75, "stderr": math.sqrt(0.75 * 0.25 / 4), "n": 4, "malformed": 0.25, "thinking_ratio": 0.25,
        "mean_tokens": 4.0,
    }  # fmt: skip
    assert (found["both"]["accuracy"], found["both"]["n"], found["both"]["thinking_ratio"]) == (0.5, 6, 0.4)
    assert found["b"]["stderr"] == 0.0 and found["b"]["n"] == 2 and "none" not in found


@pytest.mark.parametrize("policy", ["router", "thinking", "non_thinking"])
def test_a_summary_is_the_policy_of_the_metrics(policy):
    cell = evaluate_outcomes(table(HAND), 0.5, draws=2)["tasks"]["sums"]["policies"][policy]
    found = summarise(table(HAND), policy, 0.5)["sums"]
    assert [found[name] for name in ("accuracy", "mean_tokens", "thinking_ratio", "malformed")] == [
        cell["accuracy"], cell["tokens"], cell["thinking_ratio"], 0.0
    ]  # fmt: skip


def test_malformed_answers_are_counted_apart():
    rows = [*HAND, row(4, 0.9, (False, 9), (False, 9), text_thinking="<think>3+4</think>7")]
    cells = evaluate_outcomes(table(rows), 0.5, draws=2)["tasks"]["sums"]
    assert (cells["malformed_thinking"], cells["malformed_non_thinking"]) == (0.2, 0.0)
    plain = AnswerFormat(answer_tags=None)
    cells = evaluate_outcomes(table(rows), 0.5, draws=2, answer_format=plain)["tasks"]["sums"]
    assert cells["malformed_thinking"] == 0.0 and cells["format"]["thinking"] == 1.0
    one_mode = evaluate_outcomes(table([row(0, None, None, (True, 6))]), 0.5, draws=2)["tasks"]["sums"]
    assert one_mode["malformed_thinking"] is None and one_mode["malformed_non_thinking"] == 0.0


def test_the_curve_is_the_router_at_every_threshold():
    for point in evaluate_outcomes(table(HAND), 0.5, draws=2)["curve"]["all"]:
        there = evaluate_outcomes(table(HAND), point["threshold"], draws=2)["tasks"]["all"]["policies"]["router"]
        assert [point[key] for key in ("accuracy", "tokens", "thinking_ratio")] == [
            pytest.approx(there[key]) for key in ("accuracy", "tokens", "thinking_ratio")
        ]


def test_failed_rows_are_wrong_and_have_no_length():
    failed = [row(4, None, None, None, error="image"), row(5, 0.8, None, (True, 6), error="thinking: out of memory")]
    cells = evaluate_outcomes(table(HAND + failed), 0.5, draws=2)["tasks"]["all"]
    assert (cells["n"], cells["failed"]) == (6, 2)
    policies = cells["policies"]
    assert policies["router"]["accuracy"] == pytest.approx(2 / 6)
    assert policies["router"]["tokens"] == 16.5 and policies["router"]["thinking_ratio"] == pytest.approx(3 / 5)
    assert policies["non_thinking"]["accuracy"] == pytest.approx(2 / 6)
    assert cells["hacc"] == 0.5  # of what both branches answered
    for point in evaluate_outcomes(table(HAND + failed), 0.5, draws=2)["curve"]["all"]:
        there = evaluate_outcomes(table(HAND + failed), point["threshold"], draws=2)["tasks"]["all"]["policies"]
        assert [point["accuracy"], point["tokens"]] == pytest.approx(
            [there["router"]["accuracy"], there["router"]["tokens"]]
        )


def test_where_the_router_was_not_asked_its_answer_is_wrong():
    """The router is asked together with the thinking branch, so where that failed nobody knows its choice."""
    failed = [row(n, None, None, (True, 6), error="thinking: out of memory") for n in (4, 5)]
    metrics = evaluate_outcomes(table(HAND + failed), 0.5, draws=2)
    policies = metrics["tasks"]["all"]["policies"]
    assert policies["non_thinking"]["accuracy"] == pytest.approx(3 / 6)
    router = policies["router"]
    assert [router["accuracy"], router["tokens"]] == [pytest.approx(2 / 6), 16.5]
    for point in metrics["curve"]["all"]:
        there = evaluate_outcomes(table(HAND + failed), point["threshold"], draws=2)["tasks"]["all"]["policies"]
        assert [point["accuracy"], point["tokens"]] == pytest.approx(
            [there["router"]["accuracy"], there["router"]["tokens"]]
        )


def test_a_task_without_one_answer_has_the_policies_of_the_table():
    failed = [row(n, None, None, (True, 6), task="maps", subject="a", error="thinking: out of memory") for n in (4, 5)]
    metrics = evaluate_outcomes(table(HAND + failed), 0.5, draws=2)
    assert json.loads(json.dumps(metrics)) == metrics
    cells = metrics["tasks"]["maps"]
    assert cells["policies"].keys() == metrics["tasks"]["all"]["policies"].keys()
    assert metrics["subjects"]["maps"]["a"]["accuracy"]["router"] == 0.0
    router = cells["policies"]["router"]
    assert (router["accuracy"], router["tokens"], router["thinking_ratio"]) == (0.0, None, None)
    assert cells["policies"]["non_thinking"]["accuracy"] == 1.0 and "maps" not in metrics["curve"]
    [entry] = eval_results({"maps": cells}, {"maps": {"dataset": "owner/maps"}}, 0.5)["maps.yaml"]
    assert entry["value"] == 0.0 and "thinking ratio –" in entry["notes"]

    nothing = [row(4, None, None, None, task="maps", error="image")]
    dense = [row(n, None, (True, 25), None) for n in range(4)] + nothing
    policies = evaluate_outcomes(table(HAND + nothing), 0.5, baselines={"base": table(dense)}, draws=2)["tasks"]["maps"]
    assert {name: cell["accuracy"] for name, cell in policies["policies"].items()} == dict.fromkeys(
        ("router", "thinking", "non_thinking", "random", "oracle", "base"), 0.0
    )
    alone = evaluate_outcomes(table(dense), 0.5, draws=2)["tasks"]["maps"]["policies"]
    assert alone["thinking"]["accuracy"] == 0.0 and alone.keys() == {"thinking"}


def test_a_threshold_is_compared_in_fp32_as_the_model_does():
    probability = torch.tensor([0.7, 0.1, 0.5])
    rows = [row(n, float(value), (True, 30), (False, 6)) for n, value in enumerate(probability)]
    for threshold in (0.7, 0.1, 0.5):
        policies = evaluate_outcomes(table(rows), threshold, draws=2)["tasks"]["all"]["policies"]
        assert policies["router"]["thinking_ratio"] == (probability >= threshold).double().mean().item()


def test_differences_are_paired():
    dense = [row(n, None, (n in (0, 2), 25), None) for n in reversed(range(4))]  # right where the router is
    policies = evaluate_outcomes(table(HAND), 0.5, baselines={"base": table(dense)})["tasks"]["all"]["policies"]
    assert policies["base"]["interval"] == policies["router"]["interval"] != [0.5, 0.5]
    assert policies["base"]["difference"] == 0.0 and policies["base"]["difference_interval"] == [0.0, 0.0]
    assert policies["thinking"]["difference"] == -0.25 and policies["thinking"]["difference_interval"][1] == 0.0
    assert "difference" not in policies["router"]


def test_dense_models_and_single_branches_have_what_they_have():
    dense = [row(0, None, (True, 30), None), row(1, None, None, (False, 6)), row(2, None, None, (True, 8))]
    cells = evaluate_outcomes(table(dense), 0.5, draws=2)["tasks"]["all"]
    assert cells["policies"].keys() == {"model"} and "hacc" not in cells
    model = cells["policies"]["model"]
    assert (model["accuracy"], model["tokens"]) == (pytest.approx(2 / 3), pytest.approx(44 / 3))
    assert model["thinking_ratio"] == pytest.approx(1 / 3)
    alone = evaluate_outcomes(table([row(0, 0.5, None, (True, 6))]), 0.5, draws=2)
    assert alone["tasks"]["all"]["policies"].keys() == {"non_thinking"} and alone["curve"] == {}


def test_baselines_stand_beside():
    dense = [row(n, None, (n < 2, 25), None) for n in range(9)]
    cells = evaluate_outcomes(table(HAND), 0.5, baselines={"base": table(dense)}, draws=2)["tasks"]["all"]
    assert cells["policies"]["base"]["accuracy"] == 0.5  # on our four questions alone
    for name, other, message in (
        ("router", dense, "is the name of a policy"),
        ("base", dense[:3], r"has no answer to 1 of 4 questions, \(task, id\) \('sums', '3'\)"),
        ("base", HAND, "a router's probabilities"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate_outcomes(table(HAND), 0.5, baselines={name: table(other)}, draws=2)


def test_bad_input():
    with pytest.raises(ValueError, match="has no rows"):
        evaluate_outcomes(table(HAND).select([]), 0.5)
    with pytest.raises(ValueError, match=r"`threshold` is 1.5"):
        evaluate_outcomes(table(HAND), 1.5)
    with pytest.raises(ValueError, match=r"`outcomes` has a task called 'all'"):
        evaluate_outcomes(table([*HAND, row(4, 0.5, (True, 30), (True, 6), task="all")]), 0.5)


@st.composite
def answered(draw):
    count = draw(st.integers(2, 30))
    generator = np.random.default_rng(draw(st.integers(0, 10_000)))
    right = (generator.random((count, 2)) < generator.random(2)).astype(float)
    tokens = generator.integers(1, 50, (count, 2)).astype(float)
    return right, tokens, generator.integers(0, 8, count) / 7  # with ties


def routellm(strong, weak, score) -> dict:
    """APGR and CPT from the formulas of arXiv 2406.18665, one threshold at a time. Scores without ties."""
    count = len(score)
    low, high = weak.mean(), strong.mean()

    def recovered(calls: int) -> float:
        called = np.argsort(-score)[:calls]
        answers = weak.copy()
        answers[called] = strong[called]
        return (answers.mean() - low) / (high - low)

    apgr = np.mean([recovered(round(count * step / 10)) for step in range(1, 11)])
    first = {x: next(n for n in range(count + 1) if recovered(n) >= x - 1e-9) / count for x in (0.5, 0.8)}
    return {"apgr": apgr, "cpt50": first[0.5], "cpt80": first[0.8]}


@pytest.mark.parametrize("seed", range(20))
def test_call_performance_is_routellms(seed):
    generator = np.random.default_rng(seed)
    right = (generator.random((100, 2)) < ((0.4, 0.7) if seed % 2 else (0.7, 0.4))).astype(float)
    probability = generator.permutation(100) / 100
    expected = routellm(right[:, 1], right[:, 0], probability)
    if right[:, 1].mean() < right[:, 0].mean():
        expected = routellm(right[:, 0], right[:, 1], -probability)
    assert call_performance(right, probability) == {name: pytest.approx(value) for name, value in expected.items()}


def test_hacc_wants_the_cheaper_branch_where_both_are_alike():
    right, tokens = np.array([[1.0, 1.0], [0.0, 0.0], [0.0, 1.0]]), np.array([[5.0, 9.0], [5.0, 9.0], [5.0, 9.0]])
    assert hacc(right, tokens, np.array([False, False, True])) == 1.0
    assert hacc(right, tokens, np.array([True, True, False])) == 0.0
    assert hacc(right, tokens[:, ::-1], np.array([True, True, True])) == 1.0
    assert hacc(right, np.full((3, 2), 5.0), np.array([True, False, True])) == 1.0


@settings(deadline=None, max_examples=60)
@given(answered())
def test_curve_areas_and_bins(case):
    right, tokens, probability = case
    curve = call_curve(right, probability)
    assert (curve[0], curve[-1]) == (pytest.approx(right[:, 0].mean()), pytest.approx(right[:, 1].mean()))
    cost = call_curve(tokens, probability)
    if (found := nauc(right, tokens, probability)) is not None and (np.diff(cost) > 0).all():
        assert found == pytest.approx(auc(cost, curve) / (cost[-1] - cost[0])) and -1e-9 <= found <= 1 + 1e-9
    bins = reliability(right, probability)
    stake = right[:, 0] != right[:, 1]
    assert sum(row["n"] for row in bins) == stake.sum()
    thinking = probability >= 0.5
    assert 0 <= hacc(right, tokens, thinking) <= 1
    # Swapping the names of the branches changes nothing.
    assert hacc(right[:, ::-1], tokens[:, ::-1], ~thinking) == hacc(right, tokens, thinking)


def test_calibration_is_scikit_learns():
    generator = np.random.default_rng(0)
    right = np.stack([np.arange(500) % 2, 1 - np.arange(500) % 2], axis=1).astype(float)
    probability = generator.random(500)
    share, mean = calibration_curve(right[:, 1], probability, n_bins=10)
    bins = reliability(right, probability)
    assert [row["thinking_pays"] for row in bins] == pytest.approx(list(share))
    assert [row["probability"] for row in bins] == pytest.approx(list(mean))
    sizes = np.histogram(probability, 10, (0, 1))[0]
    assert calibration_error(bins) == pytest.approx((sizes * np.abs(share - mean)).sum() / 500)
    assert calibration_error(reliability(np.ones((3, 2)), np.full(3, 0.5))) is None


def test_intervals_are_scipys():
    values = (np.random.default_rng(1).random(300) < 0.3).astype(float)
    ours = interval(bootstrap_shares({"x": values}, range(300), draws=4000)["x"])
    theirs = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=4000, rng=2).confidence_interval
    assert ours == pytest.approx([theirs.low, theirs.high], abs=0.006)


def test_samples_of_a_question_are_one_observation():
    values = np.repeat((np.random.default_rng(1).random(50) < 0.5).astype(float), 8)
    clustered = bootstrap_shares({"x": values}, np.repeat(np.arange(50), 8).tolist(), draws=2000)["x"]
    alone = bootstrap_shares({"x": values[::8]}, range(50), draws=2000)["x"]
    assert clustered.std() == pytest.approx(alone.std(), rel=0.1)
    paired = bootstrap_shares({"x": values, "y": 1 - values}, range(400), draws=20)
    assert paired["x"] + paired["y"] == pytest.approx(np.ones(20))


def test_an_oracle_is_never_worse():
    generator = np.random.default_rng(3)
    rows = [
        row(n, float(generator.random()), (bool(generator.random() < 0.6), 30), (bool(generator.random() < 0.5), 5))
        for n in range(60)
    ]
    for threshold in (0.0, 0.3, 1.0):
        policies = evaluate_outcomes(table(rows), threshold, draws=2)["tasks"]["all"]["policies"]
        assert all(policies["oracle"]["accuracy"] >= policies[name]["accuracy"] for name in policies)
    assert math.isclose(policies["router"]["thinking_ratio"], 0.0)


def test_leakage_and_format():
    texts = [DIRECT, "Wait, no. <answer>7</answer>", "<think>3+4</think><answer>7</answer>", "waiting rooms"]
    assert leakage(texts, [1, 2, 3, 4]) == {"reflective": 0.25, "thought": 0.75, "tokens": 2.5}
    assert format_validity(texts, thinking=False) == 0.25 and format_validity(texts, thinking=True) == 0.25
    assert leakage([], []) is None and format_validity([], True) is None
