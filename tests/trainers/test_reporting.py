"""What `report_to` hands on, and the picture of the thinking ratio that the docs draw."""

import json
import struct
from pathlib import Path

import pytest

from ..pages import blocks
from .common import make_trainer
from .test_metrics import rows_with_tasks


LOGGED = (
    "loss", "thinking_ratio", "thinking_ratio/math", "thinking_ratio/ocr", "router_loss", "router_accuracy",
    "lm_loss_thinking", "lm_loss_non_thinking", "grad_norm/thinking",
)  # fmt: skip


def scalars(file: Path) -> dict[str, list[float]]:
    """What an event file holds: records of length, checksum, an `Event`, checksum."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    data, found = file.read_bytes(), {}
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        for value in event_pb2.Event.FromString(data[12 : 12 + length]).summary.value:
            found.setdefault(value.tag, []).append(value.simple_value)
        data = data[16 + length :]
    return found


def test_tensorboard(tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX", reason="tensorboardX is not installed (it is in the extra `dev`)")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    trainer = make_trainer(
        tmp_path, rows_with_tasks(), per_device_train_batch_size=8, max_steps=2, report_to="tensorboard"
    )
    trainer.train()
    (file,) = (tmp_path / "events").glob("events.out.tfevents.*")
    found = scalars(file)
    logs = [line for line in trainer.state.log_history if "loss" in line]
    for name in LOGGED:
        assert found[f"train/{name}"] == pytest.approx([line[name] for line in logs], rel=1e-6), name


def test_the_picture_of_the_docs(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path / "sft", rows_with_tasks(), max_steps=2, save_strategy="steps", save_steps=2)
    trainer.train()
    (code,) = (code for code in blocks("docs/sft_trainer.md", "python") if "plt" in code)
    folder = tmp_path / "sft" / "checkpoint-2"
    assert "runs/sft/checkpoint-500/" in code
    monkeypatch.chdir(tmp_path)
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.close("all")
    exec(code.replace("runs/sft/checkpoint-500", str(folder)), {})
    lines = {line.get_label(): line.get_xydata().tolist() for line in pyplot.gca().lines}
    history = json.loads((folder / "trainer_state.json").read_text("utf-8"))["log_history"]
    assert lines.keys() == {"math", "ocr"}
    for task, points in lines.items():
        name = f"thinking_ratio/{task}"
        assert points == [[line["step"], line[name]] for line in history if name in line]
    assert (tmp_path / "thinking_ratio.svg").stat().st_size > 0
