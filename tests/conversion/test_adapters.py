"""PEFT adapters that were trained over a dense model become the branches of a hybrid."""

import json
import logging

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import BdLoraConfig

from hf_metis_home.conversion import upcycle_checkpoint

from .common import ATTENTION, FFN, dense_of, hybrid_of, logits, save_adapter, save_dense, stored


FIRST_LAYER = FFN.replace(r"(\d+)", "0")
ADAPTERS = {
    "plain": {},
    "attention": {"target_modules": ATTENTION},
    "one_layer": {"target_modules": FFN.replace(r"(\d+)", "1")},
    "rslora": {"use_rslora": True, "r": 3},
    "patterns": {"rank_pattern": {"up_proj": 4}, "alpha_pattern": {r"layers\.1\.mlp\.down_proj": 9}},
}


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return save_dense(tmp_path_factory.mktemp("source") / "dense")


def adapted(dense, adapter):
    return PeftModel.from_pretrained(dense_of(dense), adapter)


@pytest.mark.parametrize("kind", ADAPTERS)
def test_adapter_becomes_a_branch(tmp_path, dense, kind):
    adapter = save_adapter(dense, tmp_path / "adapter", **ADAPTERS[kind])
    upcycle_checkpoint(dense, tmp_path / "hybrid", thinking_adapter=adapter, router_layer=0)
    hybrid, expected = hybrid_of(tmp_path / "hybrid"), logits(adapted(dense, adapter))
    assert hybrid.config.branch_kind == "lora"
    torch.testing.assert_close(logits(hybrid, thinking=True), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(logits(hybrid, thinking=False), logits(dense_of(dense)))
    assert (expected - logits(dense_of(dense))).abs().max() > 1e-3


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_adapters_that_change_the_base(tmp_path, dense, start):
    """They are refused as they are, and become a branch once PEFT has made plain LoRA of them."""
    model = get_peft_model(dense_of(dense), LoraConfig(r=2, target_modules=FFN, init_lora_weights=start))
    model.peft_config["default"].init_lora_weights = True  # as PEFT's documentation has it
    model.save_pretrained(tmp_path / "start")
    model.peft_config["default"].init_lora_weights = start
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match=f"an adapter with init_lora_weights='{start}', .*_weight_conversion"):
        upcycle_checkpoint(dense, tmp_path / "out", thinking_adapter=tmp_path / "adapter", router_layer=0)
    expected = logits(model)
    model.save_pretrained(tmp_path / "plain", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    upcycle_checkpoint(dense, tmp_path / "hybrid", thinking_adapter=tmp_path / "plain", router_layer=0)
    torch.testing.assert_close(logits(hybrid_of(tmp_path / "hybrid"), thinking=True), expected, rtol=1e-4, atol=1e-4)


def test_two_adapters_that_disagree(tmp_path, dense):
    """Rank, scaling and modules are brought under one roof."""
    adapters = {
        "thinking": save_adapter(dense, tmp_path / "one", seed=1, r=4, lora_alpha=5, target_modules=ATTENTION),
        "non_thinking": save_adapter(dense, tmp_path / "two", seed=2, r=2, lora_alpha=3, target_modules=FFN),
    }
    upcycle_checkpoint(
        dense, tmp_path / "hybrid", router_layer=0, **{f"{name}_adapter": path for name, path in adapters.items()}
    )
    hybrid = hybrid_of(tmp_path / "hybrid")
    assert hybrid.config.branch_rank == 4
    for branch, adapter in adapters.items():
        found = logits(hybrid, thinking=branch == "thinking")
        torch.testing.assert_close(found, logits(adapted(dense, adapter)), rtol=1e-5, atol=1e-5)


def test_adapters_that_agree_are_kept_to_the_last_bit(tmp_path, dense):
    adapter = save_adapter(dense, tmp_path / "adapter")
    upcycle_checkpoint(dense, tmp_path / "hybrid", thinking_adapter=adapter, router_layer=0, branch_rank=2)
    halves = {name.split(".layers.")[1]: tensor for name, tensor in stored(adapter).items()}
    found = {name.split(".layers.")[1]: t for name, t in stored(tmp_path / "hybrid").items() if ".layers." in name}
    for name, tensor in halves.items():
        assert torch.equal(found[name.replace(".mlp.", ".mlp.thinking.")], tensor)


def test_adapter_merged_into_a_whole_network(tmp_path, dense):
    adapter = save_adapter(dense, tmp_path / "adapter")
    upcycle_checkpoint(dense, tmp_path / "hybrid", non_thinking_adapter=adapter, branch_kind="ffn", router_layer=0)
    hybrid = hybrid_of(tmp_path / "hybrid")
    torch.testing.assert_close(logits(hybrid, thinking=False), logits(adapted(dense, adapter)), rtol=1e-5, atol=1e-5)
    assert torch.equal(logits(hybrid, thinking=True), logits(dense_of(dense)))


def test_record_names_the_adapter(tmp_path, dense):
    adapter = save_adapter(dense, tmp_path / "adapter")
    upcycle_checkpoint(dense, tmp_path / "hybrid", thinking_adapter=adapter, router_layer=0)
    record = json.loads((tmp_path / "hybrid/upcycle.json").read_text())
    assert record["thinking_adapter"] == str(adapter) and record["branch_kind"] == "lora"
    assert len(record["sha256"]["thinking_adapter"]["adapter_model.safetensors"]) == 64


# Bad input


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"use_dora": True}, "an adapter with use_dora=True, but a branch can only be plain LoRA"),
        ({"modules_to_save": ["lm_head"]}, r"an adapter with modules_to_save=\['lm_head'\]"),
        ({"bias": "all"}, "an adapter with bias='all'"),
        ({"alora_invocation_tokens": [5, 6]}, r"an adapter with alora_invocation_tokens=\[5, 6\]"),
        ({"use_bdlora": BdLoraConfig(["gate_proj", "up_proj"], ["down_proj"])}, "an adapter with use_bdlora="),
        ({"target_parameters": ["gate_proj.weight"], "target_modules": []}, "an adapter with target_parameters="),
        ({"target_modules": ["q_proj", "qkv"]}, "an adapter with 4 tensors that a branch has no place for: .*visual"),
        ({"target_modules": "lm_head"}, "tensors that a branch has no place for: .*lm_head"),
    ],
)
def test_adapters_that_are_no_branch(tmp_path, dense, lora, message):
    adapter = save_adapter(dense, tmp_path / "adapter", **lora)
    with pytest.raises(ValueError, match=f"`thinking_adapter` is .*{message}"):
        upcycle_checkpoint(dense, tmp_path / "out", thinking_adapter=adapter)
    assert not (tmp_path / "out").exists()


