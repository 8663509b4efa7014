"""In a random batch each row is routed as alone, and computes what it and the dense model of its branch do alone."""

from functools import cache

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from .tiny import IMAGE, KINDS, batch, branch_twin, prompt_ids, tiny_hybrid


ROW = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10_000),
        "length": st.integers(1, 12),
        "images": st.integers(0, 2),
        "answer": st.lists(st.integers(20, 80), max_size=4),
        "thinking": st.booleans(),
    }
)
ROWS = st.lists(ROW, min_size=1, max_size=4)
SIDE = st.sampled_from(["left", "right"])
MODEL = st.tuples(st.sampled_from(sorted(KINDS)), st.sampled_from(["mean", "modality_mean", "attention"]))
# Nothing is shrunk: batches are small as they are, and it would take minutes.
FEW = settings(max_examples=25, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])


@cache
def models(kind, pooling):
    hybrid = tiny_hybrid(**KINDS[kind], router_pooling=pooling)
    return hybrid, {True: branch_twin(hybrid, "thinking"), False: branch_twin(hybrid, "non_thinking")}


def prompts_of(rows):
    return [prompt_ids(row["seed"], row["length"], row["images"]) for row in rows]


def inputs_of(rows, side="left", answers=False):
    completions = [row["answer"] for row in rows] if answers else None
    return batch(prompts_of(rows), side, completions, seeds=[row["seed"] for row in rows])


def real(logits, inputs, row=0):
    return logits[row][inputs["attention_mask"][row].bool()]


def assert_close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)  # sums in another order, of logits up to 1


@FEW
@given(MODEL, ROWS, SIDE)
@torch.no_grad()
def test_forced_rows_equal_alone_and_dense(model, rows, side):
    hybrid, twins = models(*model)
    inputs = inputs_of(rows, side)
    mixed = hybrid(**inputs, thinking=[row["thinking"] for row in rows]).logits
    for index, row in enumerate(rows):
        single = inputs_of([row])
        alone = hybrid(**single, thinking=row["thinking"]).logits[0]
        assert_close(real(mixed, inputs, index), alone)
        assert_close(alone, twins[row["thinking"]](**single).logits[0])


@FEW
@given(MODEL, ROWS, SIDE, st.integers(0, 3), st.sampled_from([-1e-3, 1e-3]))
@torch.no_grad()
def test_routed_rows_equal_alone_and_dense(model, rows, side, pivot, step):
    # The threshold lies beside a row's own probability, since most others would send all rows the same way; the step
    # keeps rounding from deciding.
    hybrid, twins = models(*model)
    alone = [hybrid.route(**inputs_of([row])).thinking_probability.item() for row in rows]
    threshold = min(1.0, max(0.0, alone[pivot % len(rows)] + step))
    inputs = inputs_of(rows, side)
    routing = hybrid.route(**inputs, thinking_threshold=threshold)
    assert routing.thinking_probability.tolist() == pytest.approx(alone, rel=0, abs=1e-5)

    outputs = hybrid(**inputs, thinking_threshold=threshold)
    assert_close(outputs.branch_logits.softmax(-1)[:, 1], routing.thinking_probability)
    for index, row in enumerate(rows):
        if abs(alone[index] - threshold) > 1e-5:
            assert routing.thinking[index] == (alone[index] >= threshold)
        expected = twins[bool(routing.thinking[index])](**inputs_of([row])).logits[0]
        assert_close(real(outputs.logits, inputs, index), expected)


@FEW
@given(MODEL, ROWS, SIDE, st.lists(st.integers(20, 80), max_size=4))
@torch.no_grad()
def test_probability_depends_on_the_prompt_alone(model, rows, side, other_answer):
    # With an answer behind the prompt, as in training, and whatever that answer is.
    hybrid, twins = models(*model)
    alone = [hybrid.route(**inputs_of([row])).thinking_probability.item() for row in rows]
    for answered in (rows, [{**row, "answer": other_answer} for row in rows]):
        inputs = inputs_of(answered, side, answers=True)
        inputs.setdefault("prompt_mask", inputs["attention_mask"].bool())
        outputs = hybrid(**inputs, thinking=[row["thinking"] for row in rows])
        assert outputs.branch_logits.softmax(-1)[:, 1].tolist() == pytest.approx(alone, rel=0, abs=1e-5)
        for index, row in enumerate(answered):
            single = inputs_of([row], answers=True)
            single.pop("prompt_mask", None)
            expected = twins[row["thinking"]](**single).logits[0]
            assert_close(real(outputs.logits, inputs, index), expected)


@FEW
@given(MODEL, ROWS, SIDE, st.permutations(range(4)))
@torch.no_grad()
def test_order_of_rows_does_not_matter(model, rows, side, order):
    hybrid, _ = models(*model)
    order = [index for index in order if index < len(rows)]
    inputs, shuffled = inputs_of(rows, side), inputs_of([rows[index] for index in order], side)
    assert (inputs["input_ids"] == IMAGE).sum() == (shuffled["input_ids"] == IMAGE).sum()
    thinking = [row["thinking"] for row in rows]
    found = hybrid(**shuffled, thinking=[thinking[index] for index in order]).logits
    expected = hybrid(**inputs, thinking=thinking).logits
    for place, index in enumerate(order):
        assert_close(real(found, shuffled, place), real(expected, inputs, index))


@FEW
@given(MODEL, ROWS, SIDE, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_a_higher_threshold_lets_no_more_rows_think(model, rows, side, one, two):
    hybrid, _ = models(*model)
    inputs = inputs_of(rows, side)
    low, high = (hybrid.route(**inputs, thinking_threshold=value).thinking for value in sorted((one, two)))
    assert (high <= low).all()
