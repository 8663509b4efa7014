"""LoRA adapts what it is asked for, can be saved, loaded, merged and disabled, and leaves the rest to the last bit."""

import doctest
import inspect
import re

import pytest
import torch
from packaging.version import Version
from peft import LoraConfig, PeftModel, get_peft_model
from peft import __version__ as peft_version
from transformers.integrations.peft import MIN_PEFT_VERSION

from hf_metis_home.conversion import branch_target_modules
from hf_metis_home.modeling import MetisHomeForConditionalGeneration

from .tiny import batch, prompt_ids, tiny_hybrid


PROMPTS = [prompt_ids(0), prompt_ids(1, length=5, images=2), prompt_ids(2, length=11, images=0), prompt_ids(3)]
MIXED = [True, False, False, True]
needs_its_peft = pytest.mark.skipif(
    Version(peft_version) < Version(MIN_PEFT_VERSION),
    reason=f"this transformers' own adapter methods refuse PEFT before {MIN_PEFT_VERSION}; PEFT's functions work",
)
TARGETS = [(branch, attention) for branch in ("thinking", "non_thinking", "both") for attention in (False, True)]


def lora(branch: str, attention: bool = False, **kwargs) -> LoraConfig:
    """An adapter that changes something from the start."""
    target = branch_target_modules(branch, attention)
    return LoraConfig(r=4, target_modules=target, init_lora_weights=False, **kwargs)


def logits(model, thinking=None):
    with torch.no_grad():
        return model(**batch(PROMPTS), thinking=thinking).logits[batch(PROMPTS)["attention_mask"].bool()]


def generate(model, thinking=None):
    return model.generate(**batch(PROMPTS), thinking=thinking, max_new_tokens=5, do_sample=False)


