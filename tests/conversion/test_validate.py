"""Whole folders pass; every single defect fails its own check, and no other."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_metis_home.conversion import (
    export_checkpoint,
    save_hub_folder,
    upcycle,
    upcycle_checkpoint,
    validate_checkpoint,
)
from hf_metis_home.conversion.checkpoint import INDEX
from hf_metis_home.modeling import MetisHomeForConditionalGeneration

from ..fixtures_text import byte_level_processor, tiny_dense, tiny_word_level


KINDS = {"ffn": {"branch_kind": "ffn"}, "lora": {"branch_kind": "lora", "branch_rank": 2}}
UP = "model.language_model.layers.1.mlp.thinking.up_proj.weight"
NORM = "model.language_model.norm.weight"
HEAD, EMBEDDINGS = "lm_head.weight", "model.language_model.embed_tokens.weight"


def save(folder, model, processor):
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return save(tmp_path_factory.mktemp("source") / "dense", *tiny_word_level())


@pytest.fixture(scope="module", params=KINDS)
def whole(request, dense, tmp_path_factory):
    return upcycle_checkpoint(dense, tmp_path_factory.mktemp("whole") / "hybrid", **KINDS[request.param])


@pytest.fixture
def folder(dense, tmp_path):
    return upcycle_checkpoint(dense, tmp_path / "hybrid")


@pytest.fixture
def sharded(folder):
    model = MetisHomeForConditionalGeneration.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="50KB")
    return folder


def rewrite(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def edit_config(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def results(folder, **kwargs):
    return {check.name: check for check in validate_checkpoint(folder, **kwargs)}


def check_defect(folder, name: str, message: str, not_run: tuple[str, ...] = (), **kwargs):
    """Exactly one check fails, with these words, exactly those that need it are not run, and the rest pass."""
    found = results(folder, **kwargs)
    assert [check.name for check in found.values() if check.ok is False] == [name], found
    assert message in found[name].detail
    assert {check.name for check in found.values() if check.ok is None} == set(not_run)
    assert all(found[other].detail.startswith("not run, needs ") for other in not_run)


# Whole folders


def check_whole(folder, **kwargs):
    found = results(folder, **kwargs)
    assert [check for check in found.values() if not check.ok] == []
    return found


def test_upcycled_folder(whole, dense):
    found = check_whole(whole, dense_model=dense)
    assert "thinking: 0 of " in found["dense parity"].detail and "differ," not in found["dense parity"].detail
    assert found["code"].detail == "7 files, this package's"
    assert "dense parity" not in check_whole(whole)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_folder(tmp_path, kind):
    model, processor = tiny_word_level()
    hybrid = upcycle(model, processor, **KINDS[kind])
    check_whole(save_hub_folder(hybrid, processor, tmp_path / "hybrid"))


def test_saved_in_bf16_in_shards_with_a_tied_head_and_a_byte_level_tokenizer(tmp_path):
    processor = byte_level_processor()
    model = tiny_dense(processor)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    hybrid = upcycle(model.bfloat16(), processor)
    hybrid.save_pretrained(tmp_path, max_shard_size="50KB")
    save_hub_folder(hybrid, processor, tmp_path / "around")
    shutil.copytree(
        tmp_path / "around", tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors", "config.json")
    )
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    found = check_whole(tmp_path)
    assert found["dtypes"].detail == "bfloat16, router float32"
    assert found["head"].detail == "tied to the embeddings"


@pytest.mark.parametrize("branch", ["thinking", "non_thinking"])
def test_one_branch(folder, tmp_path, branch):
    model = MetisHomeForConditionalGeneration.from_pretrained(folder, only_branch=branch)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder)
    check_whole(folder)


@pytest.mark.parametrize("router_layer", [0, 1])
def test_router_alone(dense, tmp_path, router_layer):
    folder = upcycle_checkpoint(dense, tmp_path / "hybrid", router_layer=router_layer)
    export_checkpoint(folder, tmp_path / "router", format="router")
    found = check_whole(tmp_path / "router", dense_model=dense)
    assert found["configuration"].detail == f"only a router, after {router_layer} layers"
    assert found["head"].detail == "none, as expected of a router"


def test_tied_head_stored_twice(tmp_path):
    model, processor = tiny_word_level()
    model.config.tie_word_embeddings = True
    model.tie_weights()
    folder = save_hub_folder(upcycle(model, processor), processor, tmp_path / "hybrid")
    rewrite(folder, lambda tensors: tensors.update({HEAD: tensors[EMBEDDINGS].clone()}))
    assert check_whole(folder)["head"].detail == "tied to the embeddings, and stored as well"
    rewrite(folder, lambda tensors: tensors[HEAD][0].add_(1.0))
    check_defect(folder, "head", "`tie_word_embeddings` is true, but lm_head.weight differs")


def test_code_of_another_version_is_a_note(folder):
    with (folder / "modeling_metis_home.py").open("a") as file:
        file.write("\nVERSION = 2\n")
    assert check_whole(folder)["code"].detail == "7 files, this package's except modeling_metis_home.py"


# Configuration and weights

WEIGHTS = ("tensors", "dtypes", "finite values", "head", "calibration")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting property name"),
        ('{"model_type": "llama"}', "of model_type 'llama'"),
        ('{"model_type": "metis_home", "thinking_threshold": 2}', "`thinking_threshold` is 2"),
        ('{"model_type": "metis_home", "thinking_threshold": "high"}', "thinking_threshold"),
        (None, "config.json"),
    ],
)
def test_configuration(folder, text, message):
    (folder / "config.json").unlink() if text is None else (folder / "config.json").write_text(text)
    found = results(folder)
    assert not found["configuration"].ok and message in found["configuration"].detail
    assert found["tensors"].ok is found["code"].ok is found["token ids"].ok is None
    assert found["files"].ok and found["finite values"].ok


def test_missing_shard(sharded, dense):
    check_whole(sharded)
    sorted(sharded.glob("*.safetensors"))[1].unlink()
    check_defect(sharded, "files", "with missing shards: model-00002", WEIGHTS)
    check_defect(sharded, "files", "missing shards", (*WEIGHTS, "dense parity"), dense_model=dense)


def test_missing_index(sharded):
    (sharded / INDEX).unlink()
    check_defect(sharded, "files", "has neither model.safetensors nor model.safetensors.index.json", WEIGHTS)


def test_index_that_disagrees(sharded):
    index = json.loads((sharded / INDEX).read_text())
    del index["weight_map"][UP]
    (sharded / INDEX).write_text(json.dumps(index))
    check_defect(sharded, "files", f"disagree on 1 tensors: {UP}", WEIGHTS)


def test_weights_of_an_earlier_save(sharded):
    save_file({"x": torch.zeros(1)}, sharded / "model.safetensors", {"format": "pt"})
    check_defect(sharded, "files", "transformers would load the latter", WEIGHTS)


def test_truncated_file(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-10])
    check_defect(folder, "files", "is truncated or damaged", WEIGHTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(UP), f"1 tensors are missing: {UP}"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), "1 tensors are not part of the model: extra"),
        (
            lambda tensors: tensors.update({UP: tensors[UP][:-1].clone()}),
            f"1 tensors have the wrong shape: {UP} is (47, 32), expected (48, 32)",
        ),
        (  # the names of earlier checkpoints, which nothing maps for code on the Hub
            lambda tensors: tensors.update({"model.norm.weight": tensors.pop(NORM)}),
            f"1 tensors are missing: {NORM}; 1 tensors are not part of the model: model.norm.weight",
        ),
    ],
)
def test_tensors(folder, dense, change, message):
    rewrite(folder, change)
    check_defect(folder, "tensors", message, ("head", "dense parity"), dense_model=dense)


@pytest.mark.parametrize(
    ("name", "dtype", "message"),
    [
        (UP, torch.bfloat16, f"several dtypes, {{'float32': 59, 'bfloat16': 1}}: {UP}"),
        ("model.language_model.router.score.bias", torch.float16, "neither the model's dtype torch.float32"),
    ],
)
def test_dtypes(folder, name, dtype, message):
    rewrite(folder, lambda tensors: tensors.update({name: tensors[name].to(dtype)}))
    check_defect(folder, "dtypes", message)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_values(folder, dense, value):
    rewrite(folder, lambda tensors: tensors[UP][3, 4].fill_(value))
    check_defect(folder, "finite values", f"1 tensors have NaN or infinite values: {UP}.")
    check_defect(folder, "finite values", UP, ("dense parity",), dense_model=dense)


# Code


@pytest.mark.parametrize("name", ["branches", "configuration", "generation", "modeling"])
def test_missing_code(folder, name):
    (folder / f"{name}_metis_home.py").unlink()
    check_defect(folder, "code", f"{name}_metis_home.py is missing")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("import numpy as np", "branches_metis_home.py imports numpy,"),
        ("from hf_metis_home.data import rows", "imports hf_metis_home.data,"),
        ("def f():\n    from PIL import Image", "imports PIL,"),
        ("from . import helper", "imports .,"),
        ("from ..helper import x", "imports ..helper,"),
        ("from .helper import x", "helper.py is missing"),
        ("def", "branches_metis_home.py is not Python"),
    ],
)
def test_code_that_no_user_could_load(folder, line, message):
    with (folder / "branches_metis_home.py").open("a") as file:
        file.write(f"\n{line}\n")
    check_defect(folder, "code", message)


def auto_map(folder, **changes):
    found = json.loads((folder / "config.json").read_text())["auto_map"]
    edit_config(folder, auto_map={name: value for name, value in {**found, **changes}.items() if value})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"AutoModel": None}, "`auto_map` in config.json lacks ['AutoModel']"),
        ({"AutoModel": "modeling_metis_home.Other"}, "modeling_metis_home.py has no such class"),
        ({"AutoModel": "o/n--modeling_metis_home.MetisHomeModel"}, "names another repository (o/n--modeling"),
    ],
)
def test_auto_map(folder, changes, message):
    auto_map(folder, **changes)
    check_defect(folder, "code", message)


def test_code_is_not_run(folder, tmp_path):
    mark = tmp_path / "ran"
    for path in folder.glob("*.py"):
        path.write_text(f"open({str(mark)!r}, 'w')\n" + path.read_text())
    config = json.loads((folder / "processor_config.json").read_text())
    config |= {"processor_class": "Other", "auto_map": {"AutoProcessor": "modeling_metis_home.MetisHomeModel"}}
    (folder / "processor_config.json").write_text(json.dumps(config))
    found = results(folder)
    assert found["code"].ok and not found["processor"].ok
    assert not mark.exists()


# Processor, token ids, card


def test_missing_tokenizer(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    check_defect(folder, "processor", "The processor cannot be loaded", ("token ids",))


def test_missing_chat_template(folder):
    (folder / "chat_template.jinja").unlink()
    check_defect(folder, "processor", "has no chat template", ("token ids",))


@pytest.mark.parametrize(
    "field",
    ["assistant_header_ids", "thinking_opening_ids", "non_thinking_opening_ids", "thinking_closing_ids"],
)
def test_token_sequences(folder, field):
    edit_config(folder, **{field: [1, 2]})
    check_defect(folder, "token ids", f"{field} is [1, 2], the processor's [")


@pytest.mark.parametrize("field", ["end_of_turn_id", "image_token_id", "video_token_id"])
def test_token_ids(folder, field):
    edit_config(folder, **{field: 1})
    check_defect(folder, "token ids", f"{field} is 1, the processor's")


def test_processor_of_another_model(folder):
    byte_level_processor().save_pretrained(folder)
    check_defect(folder, "token ids", "Put this model's processor into the folder")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "README.md is missing"),
        ("# A model\n", "library_name: None"),
        ("---\nlibrary_name: peft\n---\n# A model\n", "library_name: peft"),
        ("---\ntags: [a\n---\n# A model\n", "metadata that the Hub would reject"),
        ("---\n- a\n---\n# A model\n", "metadata that the Hub would reject"),
    ],
)
def test_card(folder, text, message):
    (folder / "README.md").unlink() if text is None else (folder / "README.md").write_text(text)
    check_defect(folder, "card", message)


# Parity with the dense model


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (NORM, "shared: 1 of 54 tensors differ, by at most 0.5; thinking: 0 of"),
        (UP, "thinking: 1 of 3 tensors differ, by at most 0.5; non_thinking: 0 of 3"),
        (UP.replace("thinking", "non_thinking"), "non_thinking: 1 of 3 tensors differ, by at most 0.5"),
    ],
)
def test_ffn_parity(folder, dense, name, message):
    rewrite(folder, lambda tensors: tensors[name].view(-1)[0].add_(0.5))
    check_defect(folder, "dense parity", message, dense_model=dense)
    check_whole(folder)


def test_lora_parity(dense, tmp_path):
    folder = upcycle_checkpoint(dense, tmp_path / "hybrid", branch_alpha=6.0, **KINDS["lora"])

    def change(tensors):
        name = "model.language_model.layers.1.mlp.non_thinking.up_proj.lora_{}.weight"
        tensors[name.format("A")].zero_()[0, 0] = 0.25
        tensors[name.format("B")][0, 0] = 1.0

    rewrite(folder, change)
    message = "thinking: 0 of 3 tensors differ; non_thinking: 1 of 3 tensors differ, by at most 0.75"
    check_defect(folder, "dense parity", message, dense_model=dense)


def test_parity_with_another_model(folder, tmp_path):
    other = save(tmp_path / "other", *tiny_word_level(num_layers=1))
    check_defect(folder, "dense parity", "do not match `dense_model`", dense_model=other)


# Wrong calls


def test_no_folder(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match="`model_name_or_path` is .*absent', not a folder here"):
        validate_checkpoint(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="`dense_model` is .*absent'"):
        validate_checkpoint(folder, dense_model=tmp_path / "absent")
    with pytest.raises(ValueError, match="`dense_model` is .*It is a two-branch model"):
        validate_checkpoint(folder, dense_model=folder)


def test_empty_folder(tmp_path):
    found = results(tmp_path)
    assert {name for name, check in found.items() if check.ok is False} == {
        "configuration",
        "files",
        "processor",
        "card",
    }
    assert {check.ok for check in found.values()} == {False, None}
