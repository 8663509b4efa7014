"""Quantised weights leave the router alone, and with it the route of every query that is not close to the threshold."""

import pytest
import torch
from torch import nn
from transformers import BitsAndBytesConfig, TorchAoConfig

from hf_metis_home.modeling import MetisHomeConfig, MetisHomeForConditionalGeneration, MetisHomeModel

from .tiny import TOKEN_IDS, VISION_CONFIG, batch, prompt_ids, text_config


PROMPTS = [prompt_ids(seed, length=5 + seed % 4, images=seed % 3) for seed in range(12)]
MARGIN = 0.1  # distance of a probability from the threshold beyond which a route has to survive


def torchao_int8(skip=None):
    pytest.importorskip("torchao", reason="needs torchao, which no extra installs: pip install torchao")
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=skip)


def torchao_int4(skip=None):
    pytest.importorskip("torchao", reason="needs torchao, which no extra installs: pip install torchao")
    from torchao.quantization import IntxWeightOnlyConfig, MappingType, PerGroup

    # `Int4WeightOnlyConfig` has no kernels for a CPU; this rounds in the same way and computes on any device.
    weights = {"weight_dtype": torch.int4, "granularity": PerGroup(16), "mapping_type": MappingType.ASYMMETRIC}
    return TorchAoConfig(IntxWeightOnlyConfig(**weights), modules_to_not_convert=skip)


def bitsandbytes_int8(skip=None):
    pytest.importorskip("bitsandbytes", reason="needs bitsandbytes, which no extra installs: pip install bitsandbytes")
    return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skip)


def bitsandbytes_nf4(skip=None):
    pytest.importorskip("bitsandbytes", reason="needs bitsandbytes, which no extra installs: pip install bitsandbytes")
    # The vision tower of the tiny model is too narrow for these kernels.
    skip = ["lm_head", "model.visual", "visual"] if skip is None else skip
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=skip,
    )


METHODS = [torchao_int8, torchao_int4, bitsandbytes_int8, bitsandbytes_nf4]
OWN_SKIP = ["lm_head", "visual", "model.visual"]


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    # The 4-bit kernels of a CPU want multiples of 64.
    text = text_config(hidden_size=64, intermediate_size=128, num_attention_heads=4, num_key_value_heads=4)
    vision = {**VISION_CONFIG, "out_hidden_size": text["hidden_size"]}
    config = MetisHomeConfig(text_config=text, router_hidden_size=8, vision_config=vision, **TOKEN_IDS)
    model = MetisHomeForConditionalGeneration(config).eval()
    router = model.model.language_model.router
    # An opinion, which the score starts without, and queries about as sharp as upcycling makes them: sharper ones pass
    # on more of what rounding does to these random weights.
    for layer, std in ((router.up_proj, 0.2), (router.score, 0.5), (router.query, 0.05)):
        nn.init.normal_(layer.weight, std=std)
    model.save_pretrained(tmp_path / "saved")
    return model, tmp_path / "saved"


def is_quantised(linear: nn.Linear) -> bool:
    return type(linear.weight) is not nn.Parameter