def train_router(model):
    """Move the copy of the router that trains, as a training step would."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modules_to_save" in name:
                assert parameter.requires_grad
                parameter.add_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter))


@pytest.mark.parametrize("branch, attention", TARGETS)
@pytest.mark.parametrize("base", [False, True])
def test_targets(branch, attention, base):
    model = tiny_hybrid(router_layer=1)
    model = model.model if base else model
    regex = re.compile(branch_target_modules(branch, attention))
    prefix = "" if base else "model."
    branches = ["thinking", "non_thinking"] if branch == "both" else [branch]
    expected = {
        f"{prefix}language_model.layers.{layer}.mlp.{name}.{projection}_proj"
        for layer in (1, 2)
        for name in branches
        for projection in ("gate", "up", "down")
    }
    if attention:
        expected |= {f"{prefix}language_model.layers.{n}.self_attn.{p}_proj" for n in (0, 1, 2) for p in "qkvo"}
    assert {name for name, _ in model.named_modules() if regex.fullmatch(name)} == expected


@pytest.mark.parametrize("branch", ["Thinking", "all", "", None, ["thinking"]])
def test_unknown_branch(branch):
    with pytest.raises(ValueError, match="`branch` is .* one of .*'thinking', 'non_thinking', 'both'") as error:
        branch_target_modules(branch)
    assert repr(branch) in str(error.value)


def test_the_example_runs():
    text = "\n".join(line for line in inspect.getdoc(branch_target_modules).splitlines() if "```" not in line)
    example = doctest.DocTestParser().get_doctest(text, {}, "branch_target_modules", None, 0)
    assert len(example.examples) == 4 and doctest.DocTestRunner().run(example).failed == 0


@pytest.mark.parametrize("branch, attention", TARGETS)
@pytest.mark.parametrize("way", ["get_peft_model", pytest.param("add_adapter", marks=needs_its_peft)])
def test_trains_what_was_asked_for_and_nothing_else(way, branch, attention):
    model = tiny_hybrid().train()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    config = lora(branch, attention, modules_to_save=["router"])
    adapted = model if way == "add_adapter" else get_peft_model(model, config)
    if way == "add_adapter":
        model.add_adapter(config)
    inputs = batch(PROMPTS, completions=[[30, 31, 1]] * 4)
    output = adapted(**inputs, labels=inputs["input_ids"], thinking=MIXED)
    (output.loss + output.branch_logits.square().sum()).backward()
    trained = {name for name, parameter in adapted.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, _ in adapted.named_parameters() if "lora_" in name or "modules_to_save" in name}
    branches = {"thinking", "non_thinking"} if branch == "both" else {branch}
    assert {name.split(".mlp.")[1].split(".")[0] for name in trained if ".mlp." in name} == branches
    assert any(".self_attn." in name for name in trained) == attention
    assert any(".router.modules_to_save." in name for name in trained)
    torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.1).step()
    for name, parameter in model.named_parameters():
        plain = name.replace(".base_layer", "").replace(".original_module", "")
        assert plain not in before or torch.equal(parameter, before[plain]), name


@pytest.mark.parametrize("branch", ["thinking", "non_thinking"])
def test_the_other_branch_answers_as_before(branch):
    base = tiny_hybrid()
    adapted = get_peft_model(tiny_hybrid(), lora(branch))
    ours, other = branch == "thinking", branch != "thinking"
    assert torch.equal(logits(adapted, other), logits(base, other))
    assert torch.equal(generate(adapted, other), generate(base, other))
    assert (logits(adapted, ours) - logits(base, ours)).abs().max() > 1e-2
    with torch.no_grad():
        mixed = [model(**batch(PROMPTS), thinking=MIXED).logits for model in (adapted, base)]
    for row, thinking in enumerate(MIXED):
        assert torch.equal(mixed[0][row], mixed[1][row]) == (thinking == other)
    assert torch.equal(adapted.route(**batch(PROMPTS)).logits, base.route(**batch(PROMPTS)).logits)


@pytest.mark.parametrize("branch, attention", TARGETS)
def test_saves_loads_merges_and_disables(tmp_path, branch, attention):
    # In double precision, so that what merging rounds stays below the tolerance.
    base = tiny_hybrid().double()
    config = lora(branch, attention, modules_to_save=["router"])
    adapted = get_peft_model(tiny_hybrid().double(), config).eval()
    train_router(adapted)
    expected = {str(thinking): logits(adapted, thinking) for thinking in (True, MIXED, None)}
    route = adapted.route(**batch(PROMPTS)).logits
    assert (route - base.route(**batch(PROMPTS)).logits).abs().max() > 1e-2

    with adapted.disable_adapter():
        assert torch.equal(logits(adapted), logits(base)) and torch.equal(generate(adapted), generate(base))

    adapted.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(tiny_hybrid().double(), tmp_path / "adapter").eval()
    for thinking in (True, MIXED, None):
        assert torch.equal(logits(loaded, thinking), expected[str(thinking)])

    merged = loaded.merge_and_unload()
    assert merged.state_dict().keys() == base.state_dict().keys()
    merged.save_pretrained(tmp_path / "merged")
    for model in (merged, MetisHomeForConditionalGeneration.from_pretrained(tmp_path / "merged")):
        assert torch.equal(generate(model), generate(adapted))
        torch.testing.assert_close(model.route(**batch(PROMPTS)).logits, route, rtol=0, atol=1e-6)
        for thinking in (True, MIXED, None):
            torch.testing.assert_close(logits(model, thinking), expected[str(thinking)], rtol=0, atol=1e-6)


@needs_its_peft
def test_adapter_added_by_the_model_itself(tmp_path):
    base = tiny_hybrid()
    base.save_pretrained(tmp_path / "base")
    model = MetisHomeForConditionalGeneration.from_pretrained(tmp_path / "base")
    model.add_adapter(lora("thinking", modules_to_save=["router"]))
    train_router(model)
    model.save_pretrained(tmp_path / "adapter")
    over_base = MetisHomeForConditionalGeneration.from_pretrained(tmp_path / "base")
    over_base.load_adapter(str(tmp_path / "adapter"))
    by_itself = MetisHomeForConditionalGeneration.from_pretrained(tmp_path / "adapter")
    by_peft = PeftModel.from_pretrained(tiny_hybrid(), tmp_path / "adapter")
    for loaded in (over_base, by_itself, by_peft):
        for thinking in (True, False, MIXED, None):
            assert torch.equal(logits(loaded, thinking), logits(model, thinking))
    assert not torch.equal(logits(model, True), logits(base, True))
    model.disable_adapters()
    assert torch.equal(logits(model), logits(base)) and torch.equal(generate(model), generate(base))
