"""Saved and loaded weights are the same weights, under the names the documentation gives."""

import json

import pytest
import torch

from hf_metis_home.modeling import MetisHomeConfig, MetisHomeForConditionalGeneration
from hf_metis_home.modeling.configuration_metis_home import ROUTER_POOLINGS

from .tiny import TOKEN_IDS, VISION_CONFIG, batch, prompt_ids, text_config, tiny_hybrid


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shards", ["10GB", "20KB"])
def test_round_trip(tmp_path, tied, shards):
    torch.manual_seed(0)
    config = MetisHomeConfig(
        text_config=text_config(), router_layer=1, vision_config=VISION_CONFIG, tie_word_embeddings=tied, **TOKEN_IDS
    )
    model = MetisHomeForConditionalGeneration(config).eval()
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    model.save_pretrained(tmp_path, max_shard_size=shards)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shards == "20KB")
    loaded, info = MetisHomeForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    inputs = batch([prompt_ids(0)])
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, loaded(**inputs).logits)


def test_names_of_weights(tmp_path):
    from safetensors import safe_open

    tiny_hybrid(router_layer=1).save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        names = set(file.keys())
    projections = [f"{p}_proj.weight" for p in ("gate", "up", "down")]
    shared = {f"model.language_model.layers.0.mlp.{p}" for p in projections}
    branches = {
        f"model.language_model.layers.{layer}.mlp.{branch}.{p}"
        for layer in (1, 2)
        for branch in ("thinking", "non_thinking")
        for p in projections
    }
    assert {name for name in names if ".language_model." in name and ".mlp." in name} == shared | branches
    assert {name.rsplit(".", 2)[1] for name in names if ".router." in name} == {"query", "up_proj", "score"}
    assert any(name.startswith("model.visual.") for name in names)


@pytest.mark.parametrize("pooling", [None, *ROUTER_POOLINGS])
def test_a_folder_names_its_pooling(tmp_path, pooling):
    """The default too, so that folders mean the same when another becomes the default."""
    model = tiny_hybrid(**({} if pooling is None else {"router_pooling": pooling}))
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())["router_pooling"]
    assert saved == (pooling or "attention")
    loaded = MetisHomeForConditionalGeneration.from_pretrained(tmp_path)
    inputs = batch([prompt_ids(0)])
    torch.testing.assert_close(loaded.route(**inputs).logits, model.route(**inputs).logits, rtol=0, atol=1e-5)


def test_shapes_of_the_7b_model():
    config = MetisHomeConfig(
        text_config={
            "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
            "num_key_value_heads": 4, "vocab_size": 152064,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        },
        router_layer=0,
        vision_config={"hidden_size": 1280, "out_hidden_size": 3584},
    )  # fmt: skip
    with torch.device("meta"):
        model = MetisHomeForConditionalGeneration(config)
    sizes = {"branch": 0, "router": 0, "other": 0}
    for name, parameter in model.named_parameters():
        kind = "branch" if ".mlp.thinking." in name else "router" if ".router." in name else "other"
        sizes[kind] += parameter.numel()
    assert sizes["branch"] == 28 * 3 * 3584 * 18944
    assert sizes["router"] == 4 * 3584 + 4 * 3584 * 256 + 256 + 2 * 256 + 2
