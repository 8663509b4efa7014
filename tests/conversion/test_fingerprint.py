"""The fingerprint of weights sees every tensor and no files; a calibration is stale after training or a turned dial."""

import json

import pytest
import torch
from safetensors.torch import save_file

from hf_metis_home.conversion import upcycle_checkpoint, validate_checkpoint
from hf_metis_home.conversion.fingerprint import BLOCK_BYTES, WHOLE_BYTES, calibration_problem, weights_fingerprint

from .common import hybrid_of, save_dense


LARGE = WHOLE_BYTES // 4 + 1000  # fp32 numbers


def save(folder, shards: list[dict]) -> str:
    folder.mkdir()
    names = [f"model-{number}.safetensors" for number in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        save_file(shard, folder / name)
    index = {"weight_map": {key: name for name, shard in zip(names, shards, strict=True) for key in shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return weights_fingerprint(folder)


def test_fingerprint(tmp_path):
    tensors = {"a": torch.zeros(3, 4), "b": torch.zeros(5), "large": torch.zeros(LARGE)}
    first = save(tmp_path / "one", [tensors])
    assert save(tmp_path / "two", [{"large": tensors["large"], "b": tensors["b"]}, {"a": tensors["a"]}]) == first
    others = [
        {**tensors, "a": torch.zeros(4, 3)},
        {**tensors, "b": torch.zeros(5).half()},
        {"a": tensors["a"], "c": tensors["b"], "large": tensors["large"]},
    ]
    for name in tensors:
        for place in (0, -1):
            changed = tensors[name].clone()
            changed.view(-1)[place] = 1
            others.append({**tensors, name: changed})
    found = {save(tmp_path / f"other{number}", [other]) for number, other in enumerate(others)}
    assert len(found) == len(others) and first not in found


def test_the_sample_of_a_large_tensor(tmp_path):
    between = torch.zeros(LARGE)
    between[BLOCK_BYTES // 4] = 1  # right behind the first block: what the docstring says is not seen
    everywhere = torch.zeros(LARGE)
    everywhere[::500] = 1  # one number in 500 is enough
    fingerprints = [
        save(tmp_path / str(number), [{"large": tensor}])
        for number, tensor in enumerate((torch.zeros(LARGE), between, everywhere))
    ]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


@pytest.fixture
def calibrated(tmp_path):
    folder = upcycle_checkpoint(save_dense(tmp_path / "dense"), tmp_path / "hybrid")
    _write(folder, thinking_threshold=0.3, calibration={"threshold": 0.3, "weights": weights_fingerprint(folder)})
    return folder


def _write(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def _check(folder):
    [check] = [check for check in validate_checkpoint(folder) if check.name == "calibration"]
    return check


def test_a_calibration_that_holds(calibrated):
    assert calibration_problem(calibrated) is None
    assert _check(calibrated).ok and _check(calibrated).detail.startswith("threshold 0.3, calibrated ")
    model = hybrid_of(calibrated)
    assert model.config.calibration["threshold"] == model.config.thinking_threshold == 0.3
    model.save_pretrained(calibrated)  # unchanged, in other files
    assert calibration_problem(calibrated) is None


def test_stale(calibrated):
    model = hybrid_of(calibrated)
    with torch.no_grad():
        model.model.language_model.router.score.bias += 1e-3
    model.save_pretrained(calibrated)
    assert "weights have changed" in calibration_problem(calibrated)
    assert _check(calibrated).ok is False and "stale: the weights" in _check(calibrated).detail


def test_a_turned_dial_is_stale(calibrated):
    _write(calibrated, thinking_threshold=0.7)
    assert "for the threshold 0.3, but `thinking_threshold` in config.json is 0.7" in calibration_problem(calibrated)
    _write(calibrated, calibration={"threshold": 0.7})
    assert "was not written by `metis-home calibrate`" in calibration_problem(calibrated)
    _write(calibrated, calibration=None)
    assert calibration_problem(calibrated) is None and _check(calibrated).detail == "none, threshold 0.7"
    assert calibration_problem("owner/name") is None  # of a repository that is not here nothing is known
