"""Upcycling in memory and from checkpoint folders: nothing lost, nothing shared, every wrong source named."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor, Qwen2_5_VLForConditionalGeneration

from hf_metis_home.conversion import upcycle, upcycle_checkpoint
from hf_metis_home.modeling import MetisHomeForConditionalGeneration

from ..fixtures_text import tiny_word_level
from ..modeling.tiny import batch, prompt_ids, tiny_dense


PROMPTS = [prompt_ids(0), prompt_ids(1, length=5, images=2), prompt_ids(2, length=11, images=0)]


@pytest.fixture(scope="module")
def dense_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense")
    model, processor = tiny_word_level()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def rewrite(source, target, change):
    """A copy of a checkpoint whose tensors went through `change`."""
    shutil.copytree(source, target)
    save_file(change(load_file(source / "model.safetensors")), target / "model.safetensors", {"format": "pt"})
    return target


def to_native(tensors):
    def rename(name):
        if name.startswith("visual."):
            return f"model.{name}"
        return f"model.language_model.{name.removeprefix('model.')}" if name.startswith("model.") else name

    return {rename(name): tensor for name, tensor in tensors.items()}


def text_inputs(length=9):
    return {"input_ids": torch.arange(4, 4 + length)[None]}


@pytest.mark.parametrize("layout", ["legacy", "native"])
@pytest.mark.parametrize("router_layer", [0, 1])
def test_folder_equals_dense(tmp_path, dense_folder, layout, router_layer):
    names = load_file(dense_folder / "model.safetensors").keys()
    assert any(name.startswith("visual.") for name in names), "save_pretrained no longer writes the legacy layout"
    source = dense_folder if layout == "legacy" else rewrite(dense_folder, tmp_path / "native", to_native)
    output = upcycle_checkpoint(source, tmp_path / "hybrid", router_layer=router_layer)
    assert output == tmp_path / "hybrid"
    dense = Qwen2_5_VLForConditionalGeneration.from_pretrained(dense_folder).eval()
    hybrid = AutoModelForImageTextToText.from_pretrained(output).eval()
    assert hybrid.config.router_layer == router_layer
    with torch.no_grad():
        expected = dense(**text_inputs()).logits
        for thinking in (True, False, None):
            assert torch.equal(hybrid(**text_inputs(), thinking=thinking).logits, expected)


def test_folder_is_complete(tmp_path, dense_folder):
    output = upcycle_checkpoint(dense_folder, tmp_path / "hybrid", seed=3)
    names = {path.name for path in output.iterdir()}
    assert {
        "README.md", "chat_template.jinja", "config.json", "configuration_metis_home.py", "generation_config.json",
        "model.safetensors", "modeling_metis_home.py", "tokenizer.json", "upcycle.json",
    } <= names  # fmt: skip
    record = json.loads((output / "upcycle.json").read_text())
    assert record["model_name_or_path"] == str(dense_folder) and record["seed"] == 3
    assert not list(tmp_path.glob(".*partial"))
    config = json.loads((output / "config.json").read_text())
    tokenizer = AutoProcessor.from_pretrained(output).tokenizer
    assert tokenizer.decode(config["assistant_header_ids"]) == "<|im_start|>assistant\n"
    assert tokenizer.decode([config["end_of_turn_id"]]) == "<|im_end|>"
    assert "enable_thinking" in (output / "chat_template.jinja").read_text()


def test_sharded_source(tmp_path, dense_folder):
    model, processor = tiny_word_level()
    model.save_pretrained(tmp_path / "sharded", max_shard_size="50KB")
    processor.save_pretrained(tmp_path / "sharded")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    one = load_file(upcycle_checkpoint(tmp_path / "sharded", tmp_path / "a") / "model.safetensors")
    two = load_file(upcycle_checkpoint(dense_folder, tmp_path / "b") / "model.safetensors")
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_dtype(tmp_path, dense_folder):
    tensors = load_file(upcycle_checkpoint(dense_folder, tmp_path / "a", dtype="bfloat16") / "model.safetensors")
    for name, tensor in tensors.items():
        assert tensor.dtype == (torch.float32 if ".router." in name else torch.bfloat16), name


def test_two_sources():
    base, one, two = tiny_dense(0), tiny_dense(1), tiny_dense(2)
    hybrid = upcycle(base, thinking_model=one, non_thinking_model=two, router_layer=1)
    state, sources = hybrid.state_dict(), {"thinking": one.state_dict(), "non_thinking": two.state_dict()}
    for name, tensor in base.state_dict().items():
        if ".mlp." in name and ".language_model.layers." in name and ".layers.0." not in name:
            for branch, source in sources.items():
                assert torch.equal(state[name.replace(".mlp.", f".mlp.{branch}.")], source[name])
        else:
            assert torch.equal(state[name], tensor)


def test_one_branch_from_its_own_source():
    base, one = tiny_dense(0), tiny_dense(1)
    state = upcycle(base, non_thinking_model=one).state_dict()
    name = "model.language_model.layers.2.mlp.{}up_proj.weight"
    assert torch.equal(state[name.format("thinking.")], base.state_dict()[name.format("")])
    assert torch.equal(state[name.format("non_thinking.")], one.state_dict()[name.format("")])


def test_nothing_is_shared_with_the_source():
    dense = tiny_dense()
    before = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    hybrid = upcycle(dense)
    pointers = [parameter.data_ptr() for parameter in hybrid.parameters()]
    assert len(pointers) == len(set(pointers))
    with torch.no_grad():
        for parameter in hybrid.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in dense.state_dict().items())


def test_seed_of_the_router():
    def router(seed):
        torch.manual_seed(seed * 100)  # must not matter
        return upcycle(tiny_dense(), seed=seed).model.language_model.router.up_proj.weight

    assert torch.equal(router(1), router(1)) and not torch.equal(router(1), router(2))


def test_global_random_state_is_left_alone():
    dense = tiny_dense()
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    upcycle(dense)
    assert torch.equal(torch.rand(1), expected)


def test_tied_head():
    torch.manual_seed(0)
    config = tiny_dense().config
    config.tie_word_embeddings = True
    hybrid = upcycle(Qwen2_5_VLForConditionalGeneration(config))
    assert hybrid.lm_head.weight is hybrid.get_input_embeddings().weight


def test_result_generates():
    hybrid = upcycle(tiny_dense())
    assert isinstance(hybrid, MetisHomeForConditionalGeneration)
    assert hybrid.generate(**batch(PROMPTS), max_new_tokens=2).shape[0] == 3


# Bad input


def drop(tensors):
    return {name: tensor for name, tensor in tensors.items() if "layers.0.mlp.up_proj" not in name}


def add(tensors):
    return {**tensors, "model.layers.0.mlp.gate.weight": torch.zeros(1)}


def reshape(tensors):
    return {name: t[:-1].contiguous() if "layers.0.mlp.up_proj" in name else t for name, t in tensors.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, "1 tensors are missing: model.language_model.layers.0.mlp.up_proj.weight"),
        (add, "1 tensors are not part of the model: model.language_model.layers.0.mlp.gate.weight"),
        (
            reshape,
            "1 tensors have the wrong shape: model.language_model.layers.0.mlp.up_proj.weight",
        ),
    ],
)
def test_incomplete_checkpoint(tmp_path, dense_folder, change, message):
    source = rewrite(dense_folder, tmp_path / "source", change)
    with pytest.raises(ValueError, match="`model_name_or_path` is not a complete dense qwen2_5_vl checkpoint") as error:
        upcycle_checkpoint(source, tmp_path / "out")
    assert message in str(error.value)
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*partial"))


def test_other_architecture(tmp_path, dense_folder):
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama/config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="`thinking_model` is .*, of model_type 'llama', not"):
        upcycle_checkpoint(dense_folder, tmp_path / "out", thinking_model=tmp_path / "llama")


def test_hybrid_is_no_source(tmp_path, dense_folder):
    output = upcycle_checkpoint(dense_folder, tmp_path / "hybrid")
    with pytest.raises(ValueError, match="It is a two-branch model"):
        upcycle_checkpoint(output, tmp_path / "again")
    with pytest.raises(ValueError, match="`dense_model` is a MetisHomeForConditionalGeneration"):
        upcycle(upcycle(tiny_dense()))


def test_sources_that_disagree():
    with pytest.raises(ValueError, match=r"`thinking_model` and the dense model disagree on .*: \(64, 32\) against"):
        upcycle(tiny_dense(), thinking_model=tiny_dense(intermediate_size=64))
    with pytest.raises(ValueError, match="`non_thinking_model` and the dense model disagree on .*: absent against"):
        upcycle(tiny_dense(), non_thinking_model=tiny_dense(num_hidden_layers=2))


def test_sources_with_other_constants():
    with pytest.raises(ValueError, match="`thinking_model` has rms_norm_eps=0.001 in its text_config"):
        upcycle(tiny_dense(), thinking_model=tiny_dense(rms_norm_eps=1e-3))
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
    with pytest.raises(ValueError, match="`non_thinking_model` has rope_parameters="):
        upcycle(tiny_dense(), non_thinking_model=tiny_dense(rope_parameters=rope))


def test_missing_folder(tmp_path, dense_folder):
    with pytest.raises(FileNotFoundError, match="`model_name_or_path` is .*not a local folder and could not"):
        upcycle_checkpoint(tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="a folder without config.json"):
        upcycle_checkpoint(tmp_path, tmp_path / "out")


def test_pickled_weights_are_not_read(tmp_path, dense_folder):
    shutil.copytree(dense_folder, tmp_path / "pickle")
    (tmp_path / "pickle/model.safetensors").rename(tmp_path / "pickle/pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="Only safetensors are read"):
        upcycle_checkpoint(tmp_path / "pickle", tmp_path / "out")


def test_missing_shard(tmp_path, dense_folder):
    model, _ = tiny_word_level()
    model.save_pretrained(tmp_path / "sharded", max_shard_size="50KB")
    sorted((tmp_path / "sharded").glob("*.safetensors"))[0].unlink()
    with pytest.raises(FileNotFoundError, match="with missing shards: .*00001"):
        upcycle_checkpoint(tmp_path / "sharded", tmp_path / "out")


def test_existing_output(tmp_path, dense_folder):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="`output_dir` is .*which is not empty"):
        upcycle_checkpoint(dense_folder, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"router_layer": 99}, "`router_layer` is 99"),
        ({"router_pooling": "max"}, "`router_pooling` is 'max'"),
        ({"dtype": "int8"}, "`dtype` is 'int8'"),
        ({"router_depth": 1}, r"Unknown options \['router_depth'\]"),
    ],
)
def test_options(tmp_path, dense_folder, options, message):
    with pytest.raises(ValueError, match=message):
        upcycle_checkpoint(dense_folder, tmp_path / "out", **options)


def test_processor_loads_from_the_folder(tmp_path, dense_folder):
    output = upcycle_checkpoint(dense_folder, tmp_path / "hybrid")
    source, target = AutoProcessor.from_pretrained(dense_folder), AutoProcessor.from_pretrained(output)
    messages = [{"role": "user", "content": "?"}]
    expected = source.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    for unset in ({}, {"enable_thinking": None}):
        assert target.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **unset) == expected
