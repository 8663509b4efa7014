"""
A hybrid for engines that serve LoRA adapters: a request's adapter is its branch. Ships to the Hub with the weights.

A feed-forward network computes both branches and takes the one that a small linear layer, `branch_gate`, selects. Its
weights are zero and its input is ones; an adapter on it, the same for every model, makes the selection. So whatever an
engine does for adapters (batches with different ones, a prefix cache that keeps them apart) it does for branches. The
rest is plain Qwen2.5-VL, without a router: the branch was chosen before.
"""

import torch
from torch import nn
from transformers import Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLModel,
    Qwen2MLP,
)

from .configuration_metis_home import BRANCHES, tensor_parallel_plan


GATE = 16  # the smallest layer that adapter kernels take


class MetisHomeGatedConfig(Qwen2_5_VLConfig):
    """
    Args:
        router_layer (`int`, *optional*, defaults to 0):
            The first so many decoder layers have one feed-forward network, the others two branches.
    """

    model_type = "metis_home_gated"
    router_layer: int = 0

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        plan = type(self.text_config).base_model_tp_plan
        self.text_config.base_model_tp_plan = tensor_parallel_plan(plan, self.router_layer > 0, BRANCHES, None)


class MetisHomeGatedBranches(nn.Module):
    """Both branches of a decoder layer; without an adapter the non-thinking one answers."""

    def __init__(self, config):
        super().__init__()
        for branch in BRANCHES:
            setattr(self, branch, Qwen2MLP(config))
        self.branch_gate = nn.Linear(GATE, GATE, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        gate = self.branch_gate(hidden_states.new_ones(*hidden_states.shape[:-1], GATE))  # [B, T, 16]
        # Selected, not weighted: exact in any precision, and what overflows in the other branch stays there.
        thinking = gate[..., :1] > gate[..., 1:2]
        return torch.where(thinking, self.thinking(hidden_states), self.non_thinking(hidden_states))


class MetisHomeGatedModel(Qwen2_5_VLModel):
    """Qwen2.5-VL without a head, with gated branches."""

    config: MetisHomeGatedConfig

    def __init__(self, config: MetisHomeGatedConfig):
        super().__init__(config)
        for layer in self.language_model.layers[config.router_layer :]:
            layer.mlp = MetisHomeGatedBranches(config.text_config)
        self.post_init()


class MetisHomeGatedForConditionalGeneration(Qwen2_5_VLForConditionalGeneration):
    """Qwen2.5-VL with gated branches."""

    config: MetisHomeGatedConfig

    def __init__(self, config: MetisHomeGatedConfig):
        super(Qwen2_5_VLForConditionalGeneration, self).__init__(config)
        self.model = MetisHomeGatedModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()


MetisHomeGatedConfig.register_for_auto_class()
MetisHomeGatedModel.register_for_auto_class("AutoModel")
MetisHomeGatedForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")

__all__ = ["MetisHomeGatedConfig", "MetisHomeGatedForConditionalGeneration", "MetisHomeGatedModel"]
