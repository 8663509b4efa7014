"""
Entry point of the group `vllm.general_plugins`: with this package installed next to vLLM, vLLM serves the gated export
on its own Qwen2.5-VL, without the code in the exported folder.

vLLM loads the plugin in each of its processes, whatever model it serves, and logs errors at import. So nothing here may
fail later.
"""

from transformers import AutoConfig
from vllm import ModelRegistry

from ..modeling.gated_metis_home import MetisHomeGatedConfig


def register() -> None:
    """Make the gated export known to vLLM. Safe to call again."""
    AutoConfig.register(MetisHomeGatedConfig.model_type, MetisHomeGatedConfig, exist_ok=True)
    name = "MetisHomeGatedForConditionalGeneration"
    # By name, so that vLLM imports the module only when it serves the model, and never before it forks a process.
    ModelRegistry.register_model(name, f"{__package__}.vllm_gated:{name}")
