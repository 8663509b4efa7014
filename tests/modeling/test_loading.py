"""A saved model is the same model in any dtype, from shards, tied or not, offloaded, or on the meta device."""

import re

import pytest
import torch
from accelerate import infer_auto_device_map
from torch import nn
from transformers import Qwen2_5_VLForConditionalGeneration

from hf_metis_home.modeling import MetisHomeConfig, MetisHomeForConditionalGeneration, MetisHomeModel
from hf_metis_home.modeling.configuration_metis_home import ATTENTION_PROJECTIONS as ATTENTION
from hf_metis_home.modeling.configuration_metis_home import FFN_PROJECTIONS as FFN
from hf_metis_home.modeling.gated_metis_home import MetisHomeGatedConfig, MetisHomeGatedForConditionalGeneration

from .tiny import KINDS, TOKEN_IDS, VISION_CONFIG, batch, prompt_ids, text_config, tiny_hybrid


PROMPTS = [prompt_ids(0), prompt_ids(1, length=5, images=2), prompt_ids(2, images=0)]
REAL_SHAPES = {  # hidden size, FFN size, layers, heads, key-value heads, vocabulary, tied head
    "3B": (2048, 11008, 36, 16, 2, 151936, True),
    "7B": (3584, 18944, 28, 28, 4, 152064, False),
}
VISION_HIDDEN, VISION_FFN, VISION_DEPTH = 1280, 3420, 32


