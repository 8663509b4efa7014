"""
Decoder layers with two branches, of both kinds. Ships to the Hub with the weights.

`branch_kind="ffn"`: two full feed-forward networks. `branch_kind="lora"`: one network for both, and per branch a LoRA
delta on each projection in `branch_projections` (Hu et al. 2021, arXiv 2106.09685). Modules keep nothing between calls:
the decision is an argument.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as dense

from .compat_metis_home import CACHE
from .configuration_metis_home import ATTENTION_PROJECTIONS, BRANCHES, MetisHomeTextConfig


class BranchRows(NamedTuple):
    """Which rows of a batch each branch computes (`LongTensor`s)."""

    thinking: torch.Tensor
    non_thinking: torch.Tensor


def run_branch(
    thinking: Callable | None,
    non_thinking: Callable | None,
    hidden_states: torch.Tensor,
    branch: bool | torch.Tensor | BranchRows,
) -> torch.Tensor:
    """
    Run each row through its branch.

    Args:
        thinking, non_thinking (`Callable`):
            Takes `(rows, seq_len, ...)`; None if only the other one is loaded.
        hidden_states (`torch.Tensor` of shape `(batch_size, seq_len, ...)`):
            Their input.
        branch (`bool`, `torch.BoolTensor` of shape `(batch_size,)` or `BranchRows`):
            A `bool`: every row takes that branch, the other is not run. `BranchRows`: each branch runs on its own rows,
            on none if need be. A tensor: both run on every row and the tensor selects.
    """
    if isinstance(branch, bool):
        return thinking(hidden_states) if branch else non_thinking(hidden_states)
    if isinstance(branch, torch.Tensor):
        return torch.where(branch[:, None, None], thinking(hidden_states), non_thinking(hidden_states))
    # Thinking first, whatever the rows: a sharded run (ZeRO-3) gathers parameters in the order of their use, and hangs
    # or mixes them up if ranks differ in that order. The sum over no rows is 0: a zero gradient for the idle branch.
    if branch.thinking.shape[0] == 0:
        return thinking(hidden_states[:0]).sum() + non_thinking(hidden_states)
    if branch.non_thinking.shape[0] == 0:
        return thinking(hidden_states) + non_thinking(hidden_states[:0]).sum()
    outputs = [
        thinking(hidden_states.index_select(0, branch.thinking)),
        non_thinking(hidden_states.index_select(0, branch.non_thinking)),
    ]
    # Each written once, in its place: on a CPU, an intermediate buffer costs more than the copies.
    output = outputs[0].new_empty(hidden_states.shape[0], *outputs[0].shape[1:])
    for rows, values in zip(branch, outputs, strict=True):
        output.index_copy_(0, rows, values)
    return output


class MetisHomeBranches(nn.Module):
    """The feed-forward branches of a decoder layer, each a plain `Qwen2MLP`: both, or the one in `only_branch`."""

    def __init__(self, config: MetisHomeTextConfig):
        super().__init__()
        for branch in config.loaded_branches:
            setattr(self, branch, dense.Qwen2MLP(config))

    def forward(self, hidden_states: torch.Tensor, branch: bool | torch.Tensor | BranchRows) -> torch.Tensor:
        """`hidden_states` of shape `(batch_size, seq_len, hidden_size)`; `branch` as in [`run_branch`]."""
        thinking, non_thinking = (getattr(self, name, None) for name in BRANCHES)
        return run_branch(thinking, non_thinking, hidden_states, branch)


class MetisHomeZeroLinear(nn.Linear):
    """A linear layer that starts at zero: the router's scores, and `lora_B`."""

    def reset_parameters(self):
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class MetisHomeLowRank(nn.Module):
    """The LoRA delta of a linear layer, `scaling * lora_B(lora_A(x))`: zero until it is trained."""

    def __init__(self, linear: nn.Linear, config: MetisHomeTextConfig):
        super().__init__()
        self.scaling = config.branch_alpha / config.branch_rank
        self.lora_A = nn.Linear(linear.in_features, config.branch_rank, bias=False)
        self.lora_B = MetisHomeZeroLinear(config.branch_rank, linear.out_features, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.lora_B(self.lora_A(hidden_states)) * self.scaling


class _LowRankBranches:
    """For modules with projections: one child per branch with the deltas of its projections."""

    def _add_branches(self, config: MetisHomeTextConfig):
        names = [name for name in config.branch_projections if hasattr(self, name)]
        for branch in config.loaded_branches:
            changes = {name: MetisHomeLowRank(getattr(self, name), config) for name in names}
            setattr(self, branch, nn.ModuleDict(changes))

    def _project(self, name: str, hidden_states: torch.Tensor, branch: bool | torch.Tensor | BranchRows):
        """The projection `name` plus the delta of the branch."""
        output = getattr(self, name)(hidden_states)
        changes = [getattr(self, branch_name, {}) for branch_name in BRANCHES]
        if not any(name in change for change in changes):
            return output
        thinking, non_thinking = (change[name] if name in change else None for change in changes)
        return output + run_branch(thinking, non_thinking, hidden_states, branch)


class MetisHomeLowRankMLP(_LowRankBranches, dense.Qwen2MLP):
    """One feed-forward network with LoRA deltas per branch."""

    def __init__(self, config: MetisHomeTextConfig):
        super().__init__(config)
        self._add_branches(config)

    def forward(self, hidden_states: torch.Tensor, branch: bool | torch.Tensor | BranchRows) -> torch.Tensor:
        """`hidden_states` of shape `(batch_size, seq_len, hidden_size)`; `branch` as in [`run_branch`]."""
        gate = self.act_fn(self._project("gate_proj", hidden_states, branch))
        return self._project("down_proj", gate * self._project("up_proj", hidden_states, branch), branch)


class MetisHomeLowRankAttention(_LowRankBranches, dense.Qwen2_5_VLAttention):
    """
    The parent's attention with LoRA deltas per branch.

    Restated, because the parent leaves no way to pass the branch to its projections.
    """

    def __init__(self, config: MetisHomeTextConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        self._add_branches(config)

    def forward(
        self,
        hidden_states: torch.Tensor,
        branch: bool | torch.Tensor | BranchRows,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        batch_size, length, _ = hidden_states.shape
        query, key, value = (
            self._project(name, hidden_states, branch).view(batch_size, length, -1, self.head_dim).transpose(1, 2)
            for name in ATTENTION_PROJECTIONS[:3]
        )
        query, key = dense.apply_rotary_pos_emb(query, key, *position_embeddings)
        cache: Cache | None = kwargs.pop(CACHE, None)
        if cache is not None:
            # From 5.24 on the paged cache of continuous batching adds what its attention needs to the keywords.
            paged = {"kwargs": kwargs} if CACHE == "cache" else {}
            key, value = cache.update(key, value, self.layer_idx, **paged)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, dense.eager_attention_forward)
        output, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            sliding_window=self.sliding_window,
            position_ids=position_ids,
            **kwargs,
        )
        output = output.reshape(batch_size, length, -1).contiguous()
        return self._project("o_proj", output, branch), weights


class MetisHomeDecoderLayer(dense.Qwen2_5_VLDecoderLayer):
    """Qwen2.5-VL's decoder layer with branches in its feed-forward network, and in attention with LoRA deltas."""

    def __init__(self, config: MetisHomeTextConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        self.mlp = (MetisHomeBranches if config.branch_kind == "ffn" else MetisHomeLowRankMLP)(config)
        self.attention_has_branches = config.branch_kind == "lora" and any(
            name in config.branch_projections for name in ATTENTION_PROJECTIONS
        )
        if self.attention_has_branches:
            self.self_attn = MetisHomeLowRankAttention(config, layer_idx)

    def forward(self, hidden_states: torch.Tensor, branch: bool | torch.Tensor | BranchRows, **kwargs) -> torch.Tensor:
        residual = hidden_states
        hidden_states = self.input_layernorm(hidden_states)
        attended = {"branch": branch} if self.attention_has_branches else {}
        hidden_states, _ = self.self_attn(hidden_states=hidden_states, **attended, **kwargs)
        hidden_states = residual + hidden_states

        residual = hidden_states
        hidden_states = self.post_attention_layernorm(hidden_states)
        hidden_states = self.mlp(hidden_states, branch)
        return residual + hidden_states
