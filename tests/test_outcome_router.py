"""The arithmetic of `benchmarks.outcome_router` against cases that can be done by hand."""

import numpy as np
import pytest

from benchmarks.outcome_router import at_tokens, compare


# Four questions: thinking answers all in 10 tokens, direct the first two in 2.
CORRECT = np.array([[1.0, 1.0], [1.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
TOKENS = np.array([[10.0, 2.0]] * 4)


@pytest.mark.parametrize(
    ("probability", "wanted", "accuracy"),
    [
        ([0.1, 0.2, 0.8, 0.9], 2.0, 0.5),  # nobody thinks
        ([0.1, 0.2, 0.8, 0.9], 6.0, 1.0),  # the two that need it do
        ([0.9, 0.8, 0.2, 0.1], 6.0, 0.5),  # the two that do not
        ([0.1, 0.2, 0.8, 0.9], 4.0, 0.75),
        ([0.1, 0.2, 0.8, 0.9], 5.0, 0.875),  # one and a half, by chance
        ([0.9, 0.8, 0.2, 0.1], 10.0, 1.0),
    ],
)
def test_accuracy_at_given_tokens(probability, wanted, accuracy):
    assert at_tokens(np.array(probability), CORRECT, TOKENS, wanted) == pytest.approx(accuracy)


def test_comparison_is_paired():
    names = np.array(["a"] * 200 + ["b"] * 4)
    correct, tokens = np.tile(CORRECT, (51, 1)), np.tile(TOKENS, (51, 1))
    good, bad = np.tile([0.1, 0.2, 0.8, 0.9], 51), np.tile([0.9, 0.8, 0.2, 0.1], 51)
    found = compare({"outcomes": good, "bad": bad, "same": good}, correct, tokens, names, ("a",), seed=0)
    assert found["n"] == 200 and found["tokens"] == pytest.approx(6.0)
    assert found["bad"]["gain"] == pytest.approx(0.5) and found["bad"]["interval"][0] > 0.4
    assert found["same"]["gain"] == pytest.approx(0) and found["same"]["interval"] == pytest.approx([0, 0], abs=1e-9)
    assert found["outcomes"]["own_accuracy"] == 1.0 and found["outcomes"]["thinking_ratio"] == 0.5
