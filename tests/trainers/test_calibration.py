"""A calibration does not survive training: it was made with other weights."""

import json

import pytest

from .common import make_hybrid, make_trainer


@pytest.mark.parametrize("trainable", ["all", "router"])
def test_training_drops_the_calibration(trainable, tmp_path):
    model, processor = make_hybrid()
    model.config.calibration = {"threshold": 0.5, "weights": "0" * 64}
    trainer = make_trainer(tmp_path, model=(model, processor), trainable=trainable, save_strategy="steps", save_steps=1)
    trainer.save_model(str(tmp_path / "before"))
    trainer.train()
    trainer.save_model(str(tmp_path / "after"))
    stands = {name: json.loads((tmp_path / name / "config.json").read_text()).get("calibration")
              for name in ("before", "checkpoint-1", "after")}  # fmt: skip
    assert stands == {"before": {"threshold": 0.5, "weights": "0" * 64}, "checkpoint-1": None, "after": None}
