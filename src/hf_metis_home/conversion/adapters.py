"""Which modules of a two-branch model a LoRA adapter is put on."""

from typing import Literal

from ..modeling.configuration_metis_home import BRANCHES


def branch_target_modules(branch: Literal["thinking", "non_thinking", "both"], attention: bool = False) -> str:
    r"""
    The regular expression that PEFT takes as `target_modules` to adapt one branch, or both.

    An adapter on one branch leaves the answers of the other as they are, to the last bit. One that also adapts the
    attention, which the branches share, does not. The vision tower, the embeddings, the head, the router and the layers
    before the router, which have one feed-forward network for all, are never matched; to train the router along, pass
    PEFT `modules_to_save=["router"]`.

    Args:
        branch (`str`):
            `"thinking"`, `"non_thinking"` or `"both"`: the feed-forward networks to adapt.
        attention (`bool`, *optional*, defaults to `False`):
            Also adapt the attention of every decoder layer, those before the router included.

    Returns:
        `str`: matches the full names of the modules in a model with or without a head.

    Raises:
        ValueError: `branch` is none of the three.

    Example:

    ```python
    >>> from peft import LoraConfig

    >>> from hf_metis_home import branch_target_modules

    >>> print(branch_target_modules("thinking"))
    (.*\.)?layers\.\d+\.(mlp\.thinking\.(gate|up|down)_proj)
    >>> config = LoraConfig(r=16, target_modules=branch_target_modules("thinking"), modules_to_save=["router"])
    ```
    """
    if branch not in (*BRANCHES, "both"):
        raise ValueError(f"`branch` is {branch!r}, but must be one of {[*BRANCHES, 'both']}.")
    adapted = f"({'|'.join(BRANCHES)})" if branch == "both" else branch
    modules = [rf"mlp\.{adapted}\.(gate|up|down)_proj"]
    if attention:
        modules.append(r"self_attn\.[qkvo]_proj")
    return rf"(.*\.)?layers\.\d+\.({'|'.join(modules)})"
