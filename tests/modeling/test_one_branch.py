"""One branch can be loaded alone: the dense model's memory and answers, and no way to the other by mistake."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import ContinuousBatchingConfig, GenerationConfig

from hf_metis_home.modeling import MetisHomeForConditionalGeneration

from .test_peft import logits, lora, train_router
from .test_remote_code import run_isolated
from .tiny import KINDS, batch, branch_twin, prompt_ids, tiny_hybrid


PROMPTS = [prompt_ids(0), prompt_ids(1, length=5, images=2), prompt_ids(2, length=11, images=0)]
BRANCHES = ("thinking", "non_thinking")
WHOLE_NETWORKS = ["ffn_0", "ffn_1"]  # what PEFT can put adapters on; a low-rank change is one itself


@pytest.fixture(params=[*WHOLE_NETWORKS, "lora_attention_0"])
def hybrid(request):
    return tiny_hybrid(**KINDS[request.param])


@pytest.fixture
def folder(hybrid, tmp_path):
    hybrid.save_pretrained(tmp_path / "hybrid")
    return tmp_path / "hybrid"


@pytest.mark.parametrize("branch", BRANCHES)
def test_is_the_dense_model_and_a_router(hybrid, folder, branch):
    model, info = MetisHomeForConditionalGeneration.from_pretrained(
        folder, only_branch=branch, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    twin, inputs = branch_twin(hybrid, branch), batch(PROMPTS)
    more = sum(p.numel() for name, p in hybrid.named_parameters() if ".router." in name or f".{branch}." in name)
    instead = sum(p.numel() for name, p in twin.named_parameters() if name not in hybrid.state_dict())
    assert model.num_parameters() == twin.num_parameters() - instead + more
    with torch.no_grad():
        exact = {"rtol": 0, "atol": 0.0 if instead else 1e-4}  # a low-rank change is rounded where it is merged
        torch.testing.assert_close(model(**inputs).logits, twin(**inputs).logits, **exact)
    options = {"max_new_tokens": 6, "do_sample": False}
    assert torch.equal(model.generate(**inputs, **options), twin.generate(**inputs, **options))
    assert torch.equal(model.route(**inputs).logits, hybrid.route(**inputs).logits)


@pytest.mark.parametrize("branch", BRANCHES)
def test_the_other_branch_is_refused(folder, branch):
    model = MetisHomeForConditionalGeneration.from_pretrained(folder, only_branch=branch)
    here, inputs = branch == "thinking", batch(PROMPTS)
    output = model.generate(**inputs, thinking=[here, None, here], max_new_tokens=2, return_dict_in_generate=True)
    assert output.thinking.tolist() == [int(here)] * 3 and output.thinking_probability.isnan().all()
    message = rf"`thinking` asks for the .* branch, but the model was loaded with `only_branch='{branch}'`"
    for thinking in (not here, [here, None, not here], torch.tensor([here, here, not here])):
        for call in (model.generate, torch.no_grad()(model)):
            with pytest.raises(ValueError, match=message):
                call(**inputs, thinking=thinking)


def test_trains_and_saves_as_what_it_is(folder, tmp_path):
    model = MetisHomeForConditionalGeneration.from_pretrained(folder, only_branch="thinking")
    inputs = batch(PROMPTS)
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert all(
        parameter.grad is not None and parameter.grad.any()
        for name, parameter in model.named_parameters()
        if ".mlp.thinking." in name
    )
    model.zero_grad()
    model.save_pretrained(tmp_path / "one")
    again = MetisHomeForConditionalGeneration.from_pretrained(tmp_path / "one")
    assert again.config.only_branch == "thinking" and again.num_parameters() == model.num_parameters()
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, model(**inputs).logits)


@pytest.mark.slow  # `test_remote_code.py` loads a whole model in this way
def test_loads_where_the_package_is_not(folder, tmp_path):
    model = MetisHomeForConditionalGeneration.from_pretrained(folder, only_branch="thinking")
    model.save_pretrained(tmp_path / "one")
    inputs = batch(PROMPTS)
    with torch.no_grad():
        expected = model(**inputs).logits
    _, found = run_isolated(tmp_path / "one", tmp_path / "two", inputs, tmp_path)
    assert torch.equal(found["logits"], expected)


@pytest.mark.parametrize("hybrid", WHOLE_NETWORKS, indirect=True)
@pytest.mark.parametrize("made_on", ["one", "whole"])
@pytest.mark.parametrize("branch", BRANCHES)
def test_an_adapter_of_the_branch_serves_one_branch_and_both(folder, tmp_path, branch, made_on):
    def load(only_branch):
        return MetisHomeForConditionalGeneration.from_pretrained(folder, only_branch=only_branch)

    # What an adapter of the whole model holds for the other branch is left out, like the checkpoint's.
    target, only = (branch, branch) if made_on == "one" else ("both", None)
    adapted = get_peft_model(load(only), lora(target, attention=True, modules_to_save=["router"])).eval()
    train_router(adapted)
    adapted.save_pretrained(tmp_path / "adapter")
    here, inputs = branch == "thinking", batch(PROMPTS)
    expected, route = logits(adapted, here), adapted.route(**inputs).logits
    assert not torch.equal(expected, logits(load(branch))) and not torch.equal(
        route, load(branch).route(**inputs).logits
    )
    for only in (branch, None):
        loaded = PeftModel.from_pretrained(load(only), tmp_path / "adapter").eval()
        assert torch.equal(logits(loaded, here), expected) and torch.equal(loaded.route(**inputs).logits, route)
        merged = loaded.merge_and_unload()
        assert merged.state_dict().keys() == load(only).state_dict().keys()
        torch.testing.assert_close(logits(merged, here), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("hybrid", WHOLE_NETWORKS, indirect=True)
@pytest.mark.parametrize("branch", BRANCHES)
def test_an_adapter_of_the_other_branch_finds_nothing(folder, branch):
    model = MetisHomeForConditionalGeneration.from_pretrained(folder, only_branch=branch)
    with pytest.raises(ValueError, match="not found in the base model"):
        get_peft_model(model, lora(BRANCHES[branch == "thinking"]))


def test_unknown_branch(folder):
    for load in (MetisHomeForConditionalGeneration.from_pretrained, MetisHomeForConditionalGeneration.config_class):
        with pytest.raises(ValueError, match="`only_branch` is 'fast', but must be 'thinking' or 'non_thinking'"):
            load(folder, only_branch="fast") if load.__name__ == "from_pretrained" else load(only_branch="fast")


@pytest.mark.slow
@pytest.mark.parametrize("branch", BRANCHES)
def test_continuous_batching_works_where_no_row_has_a_choice(folder, branch):
    model = MetisHomeForConditionalGeneration.from_pretrained(folder, only_branch=branch)
    prompts = [prompt_ids(seed, length=length, images=0) for seed, length in ((2, 11), (3, 5))]
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": -1, "pad_token_id": 0}
    # By default the cache takes most of the machine's memory, which a test beside this one may need.
    small = ContinuousBatchingConfig(num_blocks=16, max_batch_tokens=64)
    config = GenerationConfig(**options)
    found = model.generate_batch(prompts, config, continuous_batching_config=small, progress_bar=False)
    for prompt, (_, result) in zip(prompts, sorted(found.items()), strict=True):
        alone = model.generate(**batch([prompt]), **options)
        assert result.generated_tokens == alone[0, len(prompt) :].tolist()
