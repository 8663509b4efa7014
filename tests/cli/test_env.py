"""`metis-home env`: what a bug report needs, and what is missing here."""

import shutil
from importlib.metadata import PackageNotFoundError

import torch
from transformers.utils import import_utils

from hf_metis_home.cli import env, main


def lines(capsys) -> dict[str, str]:
    assert main(["env"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert all(line.startswith("- ") and ": " in line for line in printed)
    return dict(line.removeprefix("- ").split(": ", 1) for line in printed)


def test_versions_devices_and_extras(capsys):
    import hf_metis_home

    found = lines(capsys)
    assert found["hf-metis-home"] == hf_metis_home.__version__
    assert found["torch"] == torch.__version__.partition("+")[0]
    assert found["extra train"] == found["required packages"] == "✓" and "extra flash" in found
    assert f"{torch.get_num_threads()} threads for torch" in found["CPU"]
    assert found["attention sdpa"] == "✓"
    if not torch.cuda.is_available():
        assert found["attention flash_attention_2"] == "✗ needs a CUDA device"


def test_what_is_missing_is_named_with_the_command_that_gets_it(capsys, monkeypatch):
    installed = {"gradio": None, "trl": "1.2.0", "torch": "2.1.0"}
    version = env.version

    def fake(name):
        if name == "gradio":
            raise PackageNotFoundError
        return installed[name] if name in installed else version(name)

    monkeypatch.setattr(env, "version", fake)
    found = lines(capsys)
    assert found["extra space"] == "✗ gradio is missing: pip install 'hf-metis-home[space]'"
    assert found["extra train"] == ("✗ trl is 1.2.0, but must be <1.17,>=1.16: pip install 'hf-metis-home[train]'")
    assert found["required packages"] == "✗ torch is 2.1.0, but must be >=2.6: pip install 'hf-metis-home'"


def test_gpus_are_described(capsys, monkeypatch):
    class Properties:
        name, total_memory = "NVIDIA H100", 80e9

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Properties)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for number in (2, 3, 4):
        monkeypatch.setattr(import_utils, f"is_flash_attn_{number}_available", lambda number=number: number == 4)
    found = lines(capsys)
    assert found["cuda:0"] == "NVIDIA H100, 80 GB, bf16" and "GPU" not in found
    assert found["attention flash_attention_2"] == "✗ not installed: pip install 'hf-metis-home[flash]'"
    assert found["attention flash_attention_4"] == "✓"


def test_a_torch_without_cuda_beside_a_driver(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi" if name == "nvidia-smi" else None)
    assert "built without CUDA: see https://pytorch.org/get-started" in lines(capsys)["GPU"]
