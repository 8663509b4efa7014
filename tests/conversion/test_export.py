"""What leaves a hybrid is what the hybrid computes, in formats that need nothing of ours."""

import json
import subprocess
import sys

import pytest
import torch
from peft import PeftModel
from transformers import AutoModel, Qwen2_5_VLConfig

from hf_metis_home.conversion import export_checkpoint, upcycle_checkpoint

from ..modeling.tiny import KINDS
from .common import (
    ATTENTION,
    config_of,
    dense_of,
    hybrid_of,
    logits,
    perturb,
    rewrite,
    save_adapter,
    save_dense,
    save_one_branch,
    stored,
    text_inputs,
)  # fmt: skip


BRANCHES = ("thinking", "non_thinking")


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return save_dense(tmp_path_factory.mktemp("source") / "dense")


@pytest.fixture(scope="module", params=KINDS)
def trained(request, tmp_path_factory, dense):
    """A hybrid whose branches have gone apart, the shared weights too, and whose router has an opinion."""
    folder = upcycle_checkpoint(dense, tmp_path_factory.mktemp(request.param) / "hybrid", **KINDS[request.param])
    return perturb(folder, (".thinking.", ".non_thinking.", "router.score", ".norm.", ".self_attn.q_proj.weight"))


# Dense


@pytest.mark.parametrize("branch", BRANCHES)
def test_dense_equals_the_branch(tmp_path, trained, branch):
    export_checkpoint(trained, tmp_path / "out", format="dense", branch=branch)
    found, hybrid = logits(dense_of(tmp_path / "out")), hybrid_of(trained)
    expected = logits(hybrid, thinking=branch == "thinking")
    if hybrid.config.branch_kind == "ffn":
        assert torch.equal(found, expected)
    else:
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, logits(hybrid, thinking=branch != "thinking"), atol=1e-2)
    assert config_of(tmp_path / "out")["model_type"] == "qwen2_5_vl"
    assert not list((tmp_path / "out").glob("*.py")) and (tmp_path / "out/README.md").exists()


@pytest.mark.parametrize("trained", ["ffn_1"], indirect=True)
def test_dense_needs_no_remote_code(tmp_path, trained):
    export_checkpoint(trained, tmp_path / "out", format="dense", branch="thinking")
    code = (
        "import sys; from transformers import AutoModelForImageTextToText, AutoProcessor\n"
        f"folder = {str(tmp_path / 'out')!r}\n"
        "model = AutoModelForImageTextToText.from_pretrained(folder); AutoProcessor.from_pretrained(folder)\n"
        "assert type(model).__name__ == 'Qwen2_5_VLForConditionalGeneration' and 'hf_metis_home' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", ["legacy", "native", "sharded", "bfloat16", "mixed", "stored_head"])
def test_round_trip_is_bit_identical(tmp_path, dense, source, kind):
    if source == "native":
        dense = rewrite(dense, tmp_path / "dense", _native)
    elif source == "mixed":
        dense = rewrite(dense, tmp_path / "dense", lambda t: {n: v.half() if "norm" in n else v for n, v in t.items()})
    elif source == "stored_head":
        dense = rewrite(
            dense, tmp_path / "dense", lambda t: {**t, "lm_head.weight": t["model.embed_tokens.weight"] + 0}
        )
        config = config_of(dense) | {"tie_word_embeddings": True}
        (dense / "config.json").write_text(json.dumps(config))
    elif source != "legacy":
        options = {"max_shard_size": "50KB"} if source == "sharded" else {"dtype": torch.bfloat16}
        dense = save_dense(tmp_path / "dense", **options)
    before = stored(dense)
    upcycle_checkpoint(dense, tmp_path / "hybrid", **KINDS[kind])
    for branch in BRANCHES:
        export_checkpoint(tmp_path / "hybrid", tmp_path / branch, format="dense", branch=branch)
        after = stored(tmp_path / branch)
        assert after.keys() == before.keys()
        assert [n for n, t in before.items() if after[n].dtype != t.dtype or not torch.equal(after[n], t)] == []
        configs = [Qwen2_5_VLConfig.from_pretrained(folder).to_dict() for folder in (tmp_path / branch, dense)]
        assert configs[0] | {"_name_or_path": ""} == configs[1] | {"_name_or_path": ""}


def _native(tensors):
    from hf_metis_home.conversion.checkpoint import native_name

    return {native_name(name): tensor for name, tensor in tensors.items()}


