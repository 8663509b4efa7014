"""Adapters over a two-branch model: PEFT says what trains, both losses stay, and the adapter loads again."""

import pytest
import torch
from peft import LoraConfig, PeftModel

from .common import make_hybrid, make_rows, make_trainer, parameters


THINKING_ADAPTER = {
    "r": 4,
    "target_modules": r".*language_model\.layers\.\d+\.mlp\.thinking\.(gate|up|down)_proj",
    "modules_to_save": ["router"],
}


def make_peft_trainer(folder, **options):
    return make_trainer(folder, trainer_options={"peft_config": LoraConfig(**THINKING_ADAPTER)}, max_steps=3, **options)


def test_one_branch_and_the_router_train(tmp_path):
    trainer = make_peft_trainer(tmp_path)
    before = parameters(trainer.model)
    trainer.train()
    moved = {name for name, tensor in parameters(trainer.model).items() if not tensor.equal(before[name])}
    wanted = {name for name in before if "lora_" in name or "modules_to_save" in name}
    assert moved == wanted
    assert all(".mlp.thinking." in name or ".router." in name for name in moved)
    logs = trainer.state.log_history[0]
    assert {"lm_loss_thinking", "lm_loss_non_thinking", "router_loss", "router_accuracy"} <= logs.keys()


def test_the_adapter_loads_over_the_same_model(tmp_path):
    trainer = make_peft_trainer(tmp_path)
    trainer.train()
    trainer.save_model()
    assert (tmp_path / "adapter_model.safetensors").exists() and (tmp_path / "README.md").exists()
    loaded = PeftModel.from_pretrained(make_hybrid()[0], tmp_path)
    batch = trainer.data_collator(make_rows((True, False)))
    batch.pop("labels")
    with torch.no_grad():
        expected, found = (model.eval()(**batch) for model in (trainer.model, loaded))
    assert torch.equal(expected.logits, found.logits)
    assert torch.equal(expected.branch_logits, found.branch_logits)


def test_two_places_that_say_what_trains(tmp_path):
    with pytest.raises(ValueError, match="`trainable` is 'thinking' .*with a `peft_config` its `target_modules`"):
        make_peft_trainer(tmp_path, trainable="thinking")


def test_adapters_without_the_router_leave_it_alone(tmp_path):
    adapter = LoraConfig(r=4, target_modules=THINKING_ADAPTER["target_modules"])
    trainer = make_trainer(tmp_path, trainer_options={"peft_config": adapter}, max_steps=2)
    before = parameters(trainer.model)
    trainer.train()
    after = parameters(trainer.model)
    assert all(after[name].equal(before[name]) for name in before if ".router." in name)
    assert any(not after[name].equal(before[name]) for name in before)
