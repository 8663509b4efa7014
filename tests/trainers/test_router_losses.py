"""The router's losses are the formulas they say, with the gradients they say."""

import math

import pytest
import torch

from hf_metis_home.trainers.router_losses import policy_gradient_loss, regret_loss, weighted_cross_entropy


LOGITS = [[0.0, 1.0], [2.0, -1.0], [0.5, 0.5]]


def log_p(row: int, branch: int) -> float:
    return LOGITS[row][branch] - math.log(sum(math.exp(score) for score in LOGITS[row]))


CASES = {
    "regret": (
        lambda logits: regret_loss(logits, torch.tensor([2.0, -0.5, 0.0])),
        -(2.0 * log_p(0, 1) + 0.5 * log_p(1, 0)) / 3,
    ),
    "policy gradient": (
        lambda logits: policy_gradient_loss(logits, torch.tensor([True, True, False]), torch.tensor([1.5, -0.5, 2.0])),
        -(1.5 * log_p(0, 1) - 0.5 * log_p(1, 1) + 2.0 * log_p(2, 0)) / 3,
    ),
    "soft labels": (
        lambda logits: weighted_cross_entropy(logits, torch.tensor([0.3, 1.0, 0.5])),
        -(0.3 * log_p(0, 1) + 0.7 * log_p(0, 0) + log_p(1, 1) + 0.5 * log_p(2, 1) + 0.5 * log_p(2, 0)) / 3,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_by_hand_and_by_finite_differences(name):
    loss_of, expected = CASES[name]
    logits = torch.tensor(LOGITS, requires_grad=True)
    loss = loss_of(logits)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(expected, abs=1e-6)
    loss.backward()
    gradient = logits.grad.tolist()
    for row in range(3):
        for column in range(2):
            moved = torch.tensor(LOGITS)
            step = 1e-2
            moved[row, column] += step
            above = loss_of(moved).item()
            moved[row, column] -= 2 * step
            assert (above - loss_of(moved).item()) / (2 * step) == pytest.approx(gradient[row][column], abs=1e-4)


def test_in_fp32_whatever_comes():
    logits = torch.tensor(LOGITS, dtype=torch.bfloat16, requires_grad=True)
    gain = torch.tensor([1, -1, 0])  # also whole numbers
    loss = regret_loss(logits, gain)
    assert loss.dtype == torch.float32
    loss.backward()
    assert torch.count_nonzero(logits.grad[2]) == 0 and torch.count_nonzero(logits.grad[:2]) == 4
    advantage = torch.ones(3, requires_grad=True)
    policy_gradient_loss(logits, torch.tensor([1, 0, 1]), advantage).backward()
    assert advantage.grad is None


def test_regret_is_bounded():
    generator = torch.Generator().manual_seed(0)
    logits, gain = torch.randn(500, 2, generator=generator), torch.randn(500, generator=generator)
    wrong = (logits[:, 1] > logits[:, 0]) != (gain > 0)
    assert 0 < (wrong * gain.abs()).mean() <= regret_loss(logits, gain) / math.log(2)


@pytest.mark.parametrize("gains", [[1.0, 1.0, 1.0, -2.0], [1.0, -0.2, -0.2, -0.2], [1.0, -1.0]])
def test_noisy_gains_are_decided_by_their_mean(gains):
    gain = torch.tensor(gains)
    difference = torch.linspace(-6, 6, 24_001)
    losses = torch.stack([regret_loss(torch.tensor([[0.0, d]]).expand(len(gain), 2), gain) for d in difference[::40]])
    best = difference[::40][losses.argmin()].sigmoid()
    assert best.item() == pytest.approx((gain.clamp(min=0).sum() / gain.abs().sum()).item(), abs=5e-3)
    assert gain.mean() == 0 or (best > 0.5) == (gain.mean() > 0)


def test_a_router_that_is_sure_and_wrong_gets_a_gradient():
    gain = torch.tensor([1.0])
    sure, other = (torch.tensor([[40.0, -40.0]], requires_grad=True) for _ in range(2))
    regret_loss(sure, gain).backward()
    assert sure.grad.tolist() == [[pytest.approx(1.0), pytest.approx(-1.0)]]
    expected_regret = (gain.clamp(min=0) - gain * other.softmax(dim=-1)[:, 1]).mean()
    expected_regret.backward()
    assert expected_regret.item() == pytest.approx(1.0) and other.grad.abs().max() < 1e-30


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: regret_loss(torch.zeros(3), torch.zeros(3)), r"`branch_logits` has shape \(3,\)"),
        (lambda: regret_loss(torch.zeros(3, 2), torch.zeros(3, 1)), r"`gain` has shape \(3, 1\)"),
        (lambda: policy_gradient_loss(torch.zeros(3, 2), torch.zeros(2), torch.zeros(3)), "`thinking` has shape"),
        (lambda: policy_gradient_loss(torch.zeros(3, 2), torch.zeros(3), torch.zeros(1)), "`advantage` has shape"),
        (lambda: weighted_cross_entropy(torch.zeros(3, 2), torch.zeros(3), torch.zeros(1)), "`weight` has shape"),
    ],
)
def test_shapes(call, message):
    with pytest.raises(ValueError, match=message):
        call()
