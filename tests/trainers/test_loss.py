"""The loss is the language model's and the router's, each what it would be by hand."""

import pytest
import torch
from torch.nn import functional as F

from .common import make_dataset, make_hybrid, make_rows, make_trainer, parameters


MODES = (True, False, True, False, True, True, False, True)


def first_batch(trainer):
    return trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))


def router_loss_by_hand(model, processor, rows):
    """Cross-entropy of `route` on the prompts alone, one by one: no padding, no answer, no batch."""
    losses = []
    for row in rows:
        question = row["prompt"][0]["content"]
        parts = [{"type": "image", "image": image} for image in row["images"]] + [{"type": "text", "text": question}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": parts}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        losses.append(F.cross_entropy(model.route(**inputs).logits, torch.tensor([int(row["thinking"])])))
    return torch.stack(losses)


def token_losses_by_hand(model, batch):
    """Loss of every trained token and the mode of its row, row by row, from the dense-style forward's logits."""
    nll, modes = [], []
    patches = images = 0
    for index in range(len(batch["thinking"])):
        row = slice(index, index + 1)
        kept = batch["attention_mask"][index].bool()
        inputs = {name: batch[name][row][:, kept] for name in ("input_ids", "mm_token_type_ids")}
        number = int((inputs["input_ids"] == model.config.vision_start_token_id).sum())
        if number:
            grid = batch["image_grid_thw"][images : images + number]
            count = int(grid.prod(dim=1).sum())
            inputs |= {"image_grid_thw": grid, "pixel_values": batch["pixel_values"][patches : patches + count]}
            patches, images = patches + count, images + number
        with torch.no_grad():
            logits = model.forward(**inputs, thinking=bool(batch["thinking"][index])).logits[0]
        labels = batch["labels"][index, kept][1:]
        losses = F.cross_entropy(logits[:-1], labels, reduction="none", ignore_index=-100)
        nll.append(losses[labels != -100])
        modes.append(batch["thinking"][index].expand(len(nll[-1])))
    return torch.cat(nll), torch.cat(modes)


@pytest.mark.parametrize("coef", [0.0, 0.3, 1.0])
def test_total_is_language_model_plus_router(tmp_path, coef):
    model, processor = make_hybrid()
    dataset = make_dataset(MODES)
    trainer = make_trainer(tmp_path, dataset, (model, processor), router_loss_coef=coef, per_device_train_batch_size=8)
    loaded = first_batch(trainer)
    rows = [dataset[index] for index in next(iter(trainer.get_train_dataloader().batch_sampler))]
    batch = trainer.data_collator(rows)
    assert batch["thinking"].shape == loaded["thinking"].shape
    nll, modes = token_losses_by_hand(model, batch)
    router = router_loss_by_hand(model, processor, rows)
    assert router.std() > 0.05  # rows that all lose the same would not tell a mean from a single row

    total = trainer.compute_loss(model.train(), trainer._prepare_inputs(batch))
    torch.testing.assert_close(total, nll.mean() + coef * router.mean(), atol=1e-5, rtol=0)

    logs = {}
    trainer.log(logs)
    assert logs["router_loss"] == pytest.approx(router.mean().item(), abs=1e-5)
    assert logs["lm_loss_thinking"] == pytest.approx(nll[modes].mean().item(), abs=1e-5)
    assert logs["lm_loss_non_thinking"] == pytest.approx(nll[~modes].mean().item(), abs=1e-5)
    assert abs(logs["lm_loss_thinking"] - logs["lm_loss_non_thinking"]) > 0.05
    assert "aux_loss" not in logs


def test_rows_are_scored_by_the_branch_that_they_name(tmp_path):
    # `thinking` of all rows turned around: the router's targets and every row's branch change, so both losses do.
    trainer = make_trainer(tmp_path, per_device_train_batch_size=8)
    rows = make_rows(MODES)
    batch = trainer._prepare_inputs(trainer.data_collator(rows))
    turned = {**batch, "thinking": ~batch["thinking"]}
    losses = [_token_mean(trainer.model, inputs) for inputs in (batch, turned)]
    assert abs(losses[0] - losses[1]) > 1e-2


def _token_mean(model, batch):
    with torch.no_grad():
        return model(**batch, fused_lm_head=True).loss.item()


def test_without_its_coefficient_the_router_gets_no_gradient(tmp_path):
    trainer = make_trainer(tmp_path, router_loss_coef=0.0)
    trainer.compute_loss(trainer.model.train(), first_batch(trainer)).backward()
    assert not any(p.grad.any() for p in trainer.model.model.language_model.router.parameters() if p.grad is not None)
    assert trainer.model.lm_head.weight.grad.any()


def test_metrics_of_the_router(tmp_path):
    model, processor = make_hybrid()
    dataset = make_dataset(MODES)
    trainer = make_trainer(tmp_path, dataset, (model, processor), per_device_train_batch_size=8)
    model.config.thinking_threshold = 0.6
    right = sent = 0
    for row in dataset:
        loss = router_loss_by_hand(model, processor, [row])
        probability = (-loss).exp() if row["thinking"] else 1 - (-loss).exp()
        sent += int(probability >= 0.6)
        right += int((probability >= 0.6) == row["thinking"])
    trainer.compute_loss(model.train(), trainer._prepare_inputs(trainer.data_collator(list(dataset))))
    logs = {}
    trainer.log(logs)
    assert (logs["router_accuracy"], logs["thinking_ratio"]) == (right / 8, sent / 8)
    assert 0 < right < 8 and 0 < sent < 8


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_evaluation_does_not_depend_on_the_batches(tmp_path, batch_size):
    # Seven rows of unlike length: a mean of the batches' means would be another number for every batch size.
    dataset = make_dataset(MODES[:7])
    trainer = make_trainer(tmp_path, dataset, eval_dataset=dataset, per_device_eval_batch_size=batch_size)
    nll, modes = token_losses_by_hand(trainer.model, trainer.data_collator(list(dataset)))
    router = router_loss_by_hand(trainer.model, trainer.processing_class, dataset)
    found = trainer.evaluate()
    assert found["eval_lm_loss_thinking"] == pytest.approx(nll[modes].mean().item(), abs=1e-5)
    assert found["eval_lm_loss_non_thinking"] == pytest.approx(nll[~modes].mean().item(), abs=1e-5)
    assert found["eval_router_loss"] == pytest.approx(router.mean().item(), abs=1e-5)
    assert {"eval_loss", "eval_router_accuracy", "eval_thinking_ratio"} <= found.keys()


def test_evaluation_of_one_mode_has_no_loss_of_the_other(tmp_path):
    datasets = {"think": make_dataset((True,) * 3), "direct": make_dataset((False,) * 3)}
    found = make_trainer(tmp_path, eval_dataset=datasets).evaluate()
    assert {"eval_think_lm_loss_thinking", "eval_direct_lm_loss_non_thinking"} <= found.keys()
    assert not {"eval_think_lm_loss_non_thinking", "eval_direct_lm_loss_thinking"} & found.keys()


@pytest.mark.parametrize("optim", ["sgd", "adamw_torch"])
def test_accumulated_steps_equal_one_large_one(tmp_path, optim):
    # Adam divides by the root of the squared gradient, so its eps decides over tensors whose gradients are noise.
    options = {"optim": optim, "adam_epsilon": 1e-3, "max_grad_norm": 0.0, "average_tokens_across_devices": True}
    after, logged = [], []
    for batch_size, steps in ((8, 1), (2, 4), (1, 8)):
        trainer = make_trainer(
            tmp_path,
            make_dataset(MODES),
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=steps,
            **options,
        )
        before = parameters(trainer.model)
        trainer.train()
        after.append(parameters(trainer.model))
        logged.append(trainer.state.log_history[0])
    assert any(not before[name].equal(tensor) for name, tensor in after[0].items())
    for other, logs in zip(after[1:], logged[1:], strict=True):
        for name, tensor in after[0].items():
            torch.testing.assert_close(other[name], tensor, atol=1e-6, rtol=0, msg=name)
        for metric in ("loss", "lm_loss_thinking", "lm_loss_non_thinking", "router_loss", "router_accuracy"):
            assert logs[metric] == pytest.approx(logged[0][metric], abs=1e-5)


def test_gradient_checkpointing_changes_no_gradient(tmp_path):
    gradients = []
    for checkpointing in (False, True):
        trainer = make_trainer(tmp_path, gradient_checkpointing=checkpointing, optim="sgd", max_grad_norm=0.0)
        before = parameters(trainer.model)
        trainer.train()
        gradients.append({name: (before[name] - p) for name, p in parameters(trainer.model).items()})
        assert trainer.model.is_gradient_checkpointing == checkpointing
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-7, rtol=0, msg=name)
    assert any(gradient.any() for gradient in gradients[0].values())
