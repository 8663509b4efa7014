"""Two processes on gloo that fall and are started again train what two train that never fell."""

import pytest
import torch

from tests.torchrun import on_two_ranks


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sft", "dense", "both"])
def test_resumed_equals_uninterrupted(tmp_path, kind):
    on_two_ranks("tests.trainers.resume_two_ranks", kind, str(tmp_path))
    found = torch.load(tmp_path / "result.pt", weights_only=True)
    whole, resumed = found["whole"], found["resumed"]
    assert found["ranks"] == 2 and (tmp_path / "cut" / "checkpoint-2" / "rng_state_1.pth").is_file()
    assert resumed["logs"] == whole["logs"] and len(whole["logs"]) == (6 if kind == "sft" else 8)
    for name, tensor in whole["weights"].items():
        assert tensor.equal(resumed["weights"][name]), name