def real_config(size: str, router_layer: int):
    hidden, ffn, layers, heads, kv_heads, vocabulary, tied = REAL_SHAPES[size]
    text = {
        "hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "vocab_size": vocabulary,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    }  # fmt: skip
    vision = {"hidden_size": VISION_HIDDEN, "intermediate_size": VISION_FFN, "depth": VISION_DEPTH}
    vision["out_hidden_size"] = hidden
    return MetisHomeConfig(text_config=text, router_layer=router_layer, vision_config=vision, tie_word_embeddings=tied)


def dense_count(size: str) -> int:
    hidden, ffn, layers, heads, kv_heads, vocabulary, tied = REAL_SHAPES[size]
    kv = hidden // heads * kv_heads
    attention = 2 * hidden * hidden + hidden + 2 * (hidden * kv + kv)  # biases on q, k, v
    text = layers * (attention + 3 * hidden * ffn + 2 * hidden) + hidden + vocabulary * hidden * (1 if tied else 2)
    width, merged = VISION_HIDDEN, 4 * VISION_HIDDEN
    block = 4 * width * width + 4 * width + 3 * width * VISION_FFN + 2 * VISION_FFN + width + 2 * width
    merger = width + merged * merged + merged + merged * hidden + hidden
    return text + VISION_DEPTH * block + 3 * 2 * 14 * 14 * width + merger


@pytest.fixture
def saved(tmp_path):
    model = tiny_hybrid()
    model.save_pretrained(tmp_path / "saved", max_shard_size="20KB")
    return model, tmp_path / "saved"


def generate(model, thinking):
    return model.generate(**batch(PROMPTS), thinking=thinking, max_new_tokens=5, do_sample=False)


@pytest.mark.parametrize("cls", [MetisHomeForConditionalGeneration, MetisHomeModel])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtype_on_load(saved, dtype, cls):
    model, folder = saved
    expected = (model if cls is MetisHomeForConditionalGeneration else model.model).state_dict()
    found = cls.from_pretrained(folder, dtype=dtype).state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        wanted = expected[name] if "router." in name else expected[name].to(dtype)
        assert tensor.dtype == wanted.dtype and torch.equal(tensor, wanted), name


def test_saved_in_bf16_comes_back_in_bf16(saved, tmp_path):
    half = MetisHomeForConditionalGeneration.from_pretrained(saved[1], dtype=torch.bfloat16)
    half.save_pretrained(tmp_path / "half")
    again = MetisHomeForConditionalGeneration.from_pretrained(tmp_path / "half").state_dict()
    for name, tensor in half.state_dict().items():
        assert again[name].dtype == tensor.dtype and torch.equal(again[name], tensor), name


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_offloaded_to_cpu_and_disk(tmp_path, tied, share):
    model = tiny_hybrid(tie_word_embeddings=tied)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    offloaded = MetisHomeForConditionalGeneration.from_pretrained(
        tmp_path,
        device_map="auto",
        max_memory={"cpu": int(share * size), "disk": 10 * size},
        offload_folder=tmp_path / "offload",
    )
    assert set(offloaded.hf_device_map.values()) == {"cpu", "disk"}
    assert not [name for name in offloaded.hf_device_map if re.search(r"(layers|blocks)\.\d+\.", name)]
    for thinking in (True, False, [True, False, None], None):
        assert torch.equal(generate(offloaded, thinking), generate(model, thinking))


def test_nothing_is_allocated_before_the_weights_are_read(saved):
    devices = set()

    class Watched(MetisHomeForConditionalGeneration):
        def __init__(self, config):
            super().__init__(config)
            devices.update(parameter.device.type for parameter in self.parameters())

    loaded = Watched.from_pretrained(saved[1])
    assert devices == {"meta"}
    assert {tensor.device.type for tensor in [*loaded.parameters(), *loaded.buffers()]} == {"cpu"}
    assert torch.equal(generate(loaded, None), generate(saved[0], None))


@pytest.mark.parametrize("router_layer", [0, 1])
@pytest.mark.parametrize("size", REAL_SHAPES)
def test_parameter_counts_of_the_real_models(size, router_layer):
    hidden, ffn, layers, *_ = REAL_SHAPES[size]
    config = real_config(size, router_layer)
    with torch.device("meta"):
        hybrid = MetisHomeForConditionalGeneration(config)
        dense = Qwen2_5_VLForConditionalGeneration(config)
    hybrid.tie_weights()
    dense.tie_weights()
    assert dense.num_parameters() == dense_count(size)
    queries, width = 4, config.router_hidden_size
    router = queries * hidden + queries * hidden * width + width + 2 * width + 2
    assert hybrid.num_parameters() == dense_count(size) + (layers - router_layer) * 3 * hidden * ffn + router


def test_a_real_model_is_split_between_layers():
    with torch.device("meta"):
        model = MetisHomeForConditionalGeneration(real_config("7B", 1)).to(torch.bfloat16)
    layer = 2 * sum(parameter.numel() for parameter in model.model.language_model.layers[1].parameters())
    limits = {"cpu": 3 * 2**30 + 5 * layer + layer // 2, "disk": 2**40}
    places = infer_auto_device_map(model, limits, no_split_module_classes=model._no_split_modules)
    assert set(places.values()) == {"cpu", "disk"}
    assert {f"model.language_model.layers.{index}" for index in range(28)} <= places.keys()


@pytest.mark.parametrize("cls", [MetisHomeForConditionalGeneration, MetisHomeModel])
def test_modules_that_are_not_split_exist(cls):
    model = cls(tiny_hybrid().config)
    base = model.model if cls is MetisHomeForConditionalGeneration else model
    blocks = [*base.language_model.layers, *base.visual.blocks]
    assert {type(block).__name__ for block in blocks} == set(model._no_split_modules)


SPLIT = {
    **KINDS,
    "lora_all": {"router_layer": 1, "branch_kind": "lora", "branch_projections": [*FFN, *ATTENTION]},
    "lora_one": {"router_layer": 2, "branch_kind": "lora", "branch_projections": ["o_proj"]},
    "thinking_only": {"router_layer": 0, "only_branch": "thinking"},
    "lora_non_thinking_only": {"branch_kind": "lora", "only_branch": "non_thinking"},
    "router_alone": {"router_layer": 3},
    "router_without_layers": {"router_layer": 0, "num_hidden_layers": 0},
    "gated": {"router_layer": 1},
    "gated_everywhere": {"router_layer": 0},
}


def model_to_split(name):
    kwargs = dict(SPLIT[name])
    if name.startswith("gated"):
        config = MetisHomeGatedConfig(text_config=text_config(), vision_config=VISION_CONFIG, **TOKEN_IDS, **kwargs)
        return MetisHomeGatedForConditionalGeneration(config)
    only_branch = kwargs.pop("only_branch", None)
    config = tiny_hybrid(**kwargs).config
    config.only_branch = only_branch
    return MetisHomeForConditionalGeneration(config)


@pytest.mark.parametrize("name", SPLIT)
def test_tensor_parallel_plan_names_every_linear_once(name):
    model = model_to_split(name)
    plan = {pattern: kind for pattern, kind in model._tp_plan.items() if ".layers." in pattern}
    regexes = {re.compile(re.escape(pattern).replace(r"\*", r"\d+")): kind for pattern, kind in plan.items()}
    unused = set(regexes)
    for name, module in model.named_modules():
        found = [kind for regex, kind in regexes.items() if regex.fullmatch(name)]
        unused -= {regex for regex in regexes if regex.fullmatch(name)}
        rows = name.removesuffix(".lora_A").removesuffix(".lora_B").endswith(("o_proj", "down_proj"))
        # Of a low-rank change, the half that meets what is not split stays whole; so does the router, whose two scores
        # every rank needs.
        whole = name.endswith(".lora_B" if rows else ".lora_A") or name.endswith(".branch_gate")
        if not isinstance(module, nn.Linear) or ".layers." not in name or whole:
            assert found == [], name
        else:
            assert found == ["rowwise" if rows else "colwise"], name
    assert unused == set()


def test_a_real_model_routes_and_computes_on_the_meta_device():
    with torch.device("meta"):
        model = MetisHomeForConditionalGeneration(real_config("7B", 1))
    inputs = {"input_ids": torch.zeros((2, 16), dtype=torch.long, device="meta")}
    with torch.no_grad():
        outputs = model.model(**inputs, thinking=True, prompt_mask=torch.ones((2, 16), device="meta"))
    assert outputs.last_hidden_state.shape == (2, 16, 3584) and outputs.branch_logits.shape == (2, 2)
