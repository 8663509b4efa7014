"""What is logged is what happened: thinking ratio per task, gradient norms, class balance, rates."""

import pytest
import torch
from datasets import Dataset
from torch.nn import functional as F

from hf_metis_home.trainers.parameter_groups import group_of

from .common import make_dataset, make_hybrid, make_rows, make_trainer


def rows_with_tasks() -> Dataset:
    rows = make_rows((True, False) * 4, images=(1,))
    return Dataset.from_list([{**row, "task": "math" if index < 3 else "ocr"} for index, row in enumerate(rows)])


def route_all(trainer) -> torch.Tensor:
    """Router logits of all rows in the trainer's order, before a step."""
    batch = next(iter(trainer.get_train_dataloader()))
    model = trainer.model
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "task")}
    with torch.no_grad():
        return model(**inputs).branch_logits, batch


def test_thinking_ratio_per_task(tmp_path):
    data = rows_with_tasks()
    options = {"per_device_train_batch_size": 8, "train_sampling_strategy": "sequential"}
    trainer = make_trainer(tmp_path, data, eval_dataset=data, **options)
    probability = route_all(trainer)[0].softmax(-1)[:, 1]
    trainer.model.config.thinking_threshold = probability.sort().values[3:5].mean().item()
    routed = probability >= trainer.model.config.thinking_threshold
    assert routed.sum() == 4
    metrics = trainer.evaluate()
    trainer.train()
    logs = trainer.state.log_history
    for found, prefix in ((metrics, "eval_"), (next(line for line in logs if "loss" in line), "")):
        assert found[f"{prefix}thinking_ratio/math"] == pytest.approx(routed[:3].float().mean().item())
        assert found[f"{prefix}thinking_ratio/ocr"] == pytest.approx(routed[3:].float().mean().item())
        assert found[f"{prefix}thinking_ratio"] == pytest.approx(routed.float().mean().item())


def test_a_prediction_is_no_part_of_the_next_evaluation(tmp_path):
    data = rows_with_tasks()
    trainer = make_trainer(tmp_path, data, eval_dataset=data, prediction_loss_only=True)
    trainer.predict(data.select([0, 1]))
    trainer.log({})  # the model is still in evaluation mode
    alone = trainer.evaluate()
    trainer.predict(data.select([0, 1]))
    found = trainer.evaluate()
    same = [name for name in alone if not name.endswith(("runtime", "per_second"))]
    assert "eval_thinking_ratio/math" in same and {name: found[name] for name in same} == {n: alone[n] for n in same}


def test_rows_without_a_task(tmp_path):
    data = Dataset.from_list([{k: v for k, v in row.items() if k != "task"} for row in make_rows((True, False) * 4)])
    trainer = make_trainer(tmp_path, data)
    trainer.train()
    assert not any("thinking_ratio/" in name for line in trainer.state.log_history for name in line)


def test_gradient_norms_per_group(tmp_path):
    trainer = make_trainer(tmp_path, per_device_train_batch_size=8, train_sampling_strategy="sequential")
    copy = make_trainer(tmp_path, per_device_train_batch_size=8, train_sampling_strategy="sequential")
    batch = copy._prepare_inputs(next(iter(copy.get_train_dataloader())))
    copy.compute_loss(copy.model.train(), batch).backward()
    trainer.train()
    logs = trainer.state.log_history[0]
    for group in ("shared", "thinking", "non_thinking", "router"):
        gradients = [p.grad for name, p in copy.model.named_parameters() if group_of(name) == group]
        norm = torch.cat([gradient.flatten() for gradient in gradients if gradient is not None]).norm()
        assert logs[f"grad_norm/{group}"] == pytest.approx(norm.item(), rel=1e-4)


def test_class_balance(tmp_path):
    modes = (True,) + (False,) * 7
    options = {"per_device_train_batch_size": 8, "train_sampling_strategy": "sequential", "router_class_balance": True}
    trainer = make_trainer(tmp_path, make_dataset(modes, images=(1,)), **options)
    logits, batch = route_all(trainer)
    each = F.cross_entropy(logits, batch["thinking"].long(), reduction="none")
    balanced = (each[0] + each[1:].mean()) / 2  # each mode counts one half
    outputs = trainer._router_loss(_NoStatistics(batch), logits, batch["thinking"])
    torch.testing.assert_close(outputs, balanced)


class _NoStatistics:
    def __init__(self, batch):
        self.log_probs = torch.zeros(batch["labels"].shape)
        self.label_mask = batch["labels"] != -100


def test_rates_of_groups(tmp_path):
    rates = {"learning_rate": 1e-4, "branch_learning_rate": 3e-4, "router_learning_rate": 2e-3}
    trainer = make_trainer(tmp_path, model=make_hybrid(), **rates)
    optimizer = trainer.create_optimizer()
    expected = {"shared": 1e-4, "thinking": 3e-4, "non_thinking": 3e-4, "router": 2e-3}
    of = {id(parameter): group_of(name) for name, parameter in trainer.model.named_parameters()}
    seen = {(of[id(p)], group["lr"]) for group in optimizer.param_groups for p in group["params"]}
    assert seen == set(expected.items())
    decayed = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert decayed == set(of)


def test_one_branch_is_an_island(tmp_path):
    # The isolate stage: what the other mode answers and where queries go is the same to the last bit.
    model, processor = make_hybrid()
    trainer = make_trainer(tmp_path, model=(model, processor), trainable="thinking", max_steps=3)
    batch = next(iter(trainer.get_train_dataloader()))
    inputs = {n: v for n, v in batch.items() if n not in ("labels", "task", "thinking")}

    @torch.no_grad()
    def answers():
        return [model(**inputs, thinking=mode) for mode in (True, False)]

    before = answers()
    trainer.train()
    after = answers()
    assert after[1].logits.equal(before[1].logits) and after[1].branch_logits.equal(before[1].branch_logits)
    assert not after[0].logits.equal(before[0].logits)
