"""The versions behind a result."""

import platform
from importlib.metadata import PackageNotFoundError, version


PACKAGES = (
    "hf-metis-home",
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "huggingface-hub",
    "math-verify",
    "reasoning-gym",
    "vllm",
)


def versions() -> dict[str, str]:
    """
    Versions of Python and of the installed packages that results depend on. Imports none of them.

    Returns:
        `dict[str, str]`: name to version.

    Example:

    ```python
    >>> from hf_metis_home._versions import versions

    >>> versions()["transformers"]
    ```
    """
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
