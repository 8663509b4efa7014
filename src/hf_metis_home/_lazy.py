"""Names that a package imports when they are first used, so that importing the package itself is fast."""

from collections.abc import Callable
from importlib import import_module
from typing import Any


def lazy_exports(
    package: str, exports: dict[str, list[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list]:
    """
    The `__getattr__`, `__dir__` and `__all__` of a package.

    Args:
        package (`str`):
            Its `__name__`.
        exports (`dict[str, list[str]]`):
            Modules or packages inside it, each with the public names that it defines.

    Example:

    ```python
    >>> from hf_metis_home._lazy import lazy_exports

    >>> load, _, names = lazy_exports("hf_metis_home", {"answers.matching": ["answers_match"]})
    >>> names, load("answers_match").__name__
    (['answers_match'], 'answers_match')
    ```
    """
    modules = {name: module for module, names in exports.items() for name in names}

    def load(name: str):
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f".{modules[name]}", package), name)

    return load, lambda: list(modules), list(modules)