# PEFT


@pytest.mark.parametrize("kind", ["lora_1", "lora_attention_0"])
@pytest.mark.parametrize("branch", BRANCHES)
def test_adapter_of_low_rank_branch_is_exact(tmp_path, dense, kind, branch):
    hybrid = perturb(upcycle_checkpoint(dense, tmp_path / "hybrid", **KINDS[kind]), (".lora_B.",))
    export_checkpoint(hybrid, tmp_path / "adapter", format="peft", branch=branch)
    adapted = PeftModel.from_pretrained(dense_of(dense), tmp_path / "adapter")
    expected = logits(hybrid_of(hybrid), thinking=branch == "thinking")
    torch.testing.assert_close(logits(adapted), expected, rtol=1e-5, atol=1e-5)
    assert (expected - logits(dense_of(dense))).abs().max() > 1e-3
    assert (tmp_path / "adapter/README.md").read_text().startswith("---\n")


def test_adapters_over_the_shared_network(tmp_path, trained):
    """Where training moved the shared weights, too, the dense model is no base any more, but one can be written."""
    if hybrid_of(trained).config.branch_kind == "ffn":
        base, branch = "non_thinking", "thinking"
    else:
        base, branch = "shared", "thinking"
    with pytest.raises(ValueError, match=f"(?s)tensors differ, .*--format dense --branch {base}"):
        export_checkpoint(trained, tmp_path / "adapter", format="peft", branch=branch)
    assert not (tmp_path / "adapter").exists()
    export_checkpoint(trained, tmp_path / "base", format="dense", branch=base)
    options = {"rank": 999, "max_error": 1e-3} if base != "shared" else {}
    export_checkpoint(
        trained, tmp_path / "adapter", format="peft", branch=branch, base_model=tmp_path / "base", **options
    )
    adapted = PeftModel.from_pretrained(dense_of(tmp_path / "base"), tmp_path / "adapter")
    torch.testing.assert_close(logits(adapted), logits(hybrid_of(trained), thinking=True), rtol=1e-4, atol=1e-4)


def test_adapter_of_whole_networks(tmp_path, dense):
    hybrid = perturb(upcycle_checkpoint(dense, tmp_path / "hybrid"), (".mlp.thinking.",), rank=3)
    with pytest.raises(ValueError, match="`rank` is 1, .* Rank 3 is enough"):
        export_checkpoint(hybrid, tmp_path / "small", format="peft", branch="thinking", rank=1)
    assert not list(tmp_path.glob("*small*"))
    record = export_checkpoint(hybrid, tmp_path / "exact", format="peft", branch="thinking", rank=3)
    adapted = PeftModel.from_pretrained(dense_of(dense), tmp_path / "exact")
    expected = logits(hybrid_of(hybrid), thinking=True)
    torch.testing.assert_close(logits(adapted), expected, rtol=1e-4, atol=1e-4)
    assert min(record["energy_kept"].values()) > 1 - 1e-6 and record["logit_error"]["max"] < 1e-3
    # A smaller one that is allowed says what it loses.
    lossy = export_checkpoint(hybrid, tmp_path / "lossy", format="peft", branch="thinking", rank=2, max_error=0.9)
    assert json.loads((tmp_path / "lossy/export.json").read_text()) == lossy
    found = logits(PeftModel.from_pretrained(dense_of(dense), tmp_path / "lossy"))
    assert (found - expected).abs().max() > 1e-2 and lossy["logit_error"]["mean"] > 1e-3
    name = "model.language_model.layers.1.mlp.up_proj.weight"
    change = stored(tmp_path / "lossy")
    A, B = (change[f"base_model.model.{name.removesuffix('.weight')}.lora_{half}.weight"] for half in "AB")
    full = stored(hybrid)[name.replace(".mlp.", ".mlp.thinking.")] - _native(stored(dense))[name]
    lost = torch.linalg.svdvals(full)[2:].square().sum() / full.square().sum()
    assert lossy["energy_kept"][name] == pytest.approx(1 - lost.item(), abs=1e-6)
    assert (full - B @ A).square().sum() / full.square().sum() == pytest.approx(lost.item(), abs=1e-6)


# Router


