"""Attention implementations, half precision, recorded layers, checkpointing and compilation: as in a dense model."""

import pytest
import torch
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.utils.import_utils import (
    is_flash_attn_2_available,
    is_flash_attn_3_available,
    is_flash_attn_4_available,
)

from hf_metis_home.modeling import MetisHomeForConditionalGeneration

from .tiny import batch, branch_twin, prompt_ids, tiny_hybrid


PROMPTS = [prompt_ids(0), prompt_ids(1, length=5, images=2), prompt_ids(2, length=11, images=0), prompt_ids(3)]
MIXED = [True, False, False, True]
CALLS = [True, False, MIXED, [None, True, None, False], None]


def forward(model, inputs=None, **kwargs):
    with torch.no_grad():
        return model(**(inputs or batch(PROMPTS)), **kwargs)


def unpadded(logits):
    return logits[batch(PROMPTS)["attention_mask"].bool()]


def test_what_is_supported_is_what_the_parent_supports():
    names = {name for name in dir(Qwen2_5_VLForConditionalGeneration) if name.startswith(("_supports", "_can_compile"))}
    assert {"_supports_sdpa", "_supports_flash_attn", "_supports_flex_attn", "_can_compile_fullgraph"} <= names
    for name in names:
        parent = getattr(Qwen2_5_VLForConditionalGeneration, name)
        assert callable(parent) or getattr(MetisHomeForConditionalGeneration, name) == parent, name


@pytest.mark.parametrize("thinking", CALLS)
@pytest.mark.parametrize("implementation", ["sdpa", "flex_attention"])
def test_attention_implementations_agree(implementation, thinking):
    hybrid = tiny_hybrid()
    dense = branch_twin(hybrid, "thinking")
    try:
        dense.set_attn_implementation(implementation)
    except ValueError as refused:
        with pytest.raises(ValueError, match="does not support") as found:
            hybrid.set_attn_implementation(implementation)
        assert str(found.value) == str(refused).replace("Qwen2_5_VL", "MetisHome")
        return
    hybrid.set_attn_implementation("eager")
    expected = forward(hybrid, thinking=thinking)
    hybrid.set_attn_implementation(implementation)
    found = forward(hybrid, thinking=thinking)
    torch.testing.assert_close(unpadded(found.logits), unpadded(expected.logits), rtol=0, atol=1e-4)
    if expected.branch_logits is not None:
        torch.testing.assert_close(found.branch_logits, expected.branch_logits, rtol=0, atol=1e-4)


