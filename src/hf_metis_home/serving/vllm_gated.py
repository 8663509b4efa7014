"""
The gated export (`modeling/gated_metis_home.py`) on vLLM's own Qwen2.5-VL, with its attention, fused layers and tensor
parallelism. Only vLLM imports this, when it serves such a model.
"""

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.model_executor.layers.linear import ReplicatedLinear
from vllm.model_executor.models.qwen2 import Qwen2MLP
from vllm.model_executor.models.qwen2_5_vl import Qwen2_5_VLForConditionalGeneration
from vllm.model_executor.models.utils import PPMissingLayer, maybe_prefix

from ..modeling.configuration_metis_home import BRANCHES
from ..modeling.gated_metis_home import GATE


class GatedBranches(nn.Module):
    """Both branches of a decoder layer; without an adapter the non-thinking one answers."""

    def __init__(self, text_config, quant_config, prefix: str):
        super().__init__()
        sizes = (text_config.hidden_size, text_config.intermediate_size, text_config.hidden_act)
        for branch in BRANCHES:
            setattr(self, branch, Qwen2MLP(*sizes, quant_config=quant_config, prefix=f"{prefix}.{branch}"))
        # Never quantised: its outputs are compared, and it is too small to save memory.
        self.branch_gate = ReplicatedLinear(GATE, GATE, bias=False, prefix=f"{prefix}.branch_gate")

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        gate, _ = self.branch_gate(hidden_states.new_ones(*hidden_states.shape[:-1], GATE))  # [T, 16]
        thinking = gate[..., :1] > gate[..., 1:2]
        return torch.where(thinking, self.thinking(hidden_states), self.non_thinking(hidden_states))


class MetisHomeGatedForConditionalGeneration(Qwen2_5_VLForConditionalGeneration):
    """Qwen2.5-VL with gated branches. Loads the export's tensors under their own names."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = ""):
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        decoder = self.language_model.model
        for number in range(self.config.router_layer, len(decoder.layers)):
            # One layer at a time, so that the old network's memory is free for the new ones.
            layer = decoder.layers[number]
            if not isinstance(layer, PPMissingLayer):
                layer.mlp = None
                name = maybe_prefix(prefix, f"language_model.model.layers.{number}.mlp")
                layer.mlp = GatedBranches(decoder.config, decoder.quant_config, name)