def linears(model) -> dict[str, nn.Linear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


@pytest.mark.parametrize(
    ("cls", "skip"),
    [
        (MetisHomeForConditionalGeneration, None),
        (MetisHomeModel, None),
        (MetisHomeForConditionalGeneration, OWN_SKIP),
        pytest.param(MetisHomeModel, OWN_SKIP, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_the_router_is_skipped_and_the_branches_are_not(saved, method, cls, skip):
    model, folder = saved
    config = method(skip)
    found = linears(cls.from_pretrained(folder, dtype=torch.bfloat16, quantization_config=config, device_map="cpu"))
    router = {name: module for name, module in found.items() if "router." in name}
    assert {name.rsplit(".", 1)[1] for name in router} == {"query", "up_proj", "score"}
    for name, module in router.items():
        assert not is_quantised(module) and module.weight.dtype == torch.float32, name
        original = model.get_submodule(name if name.startswith("model.") else f"model.{name}")
        assert type(module) is type(original) and torch.equal(module.weight, original.weight), name
    branches = {name: is_quantised(module) for name, module in found.items() if ".mlp." in name and ".layers." in name}
    assert len(branches) == 3 * (1 + 2 * 2) and all(branches.values())


@pytest.mark.parametrize("method", METHODS)
def test_routes_survive_and_answers_come(saved, method):
    model, folder = saved
    loaded = MetisHomeForConditionalGeneration.from_pretrained(
        folder, dtype=torch.bfloat16, quantization_config=method(), device_map="cpu"
    )
    inputs = batch(PROMPTS)
    expected = model.route(**inputs)
    # A tiny router's probabilities lie on one side; half of the queries are on either side of their median.
    threshold = expected.thinking_probability.median().item()
    clear = (expected.thinking_probability - threshold).abs() > MARGIN
    found = loaded.route(**inputs, thinking_threshold=threshold)
    wanted = expected.thinking_probability >= threshold
    assert wanted[clear].any() and not wanted[clear].all()
    assert torch.equal(found.thinking.bool()[clear], wanted[clear])
    assert found.logits.dtype == torch.float32 and not torch.equal(found.logits, expected.logits)

    width = inputs["input_ids"].shape[1]
    for choice in ({"thinking": True}, {"thinking": False}, {"thinking_threshold": threshold}):
        with torch.no_grad():
            ours, theirs = loaded(**inputs, **choice), model(**inputs, **choice)
        agreement = torch.cosine_similarity(ours.logits[:, -1].float(), theirs.logits[:, -1], dim=-1)
        assert agreement[clear].min() > 0.7  # the two branches agree by 0.4 on average
        answer = loaded.generate(**inputs, **choice, max_new_tokens=4, return_dict_in_generate=True)
        assert answer.sequences.shape[1] > width
        forced = choice.get("thinking")
        assert torch.equal(answer.thinking, found.thinking if forced is None else torch.full((12,), int(forced)))


@pytest.mark.parametrize("method", METHODS)
def test_saves_and_loads_quantised(saved, method, tmp_path):
    quantised = MetisHomeForConditionalGeneration.from_pretrained(
        saved[1], dtype=torch.bfloat16, quantization_config=method(), device_map="cpu"
    )
    quantised.save_pretrained(tmp_path / "quantised")
    loaded = MetisHomeForConditionalGeneration.from_pretrained(tmp_path / "quantised", device_map="cpu")
    kinds = [{name: is_quantised(module) for name, module in linears(model).items()} for model in (quantised, loaded)]
    assert kinds[0] == kinds[1]
    inputs = batch(PROMPTS)
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, quantised(**inputs).logits)
    assert torch.equal(loaded.route(**inputs).logits, quantised.route(**inputs).logits)


@pytest.mark.parametrize("branch", ["thinking", pytest.param("non_thinking", marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", METHODS)
def test_one_branch_alone_is_what_it_is_in_the_whole(saved, method, branch):
    options = {"dtype": torch.bfloat16, "device_map": "cpu"}
    whole, one = (
        MetisHomeForConditionalGeneration.from_pretrained(
            saved[1], quantization_config=method(), only_branch=only, **options
        )
        for only in (None, branch)
    )
    kinds = [{name: is_quantised(module) for name, module in linears(model).items()} for model in (whole, one)]
    assert kinds[1].items() <= kinds[0].items()
    assert {name.split(".mlp.")[1].split(".")[0] for name in kinds[0].keys() - kinds[1].keys()} == {
        "non_thinking" if branch == "thinking" else "thinking"
    }
    inputs = batch(PROMPTS)
    with torch.no_grad():
        assert torch.equal(one(**inputs).logits, whole(**inputs, thinking=branch == "thinking").logits)
    assert torch.equal(one.route(**inputs).logits, whole.route(**inputs).logits)
