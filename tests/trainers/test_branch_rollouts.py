"""What vLLM is given of a branch is the dense model that an export of the branch is, to the last bit."""

import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from trl.distributed import DistributedBackend

from hf_metis_home import branch_target_modules
from hf_metis_home.conversion import export_checkpoint, upcycle_checkpoint
from hf_metis_home.conversion.checkpoint import native_name
from hf_metis_home.modeling import MetisHomeForConditionalGeneration
from hf_metis_home.trainers.branch_rollouts import (
    BranchGeneration,
    dense_parameters,
    one_token_per_image,
    rollouts_of,
)

from ..conversion.common import perturb, save_dense, stored
from ..modeling.tiny import KINDS
from .common import make_hybrid


@pytest.fixture(scope="module", params=[*KINDS, "bf16"])
def hybrid(request, tmp_path_factory):
    """The folder of a trained hybrid."""
    folder = tmp_path_factory.mktemp(request.param)
    kind = dict(KINDS["lora_attention_0" if request.param == "bf16" else request.param])
    if "branch_alpha" in kind:
        kind["branch_alpha"] = 5.0  # a factor other than 1
    dtype = torch.bfloat16 if request.param == "bf16" else torch.float32
    upcycle_checkpoint(save_dense(folder / "dense", dtype=dtype), folder / "hybrid", **kind)
    return perturb(folder / "hybrid", (".thinking.", ".non_thinking.", ".norm.", ".q_proj.weight"), scale=0.3)


@pytest.mark.parametrize("branch", ["thinking", "non_thinking"])
def test_equals_the_dense_export(hybrid, tmp_path, branch):
    export_checkpoint(hybrid, tmp_path / "dense", format="dense", branch=branch)
    expected = {native_name(name): tensor for name, tensor in stored(tmp_path / "dense").items()}
    model = MetisHomeForConditionalGeneration.from_pretrained(hybrid, dtype="auto")
    given = list(dense_parameters(model.named_parameters(), model.config, branch))
    found = dict(given)
    assert len(given) == len(found) and found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


def test_tensors_that_do_not_outlive_their_turn(hybrid):
    """Sharded parameters are given back as soon as the next one is asked for."""
    model = MetisHomeForConditionalGeneration.from_pretrained(hybrid)
    text = model.config

    def passing():
        for name, parameter in model.named_parameters():
            whole = parameter.detach().clone()
            yield name, whole
            whole.fill_(torch.nan)

    expected = dict(dense_parameters(model.named_parameters(), text, "thinking"))
    for name, tensor in dense_parameters(passing(), text, "thinking"):
        assert torch.equal(tensor, expected[name]), name


def test_a_change_without_its_other_half():
    model, _ = make_hybrid(branch_kind="lora", branch_rank=2)
    lacking = [(name, tensor) for name, tensor in model.named_parameters() if not name.endswith("lora_B.weight")]
    with pytest.raises(ValueError, match="lacks the weight or a part of the delta of .*layers.1.mlp.down_proj"):
        list(dense_parameters(lacking, model.config, "thinking"))


def test_adapters_are_merged():
    model, _ = make_hybrid()
    torch.manual_seed(0)
    adapter = LoraConfig(r=2, target_modules=branch_target_modules("both"), init_lora_weights=False)
    adapted = get_peft_model(model, adapter)
    generation = object.__new__(BranchGeneration)  # without an engine
    generation.model, generation.branch = adapted, "thinking"
    generation._dist = DistributedBackend(Accelerator(cpu=True))
    found = {name: tensor.clone() for name, tensor in generation._iter_named_params()}
    merged = adapted.merge_and_unload()
    expected = dict(dense_parameters(merged.named_parameters(), merged.config, "thinking"))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_one_token_per_image():
    assert one_token_per_image([9, 9, 3, 9, 9, 9, 4, 4, 9], 9) == [9, 3, 9, 4, 4, 9]
    assert one_token_per_image([], 9) == []


def test_engines_made_by_others_stay_as_they_are():
    from trl.trainer import grpo_trainer

    plain = grpo_trainer.VLLMGeneration
    with pytest.raises(KeyError), rollouts_of("thinking", None):
        assert grpo_trainer.VLLMGeneration is not plain
        raise KeyError
    assert grpo_trainer.VLLMGeneration is plain
