"""
Print the versions that a bug report needs, and which extras can be used.

    metis-home env

    python -m hf_metis_home.cli.env
"""

import platform
import re
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

from ._run import run_verb


PACKAGES = ("torch", "torchvision", "transformers", "trl", "accelerate", "peft", "datasets", "huggingface-hub", "vllm")


@dataclass
class EnvArguments:
    pass


def main(argv: list[str] | None = None) -> int:
    """`metis-home env`. Takes no flags, gives the exit code."""
    return run_verb("env", EnvArguments, _env, argv, "Print the versions that a bug report needs.")


def _env(arguments: EnvArguments) -> None:
    import torch

    from .. import __version__

    lines = {"hf-metis-home": __version__, "python": platform.python_version(), "platform": platform.platform()}
    lines.update({package: _installed(package) or "not installed" for package in PACKAGES})
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    lines["accelerators"] = ", ".join(devices) or "none"
    lines["CPU threads"] = str(torch.get_num_threads())
    for name, value in lines.items():
        print(f"- {name}: {value}")
    for extra, missing in _missing_by_extra().items():
        state = f"✗ missing {', '.join(missing)}: pip install 'hf-metis-home[{extra}]'" if missing else "✓"
        print(f"- extra {extra}: {state}")


def _missing_by_extra() -> dict[str, list[str]]:
    """Extra to the packages that it lacks here, from the package's own metadata."""
    missing = {}
    for requirement in requires("hf-metis-home") or []:
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", requirement)
        package = re.match(r"[\w.-]+", requirement).group()
        if extra is not None:
            absent = missing.setdefault(extra.group(1), [])
            if _installed(package) is None:
                absent.append(package)
    return missing


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main())
