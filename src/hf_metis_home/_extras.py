"""Which extra a missing import belongs to."""

from importlib.util import find_spec


def require_extra(extra: str, *modules: str) -> None:
    """
    Raise an error that names the extra if an optional dependency is missing. Imports nothing.

    Args:
        extra (`str`):
            Name of the extra in pyproject.toml, e.g. `"train"`.
        modules (`str`):
            Top-level import names that the caller is about to use.

    Raises:
        ImportError: at least one of `modules` is not installed.

    Example:

    ```python
    >>> from hf_metis_home._extras import require_extra

    >>> require_extra("train", "trl", "datasets")
    ```
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise ImportError(
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed, which this part of "
            f"hf_metis_home needs. Install with: pip install 'hf-metis-home[{extra}]'"
        )
