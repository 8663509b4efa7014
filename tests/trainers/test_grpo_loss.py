"""Log-probabilities, old, present and of a reference, are the branch's own; the objective is the published one."""

import pytest
import torch

from .common import LOW_RANK, make_hybrid
from .grpo_common import first_batch, log_probs_by_hand, make_dense, make_grpo, make_prompts


ROLLOUTS = [(None, {}), ("thinking", {}), ("non_thinking", {}), ("both", {}), ("both", LOW_RANK), ("router", {})]
OFF_POLICY = {"num_iterations": 2, "temperature": 1.0}


def make(folder, branch, kind, **options):
    model = make_dense() if branch is None else make_hybrid(**kind)
    return make_grpo(
        folder, model, make_prompts(6), rollout_branch=branch, **{"per_device_train_batch_size": 6, **options}
    )


def log_probs_of(trainer, batch) -> torch.Tensor:
    """What the trainer's loss is computed from."""
    found = []
    original = type(trainer).__mro__[2]._get_per_token_logps_and_entropies

    def keep(self, *args, **kwargs):
        found.append(original(self, *args, **kwargs))
        return found[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(trainer).__mro__[2], "_get_per_token_logps_and_entropies", keep)
        trainer.compute_loss(trainer.model, batch)
    return found[0][0].detach()


@pytest.mark.parametrize("chunk", [12, 4, 1])
@pytest.mark.parametrize(("branch", "kind"), ROLLOUTS)
def test_log_probabilities_are_those_of_the_rows_branch(tmp_path, branch, kind, chunk):
    steps = 12 // chunk
    trainer = make(
        tmp_path, branch, kind, per_device_train_batch_size=chunk, steps_per_generation=steps, **OFF_POLICY
    )  # fmt: skip
    first_batch(trainer)
    for batch in trainer._buffered_inputs:
        thinking = batch.get("thinking")
        by_hand = log_probs_by_hand(trainer.model, batch, thinking)
        for found in (batch["old_per_token_logps"], log_probs_of(trainer, batch)):
            torch.testing.assert_close(found * batch["completion_mask"], by_hand, atol=2e-5, rtol=0)
        if thinking is not None:
            other = log_probs_by_hand(trainer.model, batch, ~thinking)
            assert (other - by_hand).abs().max() > 1e-3


def objective_by_hand(trainer, batch, low: float = 0.2, high: float = 0.28) -> tuple[torch.Tensor, dict]:
    """-mean over sequences of (mean over tokens of min(ratio * A, clip(ratio, 1 - low, 1 + high) * A))."""
    new = log_probs_by_hand(trainer.model, batch, batch.get("thinking"))
    terms, counts = [], {"low": 0, "high": 0}
    for row, advantage in enumerate(batch["advantages"]):
        length = int(batch["completion_mask"][row].sum())
        ratio = (new[row, :length] - batch["old_per_token_logps"][row, :length]).exp()
        counts["low"] += int(((ratio < 1 - low) & (advantage < 0)).sum())
        counts["high"] += int(((ratio > 1 + high) & (advantage > 0)).sum())
        term = torch.min(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)
        terms.append(term.mean() if length else torch.tensor(0.0))
    return -torch.stack(terms).mean(), counts


@pytest.mark.parametrize("branch", [None, "thinking", "both"])
def test_the_published_objective(tmp_path, branch):
    options = {"mask_truncated_completions": True, "max_completion_length": 40, "per_device_train_batch_size": 24}
    trainer = make(tmp_path, branch, {}, num_generations=12, **OFF_POLICY, **options)
    assert (trainer.beta, trainer.loss_type, trainer.epsilon_low, trainer.epsilon_high) == (0.0, "grpo", 0.2, 0.28)
    batch = first_batch(trainer)
    lengths = batch["completion_mask"].sum(dim=1)
    assert 3 < (lengths == 0).sum() < 21 and len(set(lengths.tolist())) > 3  # some were cut off, which have no loss
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if "mlp" in name and "visual" not in name:
                parameter.add_(0.04 * torch.randn_like(parameter))
    by_hand, counts = objective_by_hand(trainer, batch)
    assert min(counts.values()) > 3
    torch.testing.assert_close(trainer.compute_loss(trainer.model, batch).detach(), by_hand, atol=1e-5, rtol=0)
    for other in ({"low": 0.28}, {"high": 0.2}):
        assert (objective_by_hand(trainer, batch, **other)[0] - by_hand).abs() > 1e-4


def test_accumulated_steps_equal_one_large_one(tmp_path):
    # The same rollouts, cut in four; sequences count alike however long they are.
    options = {"rollout_branch": "router", "trainable": "all", "max_completion_length": 40}
    trainer = make_grpo(tmp_path, per_device_train_batch_size=8, **options)
    batch = first_batch(trainer)
    whole = trainer.compute_loss(trainer.model, batch)
    whole.backward()
    expected = {name: p.grad.clone() for name, p in trainer.model.named_parameters()}
    trainer.model.zero_grad()

    trainer = make_grpo(tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=4, **options)
    first_batch(trainer)
    trainer.current_gradient_accumulation_steps = 4
    for part in trainer._buffered_inputs:
        assert len(part["thinking"]) == len(part["router_target"]) == 2
        trainer.compute_loss(trainer.model, part).backward()
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("branch", [None, "thinking", "both"])
def test_the_reference_takes_the_same_branch(tmp_path, branch):
    model, processor = make_dense() if branch is None else make_hybrid()
    for part in (model, processor):
        part.save_pretrained(tmp_path / "model")
    trainer = make_grpo(
        tmp_path, (str(tmp_path / "model"), processor), rollout_branch=branch, beta=0.1, max_steps=2, num_iterations=2
    )  # fmt: skip
    trainer.train()
    first, second = trainer.state.log_history[:2]
    assert first["kl"] < 1e-8 < 1e-4 < second["kl"]


def test_gradient_checkpointing_changes_no_gradient(tmp_path):
    gradients = []
    for checkpointing in (False, True):
        trainer = make_grpo(
            tmp_path, rollout_branch="router", trainable="all", gradient_checkpointing=checkpointing, **OFF_POLICY
        )  # fmt: skip
        trainer.compute_loss(trainer.model, first_batch(trainer)).backward()
        gradients.append({name: p.grad for name, p in trainer.model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-7, rtol=0, msg=name)