def test_adapter_of_another_base(tmp_path, dense, caplog):
    other = save_dense(tmp_path / "other", seed=1)
    config = json.loads((other / "config.json").read_text())
    adapter = save_adapter(dense, tmp_path / "adapter")
    with caplog.at_level(logging.WARNING):
        upcycle_checkpoint(other, tmp_path / "hybrid", thinking_adapter=adapter, router_layer=0)
    assert "`thinking_adapter` was trained on" in caplog.text and str(dense) in caplog.text
    # One whose shapes are wrong is no matter of trust.
    tensors = stored(adapter)
    name = next(name for name in tensors if name.endswith("up_proj.lora_B.weight"))
    from safetensors.torch import save_file

    save_file({**tensors, name: tensors[name][:-1].contiguous()}, adapter / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="`thinking_adapter` belongs to another base model: its delta of .*up_proj"):
        upcycle_checkpoint(dense, tmp_path / "out", thinking_adapter=adapter, router_layer=0)
    assert config["text_config"]["hidden_size"] == 32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"router_layer": 1}, r"`thinking_adapter` changes .*layers\.0.* Use `router_layer=0`"),
        ({"router_layer": 0, "branch_rank": 1}, "`branch_rank` is 1, but an adapter has rank 2"),
        ({"router_layer": 0, "branch_projections": ["up_proj"]}, r"`branch_projections` lacks \['down_proj', 'gate"),
        ({"router_layer": 0, "shared_from": "mean"}, "adapters only fit the dense weights"),
        ({"router_layer": 0, "thinking_model": "dense"}, "`thinking_model` and `thinking_adapter` both give"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit(tmp_path, dense, options, message):
    adapter = save_adapter(dense, tmp_path / "adapter")
    if "thinking_model" in options:
        options = options | {"thinking_model": dense, "branch_kind": "ffn"}
    with pytest.raises(ValueError, match=message):
        upcycle_checkpoint(dense, tmp_path / "out", thinking_adapter=adapter, **options)
    assert not (tmp_path / "out").exists()


def test_attention_has_no_place_in_whole_networks(tmp_path, dense):
    adapter = save_adapter(dense, tmp_path / "adapter", target_modules=ATTENTION)
    with pytest.raises(ValueError, match="but 'ffn' branches share the attention. Use 'lora'"):
        upcycle_checkpoint(dense, tmp_path / "out", thinking_adapter=adapter, branch_kind="ffn", router_layer=0)


def test_missing_adapter(tmp_path, dense):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="`thinking_adapter` is .*without adapter_config.json"):
        upcycle_checkpoint(dense, tmp_path / "out", thinking_adapter=tmp_path / "empty")
    adapter = save_adapter(dense, tmp_path / "adapter")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="without adapter_model.safetensors"):
        upcycle_checkpoint(dense, tmp_path / "out", thinking_adapter=adapter)
