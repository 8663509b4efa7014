"""
Print versions, devices, attention backends and extras, and how to install what is missing.

    metis-home env
"""

import os
import platform
import re
import shutil
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

from .._versions import versions
from ._run import verb


DISTRIBUTION = "hf-metis-home"


@dataclass
class EnvArguments:
    """None besides --config."""


@verb
def main(arguments: EnvArguments) -> None:
    """Run `metis-home env`."""
    lines = {**versions(), "platform": platform.platform(), **_devices(), **_attention()}
    for extra, problems in extra_problems().items():
        name = f"extra {extra}" if extra else "required packages"
        install = f"{DISTRIBUTION}[{extra}]" if extra else DISTRIBUTION
        lines[name] = f"✗ {', '.join(problems)}: pip install '{install}'" if problems else "✓"
    for name, value in lines.items():
        print(f"- {name}: {value}")


def _devices() -> dict[str, str]:
    """The devices of this machine."""
    import psutil
    import torch

    devices = {}
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
        devices[f"cuda:{index}"] = f"{properties.name}, {properties.total_memory / 1e9:.0f} GB, {bf16}"
    if torch.backends.mps.is_available():
        devices["mps"] = "Apple GPU"
    if not devices:
        devices["GPU"] = "none"
        if torch.version.cuda is None and torch.version.hip is None and shutil.which("nvidia-smi"):
            devices["GPU"] = (
                f"✗ NVIDIA driver present, but torch {torch.__version__} is built without CUDA: see "
                "https://pytorch.org/get-started"
            )
    memory = psutil.virtual_memory().total / 1e9
    devices["CPU"] = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads for torch, {memory:.0f} GB"
    return devices


def _attention() -> dict[str, str]:
    """Whether each `attn_implementation` works here, and why not."""
    import torch
    from transformers.utils import import_utils

    states = {"attention eager": "✓", "attention sdpa": "✓"}
    for number, package in enumerate((f"'{DISTRIBUTION}[flash]'", "flash-attn-3", "flash-attn-4"), start=2):
        missing = f"not installed: pip install {package}" if torch.cuda.is_available() else "needs a CUDA device"
        available = getattr(import_utils, f"is_flash_attn_{number}_available")()
        states[f"attention flash_attention_{number}"] = "✓" if available else f"✗ {missing}"
    return states


def extra_problems() -> dict[str, list[str]]:
    """
    Missing or outdated packages, according to this package's metadata.

    Returns:
        `dict[str, list[str]]`: extra (`""` for required packages) to its problems.

    Example:

    ```python
    >>> from hf_metis_home.cli.env import extra_problems

    >>> extra_problems()["train"]
    []
    ```
    """
    from packaging.requirements import Requirement

    problems: dict[str, list[str]] = {}
    for line in requires(DISTRIBUTION) or []:
        requirement = Requirement(line)
        extra = re.search(r"extra == ['\"]([\w-]+)", line)
        missing = problems.setdefault(extra.group(1) if extra else "", [])
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            missing.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            missing.append(f"{requirement.name} is {installed}, but must be {requirement.specifier}")
    return problems


if __name__ == "__main__":
    raise SystemExit(main())
