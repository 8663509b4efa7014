"""On CUDA: half precision, CUDA graphs and mixed batches give what the CPU or the dense model there gives."""

import pytest
import torch

from .tiny import KINDS, batch, branch_twin, prompt_ids, tiny_hybrid


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
PROMPTS = [prompt_ids(0), prompt_ids(1, length=5, images=2), prompt_ids(2, length=11, images=0), prompt_ids(3)]
THINKING = [True, False, False, True]


@pytest.fixture(params=["ffn_0", "ffn_1", "lora_attention_0"])
def hybrid(request):
    return tiny_hybrid(**KINDS[request.param])


def on_gpu(inputs: dict) -> dict:
    return {name: tensor.cuda() for name, tensor in inputs.items()}


def test_routes_like_the_cpu(hybrid):
    inputs = batch(PROMPTS)
    expected = hybrid.route(**inputs).thinking_probability
    found = hybrid.cuda().route(**on_gpu(inputs)).thinking_probability
    torch.testing.assert_close(found.cpu(), expected, atol=1e-3, rtol=0)  # CUDA's convolutions take TF32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_either_branch_is_the_dense_model(hybrid, dtype):
    inputs = on_gpu(batch(PROMPTS))
    twins = {True: branch_twin(hybrid, "thinking"), False: branch_twin(hybrid, "non_thinking")}
    hybrid = hybrid.to("cuda", dtype)
    for thinking, twin in twins.items():
        with torch.no_grad():
            expected = twin.to("cuda", dtype)(**inputs).logits
            found = hybrid(**inputs, thinking=thinking).logits
        if hybrid.config.branch_kind == "lora":  # the twin has the low-rank change merged into its weights
            atol = {torch.float32: 1e-3, torch.bfloat16: 0.4}[dtype]
            torch.testing.assert_close(found, expected, rtol=0, atol=atol)
        else:
            assert torch.equal(found, expected)


def test_mixed_batch_answers_like_its_rows(hybrid):
    hybrid = hybrid.cuda()
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    together = hybrid.generate(**on_gpu(batch(PROMPTS)), thinking=THINKING, **options)[:, -8:]
    for row, thinking in enumerate(THINKING):
        alone = hybrid.generate(**on_gpu(batch([PROMPTS[row]], seeds=[row])), thinking=thinking, **options)[:, -8:]
        assert torch.equal(together[row : row + 1], alone)


@pytest.mark.parametrize("thinking", [True, False, THINKING])
def test_cuda_graphs_with_a_static_cache(hybrid, thinking):
    hybrid = hybrid.cuda()
    inputs = on_gpu(batch(PROMPTS))
    options = {"max_new_tokens": 16, "do_sample": False, "thinking": thinking}
    expected = hybrid.generate(**inputs, **options)
    # With a static cache `generate` compiles the decoding step, with CUDA graphs where the device allows.
    found = hybrid.generate(**inputs, **options, cache_implementation="static")
    assert torch.equal(found, expected)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_sharded_over_two_gpus_trains_like_one_process(tmp_path):
    from tests.trainers.test_distributed import assert_sharded_gradients_equal_one_process  # needs TRL

    assert_sharded_gradients_equal_one_process("fsdp_cuda", tmp_path, atol=1e-4)
