"""From one kind of branches to the other and back: the answers and the router stay."""

import json

import pytest
import torch

from hf_metis_home.conversion import change_branch_kind, export_checkpoint, upcycle_checkpoint

from ..modeling.tiny import KINDS
from .common import config_of, hybrid_of, logits, perturb, save_dense, save_one_branch, text_inputs


ROUTER = "router.score"


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return save_dense(tmp_path_factory.mktemp("source") / "dense")


def assert_same_answers(found, expected):
    found, expected = hybrid_of(found), hybrid_of(expected)
    for thinking in (True, False):
        torch.testing.assert_close(
            logits(found, thinking=thinking), logits(expected, thinking=thinking), rtol=1e-4, atol=1e-5
        )
    routes = [model.route(**text_inputs()).logits for model in (found, expected)]
    torch.testing.assert_close(*routes, rtol=0, atol=1e-6)
    assert (logits(expected, thinking=True) - logits(expected, thinking=False)).abs().max() > 1e-3


def test_merge_and_back(tmp_path, dense):
    hybrid = upcycle_checkpoint(dense, tmp_path / "lora", **KINDS["lora_1"])
    hybrid = perturb(hybrid, (".lora_B.", ROUTER, "norm"))
    change_branch_kind(hybrid, tmp_path / "ffn", branch_kind="ffn")
    assert hybrid_of(tmp_path / "ffn").config.branch_kind == "ffn"
    assert_same_answers(tmp_path / "ffn", hybrid)
    # The difference of two changes of rank 3 has rank 6.
    change_branch_kind(tmp_path / "ffn", tmp_path / "back", branch_kind="lora", branch_rank=6, max_error=1e-4)
    assert_same_answers(tmp_path / "back", hybrid)
    with pytest.raises(ValueError, match="`branch_rank` is 1, .* is enough"):
        change_branch_kind(tmp_path / "ffn", tmp_path / "small", branch_kind="lora", branch_rank=1)
    assert not (tmp_path / "small").exists()


def test_result_is_a_model_like_any_other(tmp_path, dense):
    hybrid = perturb(upcycle_checkpoint(dense, tmp_path / "ffn"), (".mlp.thinking.",), rank=2)
    change_branch_kind(hybrid, tmp_path / "lora", branch_kind="lora", branch_rank=2)
    export_checkpoint(tmp_path / "lora", tmp_path / "adapter", format="peft", branch="thinking", base_model=dense)
    card = (tmp_path / "lora/README.md").read_text()
    assert "low-rank update" in card and "State of training" not in card


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("lora_attention_0", {"branch_kind": "ffn"}, r"The branches change \['q_proj', .* 'ffn' branches cannot"),
        ("ffn_1", {"branch_kind": "ffn"}, "which the branches of this model are already"),
        ("lora_1", {"branch_kind": "ffn", "branch_rank": 4}, "`branch_rank` has no effect"),
    ],
)
def test_refusals(tmp_path, dense, kind, options, message):
    hybrid = upcycle_checkpoint(dense, tmp_path / "hybrid", **KINDS[kind])
    with pytest.raises(ValueError, match=message):
        change_branch_kind(hybrid, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("kind", "other"), [("lora_1", "ffn"), ("ffn_1", "lora")])
def test_needs_both_branches(tmp_path, dense, kind, other):
    hybrid = upcycle_checkpoint(dense, tmp_path / "hybrid", **KINDS[kind])
    one = save_one_branch(hybrid, tmp_path / "one", "non_thinking")
    with pytest.raises(ValueError, match="saved with `only_branch='non_thinking'`: it lacks the thinking branch"):
        change_branch_kind(one, tmp_path / "out", branch_kind=other)
    assert not (tmp_path / "out").exists()


def test_a_calibration_of_other_weights_is_not_carried_along(tmp_path, dense):
    hybrid = upcycle_checkpoint(dense, tmp_path / "lora", **KINDS["lora_1"])
    config = config_of(hybrid) | {"calibration": {"goal": {"thinking_ratio": 0.5}}}
    (hybrid / "config.json").write_text(json.dumps(config))
    change_branch_kind(hybrid, tmp_path / "ffn", branch_kind="ffn")
    assert config_of(tmp_path / "ffn")["calibration"] is None


def test_equal_branches_need_no_rank(tmp_path, dense):
    hybrid = upcycle_checkpoint(dense, tmp_path / "ffn")
    change_branch_kind(hybrid, tmp_path / "lora", branch_kind="lora", branch_rank=1)
    found = hybrid_of(tmp_path / "lora")
    assert torch.equal(logits(found, thinking=True), logits(hybrid_of(hybrid), thinking=True))
