"""Two processes on gloo train what one process trains."""

from pathlib import Path

import pytest
import torch

from tests.torchrun import on_two_ranks

from .common import make_hybrid
from .two_ranks import batch_of, loss_of, trained


def run(mode: str, folder: Path):
    on_two_ranks("tests.trainers.two_ranks", mode, str(folder / "result.pt"))
    return torch.load(folder / "result.pt", weights_only=True)


def assert_sharded_gradients_equal_one_process(mode: str, folder: Path, atol: float, images=((1,), (1,))):
    found = run(mode, folder)
    model, _ = make_hybrid()
    batches = [batch_of((thinking,) * 2, number) for thinking, number in zip((True, False), images, strict=True)]
    sum(loss_of(model, batch) / 2 for batch in batches).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, atol=atol, rtol=0, msg=name)
        assert parameter.grad.any() or "visual" in name, name


@pytest.mark.slow
def test_data_parallel_equals_one_process(tmp_path):
    weights, logs = run("ddp", tmp_path)
    alone, logs_alone = trained(tmp_path / "alone", batch_size=4)
    before = make_hybrid()[0].state_dict()
    assert all(not tensor.equal(before[name]) for name, tensor in alone.items())
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, alone[name], atol=1e-5, rtol=0, msg=name)
    for step, step_alone in zip(logs[:2], logs_alone[:2], strict=True):
        for metric in ("loss", "lm_loss_thinking", "lm_loss_non_thinking", "router_loss", "router_accuracy"):
            assert step[metric] == pytest.approx(step_alone[metric], abs=1e-5)


@pytest.mark.slow
def test_sharded_ranks_on_different_branches(tmp_path):
    # A branch that is skipped where it has no rows trains wrongly without a word: each rank then reduces gradients of
    # another set of layers.
    assert_sharded_gradients_equal_one_process("fsdp", tmp_path, atol=1e-5)


@pytest.mark.slow
def test_sharded_ranks_one_of_which_has_no_images(tmp_path):
    # The vision tower is sharded too: a rank that left it out would leave the other one waiting in it.
    assert_sharded_gradients_equal_one_process("fsdp_text", tmp_path, atol=1e-5, images=((1,), (0,)))


@pytest.mark.slow
@pytest.mark.parametrize("images", [((1,), (1,)), ((1,), (0,))], ids=["images", "images on one rank"])
@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_ranks_on_different_branches(tmp_path, stage, images):
    pytest.importorskip(
        "deepspeed", reason="DeepSpeed is not installed (it is not a dependency: pip install deepspeed)"
    )
    mode = f"zero{stage}" if images[1] == (1,) else f"zero{stage}_text"
    assert_sharded_gradients_equal_one_process(mode, tmp_path, atol=1e-5, images=images)