FLASH = {
    "flash_attention_2": (is_flash_attn_2_available, "flash-attn"),
    "flash_attention_3": (is_flash_attn_3_available, "flash-attn-3"),
    "flash_attention_4": (is_flash_attn_4_available, "flash-attn-4"),
}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA: flash attention runs nowhere else")
@pytest.mark.parametrize("implementation", FLASH)
@pytest.mark.parametrize("thinking", CALLS)
def test_flash_attention_agrees(thinking, implementation):
    is_available, package = FLASH[implementation]
    if not is_available():
        pytest.skip(f"needs {package}: pip install {package}")
    hybrid = tiny_hybrid().to("cuda", torch.bfloat16)
    inputs = {name: tensor.cuda() for name, tensor in batch(PROMPTS).items()}
    expected = forward(hybrid, inputs, thinking=thinking).logits
    hybrid.set_attn_implementation(implementation)
    found = forward(hybrid, inputs, thinking=thinking).logits
    torch.testing.assert_close(unpadded(found.cpu()), unpadded(expected.cpu()), rtol=0, atol=0.2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_equals_dense(dtype):
    hybrid = tiny_hybrid()
    twins = [branch_twin(hybrid, branch).to(dtype) for branch in ("non_thinking", "thinking")]
    hybrid.to(dtype).model.language_model.router.float()  # as `from_pretrained` leaves it
    expected = [forward(twin).logits for twin in twins]
    for thinking in (True, False):
        found = forward(hybrid, thinking=thinking).logits
        assert found.dtype == dtype and torch.equal(unpadded(found), unpadded(expected[thinking]))
    found = forward(hybrid, thinking=MIXED).logits
    rows = torch.stack([expected[thinking][row] for row, thinking in enumerate(MIXED)])
    torch.testing.assert_close(unpadded(found), unpadded(rows))
    assert forward(hybrid).branch_logits.dtype == torch.float32


@pytest.mark.parametrize("branch", ["thinking", "non_thinking"])
@pytest.mark.parametrize("router_layer", [0, 1, 2])
def test_recorded_layers_equal_dense(router_layer, branch):
    hybrid = tiny_hybrid(router_layer=router_layer)
    dense = branch_twin(hybrid, branch)
    for model in (hybrid, dense):
        model.set_attn_implementation("eager")
    wanted = {"output_hidden_states": True, "output_attentions": True}
    expected = forward(dense, **wanted)
    for thinking in (branch == "thinking", MIXED):
        found = forward(hybrid, thinking=thinking, **wanted)
        for kind in ("hidden_states", "attentions"):
            layers = list(zip(found[kind], expected[kind], strict=True))
            assert len(layers) == 3 + (kind == "hidden_states")
            assert all(ours.shape == theirs.shape for ours, theirs in layers)
            assert isinstance(thinking, list) or all(torch.equal(ours, theirs) for ours, theirs in layers)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("thinking", CALLS)
def test_checkpointing_gives_equal_gradients(thinking, reentrant):
    inputs = batch(PROMPTS, completions=[[30, 31, 1]] * 4)
    labels = inputs["input_ids"].masked_fill(inputs["prompt_mask"] | (inputs["attention_mask"] == 0), -100)
    grads, runs = [], []
    for checkpointing in (False, True):
        hybrid = tiny_hybrid().train()
        if checkpointing:
            hybrid.gradient_checkpointing_enable({"use_reentrant": reentrant})
        mlp = hybrid.model.language_model.layers[1].mlp
        calls = []
        mlp.register_forward_pre_hook(lambda *args, calls=calls: calls.append(1))
        output = hybrid(**inputs, labels=labels, thinking=thinking)
        (output.loss + output.branch_logits.square().sum()).backward()
        grads.append({name: parameter.grad for name, parameter in hybrid.named_parameters()})
        runs.append(len(calls))
    assert runs == [1, 2]
    assert all(grad is not None for grad in grads[0].values())
    for name, grad in grads[0].items():
        assert torch.equal(grads[1][name], grad), name


def compile_whole(model, backend):
    torch.compiler.reset()
    return torch.compile(model, fullgraph=True, backend=backend)


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "thinking",
    [*(pytest.param(value, marks=pytest.mark.slow) for value in (True, False, MIXED)), torch.tensor(MIXED), None],
    ids=str,
)
def test_compiles_into_one_graph(thinking, backend):
    # The vision features are computed outside: not even the dense model's vision tower compiles into one graph.
    hybrid = tiny_hybrid()
    inputs = batch(PROMPTS)
    expected = forward(hybrid, inputs, thinking=thinking)
    pixels, grid = inputs.pop("pixel_values"), inputs.pop("image_grid_thw")
    inputs["position_ids"] = hybrid.model.get_rope_index(
        inputs["input_ids"], inputs.pop("mm_token_type_ids"), grid, attention_mask=inputs["attention_mask"]
    )[0]
    with torch.no_grad():
        features = hybrid.model.get_image_features(pixels, grid, return_dict=True)
    compiled = compile_whole(hybrid, backend)
    found = forward(compiled, inputs, thinking=thinking, mm_encoder_outputs={"image": features})
    torch.testing.assert_close(unpadded(found.logits), unpadded(expected.logits), rtol=0, atol=1e-4)
    if thinking is None:
        torch.testing.assert_close(found.branch_logits, expected.branch_logits, rtol=0, atol=1e-4)


def test_one_graph_serves_every_mixture():
    hybrid = tiny_hybrid()
    inputs = batch([prompt_ids(seed, images=0) for seed in range(4)])
    compiled = compile_whole(hybrid, "eager")
    mask = torch.tensor(MIXED)
    forward(compiled, inputs, thinking=mask)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for other in (~mask, mask | True, mask & False):
            found, expected = (forward(model, inputs, thinking=other).logits for model in (compiled, hybrid))
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
