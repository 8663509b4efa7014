"""What can be exported of the dense model can be exported of a hybrid: a branch fixed, as an input, or routed."""

import copy
from functools import partial

import pytest
import torch
from packaging.version import Version

from .generating import PROMPTS, THINKING, VERSION, hybrid_and_twins
from .tiny import KINDS, batch, branch_twin, prompt_ids, tiny_hybrid


if VERSION < Version("5.23"):
    pytest.skip("before transformers 5.23 an export can be neither loaded nor called", allow_module_level=True)

from transformers import GenerationConfig
from transformers.exporters import DynamoConfig, DynamoExporter, ExportedModel
from transformers.exporters.utils import decompose_for_generation
from transformers.integrations.executorch import convert_and_export_with_cache


TRACED = batch([prompt_ids(seed, length=8 + seed, images=0) for seed in range(4)])
OTHERS = batch([prompt_ids(seed, length=13 + seed, images=0) for seed in range(10, 13)])


# An export takes ten seconds: one kind of branches and the two ways to choose them per row stand for the others.
@pytest.fixture(params=["ffn_1", pytest.param("lora_attention_0", marks=pytest.mark.slow)])
def models(request):
    hybrid = tiny_hybrid(**KINDS[request.param])
    return hybrid, {True: branch_twin(hybrid, "thinking"), False: branch_twin(hybrid, "non_thinking")}


def assert_rows_are_the_dense_models(logits, twins, inputs, thinking):
    mask = inputs["attention_mask"].bool()
    with torch.no_grad():
        dense = {flag: twin(**inputs).logits for flag, twin in twins.items()}
    for row, flag in enumerate(thinking):
        torch.testing.assert_close(logits[row][mask[row]], dense[flag][row][mask[row]], rtol=0, atol=1e-4)


def saved_and_loaded(model, inputs, folder):
    DynamoExporter().export(model, inputs, DynamoConfig(dynamic=True)).save_pretrained(folder)
    return ExportedModel.from_pretrained(folder, trust_remote_code=True)  # pickled programs, written just now


@pytest.mark.slow
@pytest.mark.parametrize("thinking", [True, False])
def test_a_fixed_branch_answers_other_prompts(models, thinking, tmp_path):
    hybrid, twins = models
    loaded = saved_and_loaded(hybrid, {**TRACED, "thinking": thinking}, tmp_path)
    assert_rows_are_the_dense_models(loaded(**OTHERS).logits, twins, OTHERS, [thinking] * 3)


def test_the_branch_of_every_row_is_an_input(models, tmp_path):
    hybrid, twins = models
    loaded = saved_and_loaded(hybrid, {**TRACED, "thinking": torch.tensor(THINKING)}, tmp_path)
    for thinking in ([True, False, False], [False, True, True], [True] * 3, [False] * 3):
        logits = loaded(**OTHERS, thinking=torch.tensor(thinking)).logits
        assert_rows_are_the_dense_models(logits, twins, OTHERS, thinking)


def test_the_router_decides_in_the_graph(models, tmp_path):
    hybrid, twins = models
    threshold = {"thinking_threshold": hybrid.route(**OTHERS).thinking_probability.median().item()}
    loaded = saved_and_loaded(hybrid, {**TRACED, **threshold}, tmp_path)
    expected, found = hybrid.route(**OTHERS, **threshold), loaded(**OTHERS)
    assert set(expected.thinking.tolist()) == {0, 1}
    assert_rows_are_the_dense_models(found.logits, twins, OTHERS, map(bool, expected.thinking))
    torch.testing.assert_close(found.branch_logits, expected.logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("thinking", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_static_cache_is_filled_token_by_token(thinking):
    # As it asks for nothing but tokens, the branch has to be fixed before.
    hybrid, twins = hybrid_and_twins("ffn_1")
    hybrid.forward = partial(hybrid.forward, thinking=thinking)
    cache = {"cache_implementation": "static", "cache_config": {"batch_size": 1, "max_cache_len": 32}}
    hybrid.generation_config = GenerationConfig(use_cache=True, **cache)
    step = convert_and_export_with_cache(hybrid).module()
    ids = torch.tensor([PROMPTS[2]])
    steps = [step(input_ids=ids[:, i : i + 1], cache_position=torch.tensor([i])) for i in range(ids.shape[1])]
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(steps, dim=1), twins[thinking](ids).logits, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_stages_of_generation(models):
    # The prompt with images, the head, and a step with a cache, as `generate` calls them.
    hybrid, twins = models
    options = {"generation_config": GenerationConfig(do_sample=False, eos_token_id=1, pad_token_id=0)}
    mixed = {**batch(PROMPTS), "thinking": THINKING}
    ours = decompose_for_generation(hybrid, mixed, **options)
    dense = {flag: decompose_for_generation(twin, batch(PROMPTS), **options) for flag, twin in twins.items()}
    exported = DynamoExporter().export_for_generation(hybrid, mixed, DynamoConfig(), **options)
    assert exported.components.keys() == ours.keys() == dense[True].keys()
    for stage, output in (("language_model", "last_hidden_state"), ("decode", "logits")):
        alone = ExportedModel({stage: exported.components[stage]}, exported.export_format)
        found = alone(**copy.deepcopy(ours[stage][1]))[output]
        for row, flag in enumerate(THINKING):
            model, inputs = dense[flag][stage]
            with torch.no_grad():
                expected = model(**copy.deepcopy(inputs))[output]
            torch.testing.assert_close(found[row, -1], expected[row, -1], rtol=0, atol=1e-4)


def test_the_vision_tower_as_in_the_dense_model():
    hybrid, twins = hybrid_and_twins("ffn_1")
    inputs = batch(PROMPTS)
    try:
        DynamoExporter().export(twins[True], inputs, DynamoConfig())
    except Exception as refused:
        with pytest.raises(type(refused)):
            DynamoExporter().export(hybrid, {**inputs, "thinking": True}, DynamoConfig())
        return
    exported = DynamoExporter().export(hybrid, {**inputs, "thinking": True}, DynamoConfig())
    assert_rows_are_the_dense_models(exported(**inputs).logits, twins, inputs, [True] * len(PROMPTS))
