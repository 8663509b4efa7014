"""
The entry point of group `vllm.general_plugins`: where this package is installed beside vLLM, vLLM's own Qwen2.5-VL
serves the gated export, without the code in the exported folder.

vLLM loads it in each of its processes, whatever it serves, and logs what fails at import. So nothing here is done that
could fail later.
"""

from transformers import AutoConfig
from vllm import ModelRegistry

from ..modeling.gated_metis_home import MetisHomeGatedConfig


def register() -> None:
    """Make the gated export known to vLLM. May be called again."""
    AutoConfig.register(MetisHomeGatedConfig.model_type, MetisHomeGatedConfig, exist_ok=True)
    name = "MetisHomeGatedForConditionalGeneration"
    # By name: vLLM imports a model's module when it is served, and never before a process is forked.
    ModelRegistry.register_model(name, f"{__package__}.vllm_gated:{name}")
