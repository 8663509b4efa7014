"""Estimates against real models: parameters to the unit, caches, files and a training step to the byte."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import DynamicCache, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from hf_metis_home.conversion import estimate_memory, upcycle
from hf_metis_home.conversion.hybrid_tensors import hybrid_config
from hf_metis_home.modeling import MetisHomeForConditionalGeneration
from hf_metis_home.modeling.configuration_metis_home import ATTENTION_PROJECTIONS, FFN_PROJECTIONS

from ..modeling.tiny import KINDS, tiny_dense, tiny_hybrid


# hidden size, FFN size, layers, heads, key-value heads, vocabulary, tied head, FFN size of the vision tower
SHAPES = {
    "3B": (2048, 11008, 36, 16, 2, 151936, True, 3420),
    "7B": (3584, 18944, 28, 28, 4, 152064, False, 3420),
    "32B": (5120, 27648, 64, 40, 8, 152064, False, 3456),
    "72B": (8192, 29568, 80, 64, 8, 152064, False, 3456),
}
BILLIONS = {"3B": 3.75, "7B": 8.29}  # of the released models


def real_config(size: str) -> Qwen2_5_VLConfig:
    hidden, ffn, layers, heads, kv_heads, vocabulary, tied, vision_ffn = SHAPES[size]
    text = {
        "hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "vocab_size": vocabulary, "max_position_embeddings": 128000,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    }  # fmt: skip
    vision = {"hidden_size": 1280, "intermediate_size": vision_ffn, "depth": 32, "out_hidden_size": hidden}
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=tied)


def save_config(config, folder):
    config.save_pretrained(folder)
    return folder


def with_one_branch(config):
    config = copy.deepcopy(config)
    config.only_branch = "thinking"
    return config


def on_meta(cls, config):
    with torch.device("meta"):
        model = cls(config)
    model.tie_weights()
    return model


@pytest.mark.parametrize(
    "size", [size if size in BILLIONS else pytest.param(size, marks=pytest.mark.slow) for size in SHAPES]
)
def test_parameters_of_the_real_models(tmp_path, size):
    config = real_config(size)
    options = {"router_layer": 2, "branch_rank": 8, "branch_projections": [*FFN_PROJECTIONS, *ATTENTION_PROJECTIONS]}
    found = estimate_memory(save_config(config, tmp_path), **options)["models"]
    assert list(found) == ["dense", "ffn", "lora"]
    dense = on_meta(Qwen2_5_VLForConditionalGeneration, config)
    assert found["dense"]["parameters"]["stored"] == dense.num_parameters()
    if size in BILLIONS:
        assert found["dense"]["parameters"]["stored"] / 1e9 == pytest.approx(BILLIONS[size], abs=0.01)
    for kind, own in {"ffn": {"router_layer": 2}, "lora": options}.items():
        hybrid = on_meta(MetisHomeForConditionalGeneration, hybrid_config(config, branch_kind=kind, **own))
        parameters = found[kind]["parameters"]
        assert parameters["stored"] == hybrid.num_parameters()
        assert parameters["router"] == sum(p.numel() for p in hybrid.model.language_model.router.parameters())
        one = on_meta(MetisHomeForConditionalGeneration, with_one_branch(hybrid.config))
        assert parameters["active"] == one.num_parameters()
        assert parameters["branch"] == hybrid.num_parameters() - one.num_parameters()


@pytest.mark.parametrize("kind", KINDS)
def test_two_branch_model(tmp_path, kind):
    model = tiny_hybrid(**KINDS[kind])
    model.save_pretrained(tmp_path)
    for source in (tmp_path, tmp_path / "config.json"):
        found = estimate_memory(source)["models"]
        assert list(found) == ["dense", kind.partition("_")[0]]
        assert found["dense"]["parameters"]["stored"] == tiny_dense().num_parameters()
        assert list(found.values())[1]["parameters"]["stored"] == model.num_parameters()


def test_model_with_one_branch(tmp_path):
    model = MetisHomeForConditionalGeneration(with_one_branch(tiny_hybrid().config))
    found = estimate_memory(save_config(model.config, tmp_path))["models"]["ffn"]
    assert found["parameters"]["stored"] == found["parameters"]["active"] == model.num_parameters()
    assert found["inference_bytes"]["weights"] == found["inference_bytes"]["one_branch"]


@pytest.mark.parametrize("kind", ["ffn", "lora"])
def test_bytes_of_weights_are_those_of_a_saved_model(tmp_path, kind):
    model = upcycle(tiny_dense().bfloat16(), branch_kind=kind)
    model.save_pretrained(tmp_path)
    found = estimate_memory(tmp_path)["models"][kind]
    saved = sum(tensor.nbytes for tensor in load_file(tmp_path / "model.safetensors").values())
    assert saved == found["checkpoint_bytes"] == found["inference_bytes"]["weights"]
    one = MetisHomeForConditionalGeneration.from_pretrained(tmp_path, only_branch="non_thinking")
    assert sum(tensor.nbytes for tensor in one.parameters()) == found["inference_bytes"]["one_branch"]


def test_kv_cache_is_that_of_a_real_model(tmp_path):
    model = tiny_hybrid().bfloat16()
    model.config.save_pretrained(tmp_path)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=torch.ones((3, 7), dtype=torch.long), past_key_values=cache, thinking=True)
    real = sum(tensor.nbytes for layer in cache.layers for tensor in (layer.keys, layer.values))
    models = estimate_memory(tmp_path, tokens=7, batch=3)["models"]
    assert models["ffn"]["inference_bytes"]["kv_cache"] == models["dense"]["inference_bytes"]["kv_cache"] == real


@pytest.mark.parametrize("kind", ["ffn", "lora"])
@pytest.mark.parametrize("run", ["full", "one_branch", "low_rank"])
def test_training_bytes_are_those_of_a_step(tmp_path, kind, run):
    model = tiny_hybrid(branch_kind=kind)
    model.config.save_pretrained(tmp_path)
    report = estimate_memory(tmp_path, gpus=3)
    if run == "low_rank" and kind == "ffn":
        from peft import LoraConfig, get_peft_model

        from hf_metis_home import branch_target_modules

        lora = LoraConfig(r=report["low_rank"], target_modules=branch_target_modules("both"))
        model = get_peft_model(model, lora)
    trained = {"full": ("",), "one_branch": (".thinking.",), "low_rank": (".lora_", ".router.")}[run]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(part in name for part in trained))
        if not parameter.requires_grad and ".router." not in name:
            parameter.data = parameter.data.bfloat16()
    parameters = list(model.parameters())
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer = torch.optim.AdamW([parameter for parameter in parameters if parameter.requires_grad])
    optimizer.step()
    states = [value for state in optimizer.state.values() for name, value in state.items() if name != "step"]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    found = report["models"][kind]["training_bytes"][run]
    assert found["trained"] == sum(gradient.numel() for gradient in gradients)
    assert found["one_gpu"] == sum(tensor.nbytes for tensor in [*parameters, *gradients, *states])
    assert found["one_gpu"] <= 3 * found["per_gpu"] < found["one_gpu"] + 3


# Bad input


@pytest.mark.parametrize("name", ["gpus", "tokens", "batch"])
def test_sizes(tmp_path, name):
    with pytest.raises(ValueError, match=f"`{name}` is 0, but must be at least 1"):
        estimate_memory(tmp_path, **{name: 0})


def test_sources(tmp_path):
    with pytest.raises(FileNotFoundError, match="`model_name_or_path` is .*nowhere', but no configuration"):
        estimate_memory(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ValueError, match="of model_type 'llama', not one of"):
        estimate_memory(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(FileNotFoundError, match="not a valid JSON file"):
        estimate_memory(tmp_path)


def test_options_of_a_two_branch_model(tmp_path):
    save_config(tiny_hybrid().config, tmp_path)
    with pytest.raises(ValueError, match=r"a two-branch model. Drop \['branch_rank'\]"):
        estimate_memory(tmp_path, branch_rank=4, branch_kind=None)


def test_router_alone(tmp_path):
    config = tiny_hybrid().config
    config.router_layer = config.text_config.num_hidden_layers
    with pytest.raises(ValueError, match="`model_name_or_path` is .* a router export"):
        estimate_memory(save_config(config, tmp_path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"branch_kind": "ffn", "branch_rank": 4}, r"\['branch_rank'\] have no effect with `branch_kind='ffn'`"),
        ({"branch_kind": "moe"}, "`branch_kind` is 'moe'"),
        ({"branch_rank": 0}, "`branch_rank` is 0"),
        ({"router_layer": 3}, "`router_layer` is 3"),
        ({"router_depth": 1}, r"Unknown options \['router_depth'\]"),
    ],
)
def test_options(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        estimate_memory(save_config(tiny_dense().config, tmp_path), **options)


def test_one_kind(tmp_path):
    save_config(tiny_dense().config, tmp_path)
    found = estimate_memory(tmp_path, branch_kind="lora", branch_rank=3)
    assert list(found["models"]) == ["dense", "lora"] and found["low_rank"] == 3
    assert estimate_memory(tmp_path, branch_rank=3)["low_rank"] == 3