def test_router_alone_decides_as_the_model(tmp_path, trained):
    export_checkpoint(trained, tmp_path / "router", format="router")
    router = AutoModel.from_pretrained(tmp_path / "router").eval()
    expected = hybrid_of(trained).route(**text_inputs())
    found = router.route(**text_inputs())
    # Not to the last bit: where a tensor lies in memory decides how a product is summed.
    torch.testing.assert_close(found.logits, expected.logits, rtol=0, atol=1e-6)
    assert torch.equal(found.thinking, expected.thinking) and expected.logits.abs().sum() > 0.1
    shared = hybrid_of(trained).config.router_layer
    assert len(router.language_model.layers) == shared
    assert not any("thinking" in name or "lm_head" in name for name in stored(tmp_path / "router"))
    with pytest.raises(ValueError, match="is only a router"):
        router(**text_inputs(), thinking=True)


# Bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "gguf", "branch": "thinking"}, "`format` is 'gguf'"),
        ({"format": "dense"}, "`branch` is None, but `format='dense'` needs one of"),
        ({"format": "dense", "branch": "both"}, "`branch` is 'both'"),
        ({"format": "peft", "branch": "shared"}, "`branch` is 'shared'"),
        ({"format": "router", "branch": "thinking"}, "takes no branch"),
        ({"format": "dense", "branch": "thinking", "rank": 4}, r"\['rank'\] have no effect"),
        ({"format": "peft", "branch": "thinking", "rank": 0}, "`rank` is 0"),
        ({"format": "peft", "branch": "thinking", "max_error": 2.0}, "`max_error` is 2.0"),
        ({"format": "peft", "branch": "thinking"}, "does not differ from the base model"),
        ({"format": "dense", "branch": "shared"}, "every model needs a branch"),
    ],
)
def test_arguments(tmp_path, dense, arguments, message):
    upcycle_checkpoint(dense, tmp_path / "hybrid")
    with pytest.raises(ValueError, match=message):
        export_checkpoint(tmp_path / "hybrid", tmp_path / "out", **arguments)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hybrid"]


@pytest.mark.parametrize("trained", ["ffn_1", "lora_1"], indirect=True)
def test_of_one_branch_the_other_cannot_be_had(tmp_path, trained):
    one = save_one_branch(trained, tmp_path / "one", "thinking")
    for format, branch in (("dense", "non_thinking"), ("peft", "non_thinking"), ("vllm", None)):
        message = rf"saved with `only_branch='thinking'`: it lacks the non_thinking branch, which `format='{format}'`"
        with pytest.raises(ValueError, match=message):
            export_checkpoint(one, tmp_path / "out", format=format, branch=branch)
        assert not (tmp_path / "out").exists()
    export_checkpoint(one, tmp_path / "dense", format="dense", branch="thinking")
    expected = logits(hybrid_of(trained), thinking=True)
    torch.testing.assert_close(logits(dense_of(tmp_path / "dense")), expected, rtol=1e-5, atol=1e-5)
    export_checkpoint(one, tmp_path / "router", format="router")
    router = AutoModel.from_pretrained(tmp_path / "router").eval()
    found, expected = (model.route(**text_inputs()).logits for model in (router, hybrid_of(trained)))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_dense_is_no_source(tmp_path, dense):
    with pytest.raises(ValueError, match="not a two-branch model. It is a dense Qwen2.5-VL"):
        export_checkpoint(dense, tmp_path / "out", format="dense", branch="thinking")


def test_base_is_not_known(tmp_path, dense):
    upcycle_checkpoint(dense, tmp_path / "hybrid")
    (tmp_path / "hybrid/upcycle.json").unlink()
    with pytest.raises(ValueError, match="`base_model` is not given, and no upcycle.json"):
        export_checkpoint(tmp_path / "hybrid", tmp_path / "out", format="peft", branch="thinking")


def test_imported_adapter_comes_back(tmp_path, dense):
    adapter = save_adapter(dense, tmp_path / "adapter", target_modules=ATTENTION)
    upcycle_checkpoint(dense, tmp_path / "hybrid", thinking_adapter=adapter, router_layer=0)
    export_checkpoint(tmp_path / "hybrid", tmp_path / "back", format="peft", branch="thinking")
    before, after = stored(adapter), _native(stored(tmp_path / "back"))
    after = {name.replace("model.language_model.layers", "model.layers"): t for name, t in after.items()}
    before = {name.replace("model.language_model.layers", "model.layers"): t for name, t in before.items()}
    assert after.keys() == before.keys() and all(torch.equal(after[name], t) for name, t in before.items())
