"""
Branches inside any backbone's decoder layers, of both kinds. Ships to the Hub with the weights.

`branch_kind="ffn"`: two full feed-forward networks. `branch_kind="lora"`: one network for both, and per branch a LoRA
delta on each projection in `branch_projections` (Hu et al. 2021, arXiv 2106.09685).

No forward of the backbone is restated. It asks a layer for `self.mlp` and calls that with the hidden states alone; for
one call it runs on a *view* of the layer, in which `mlp` is the branches with this call's [`Routing`] bound. So modules
keep nothing between calls.
"""

import copy
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import initialization as init

from .configuration_metis_home import BRANCHES, FFN_NAMES, MetisHomeConfigMixin, MixinBase


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
            Takes `(rows, seq_len, ...)`; None if only the other one is loaded, which then runs.
        hidden_states (`torch.Tensor` of shape `(batch_size, seq_len, ...)`):
            Their input.
        branch (`bool`, `torch.BoolTensor` of shape `(batch_size,)` or `BranchRows`):
            A `bool`: every row takes that branch, the other is not run. `BranchRows`: each branch runs on its own rows,
            on none if need be. A tensor: both run on every row and the tensor selects.
    """
    if thinking is None or non_thinking is None:
        branch = non_thinking is None
    if isinstance(branch, bool):
        return thinking(hidden_states) if branch else non_thinking(hidden_states)
    if isinstance(branch, torch.Tensor):
        branch = branch.to(hidden_states.device)[:, None, None]
        return torch.where(branch, thinking(hidden_states), non_thinking(hidden_states))
    # Thinking first, whatever the rows: a sharded run (ZeRO-3) gathers parameters in the order of their use, and hangs
    # or mixes them up if ranks differ in that order. The sum over no rows is 0: a zero gradient for the idle branch.
    if branch.thinking.shape[0] == 0:
        return thinking(hidden_states[:0]).sum() + non_thinking(hidden_states)
    if branch.non_thinking.shape[0] == 0:
        return thinking(hidden_states) + non_thinking(hidden_states[:0]).sum()
    # A device map may have put this layer elsewhere than the one that decided.
    rows_of = [rows.to(hidden_states.device) for rows in branch]
    outputs = [
        run(hidden_states.index_select(0, rows)) for run, rows in zip((thinking, non_thinking), rows_of, strict=True)
    ]
    # Each written once, in its place: on a CPU, an intermediate buffer costs more than the copies.
    output = outputs[0].new_empty(hidden_states.shape[0], *outputs[0].shape[1:])
    for rows, values in zip(rows_of, outputs, strict=True):
        output.index_copy_(0, rows, values)
    return output


class MetisHomeBranches(nn.Module):
    """The feed-forward branches of a decoder layer, each the backbone's own: both, or the one in `only_branch`."""

    def __init__(self, ffn: nn.Module, config: MetisHomeConfigMixin):
        super().__init__()
        first, *others = config.loaded_branches
        setattr(self, first, ffn)
        for branch in others:
            setattr(self, branch, copy.deepcopy(ffn))
            for module in getattr(self, branch).modules():
                module._is_hf_initialized = False  # it draws weights of its own

    def forward(self, hidden_states: torch.Tensor, routing) -> torch.Tensor:
        """`hidden_states` of shape `(batch_size, seq_len, hidden_size)`; `routing` holds the branch."""
        thinking, non_thinking = (getattr(self, name, None) for name in BRANCHES)
        return run_branch(thinking, non_thinking, hidden_states, routing.branch)


class MetisHomeZeroLinear(nn.Linear):
    """A linear layer that starts at zero: the router's scores, and `lora_B`."""

    def reset_parameters(self):
        for parameter in self.parameters(recurse=False):
            init.zeros_(parameter)  # but not what was loaded


class MetisHomeLowRank(nn.Module):
    """The LoRA delta of a linear layer, `scaling * lora_B(lora_A(x))`: zero until it is trained."""

    def __init__(self, linear: nn.Linear, config: MetisHomeConfigMixin):
        super().__init__()
        self.scaling = config.branch_alpha / config.branch_rank
        self.lora_A = nn.Linear(linear.in_features, config.branch_rank, bias=False)
        self.lora_B = MetisHomeZeroLinear(config.branch_rank, linear.out_features, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.lora_B(self.lora_A(hidden_states)) * self.scaling


class View:
    """A module in which some children are replaced, for one call."""

    forward = None  # a layer's forward compares it with itself, to checkpoint once only

    def __init__(self, module: nn.Module, children: dict[str, Callable]):
        self.__dict__.update(children, _module=module)

    def __getattr__(self, name: str):
        return getattr(self.__dict__["_module"], name)

    def __setattr__(self, name: str, value):
        setattr(self.__dict__["_module"], name, value)

    @property  # type: ignore[misc]
    def __class__(self):
        return type(self.__dict__["_module"])


class MetisHomeModuleMixin(MixinBase):
    """In front of a backbone's module: children in `branched` take the routing, `projections` have LoRA deltas."""

    branched: tuple[str, ...] = ()
    projections: tuple[str, ...] = ()

    def forward(self, *args, routing, **kwargs):
        children = {name: partial(getattr(self, name), routing=routing) for name in self.branched}
        children |= {name: partial(self._project, name, routing) for name in self.projections}
        return self.dense_forward(View(self, children) if children else self, *args, **kwargs)

    def _project(self, name: str, routing, hidden_states: torch.Tensor) -> torch.Tensor:
        """The projection `name` plus the delta of the branch."""
        thinking, non_thinking = (getattr(self, branch)[name] if hasattr(self, branch) else None for branch in BRANCHES)
        return getattr(self, name)(hidden_states) + run_branch(thinking, non_thinking, hidden_states, routing.branch)

    def __reduce__(self):  # to pickle: the class exists nowhere by its name
        return _rebuilt, type(self).__bases__, self.__dict__


class MetisHomeLayerMixin(MetisHomeModuleMixin):
    """In front of a backbone's decoder layer. The one at the router's depth has the call decided."""

    decides = False

    def __call__(self, hidden_states: torch.Tensor, *args, routing, **kwargs):
        # Here, because gradient checkpointing recomputes `forward`, and the decision must not be.
        if self.decides:
            routing.decide(hidden_states)
        if routing.route_only and routing.branch_logits is not None:
            return hidden_states
        return super().__call__(hidden_states, *args, routing=routing, **kwargs)


@cache
def _mixed(mixin: Any, dense: Any) -> Any:
    # By the dense name, by which device maps and FSDP find layers.
    return type(dense.__name__, (mixin, dense), {"dense_forward": staticmethod(dense.forward), "__module__": __name__})


def _rebuilt(mixin: Any, dense: Any) -> nn.Module:
    cls = _mixed(mixin, dense)
    return cls.__new__(cls)


def _become(module: nn.Module, mixin: type, **names: Sequence[str]) -> None:
    dense: Any = type(module)
    module.__class__ = _mixed(mixin, dense)
    for name, value in names.items():
        setattr(module, name, tuple(value))


def add_branches(layers: nn.ModuleList, config: MetisHomeConfigMixin) -> None:
    """Give a language model's decoder layers their branches, in place."""
    changed: set[str] = set()
    for depth, layer in enumerate(layers):
        branched = []
        if depth >= config.router_layer:
            ffn = next(name for name in FFN_NAMES if hasattr(layer, name))
            if config.branch_kind == "ffn":
                setattr(layer, ffn, MetisHomeBranches(getattr(layer, ffn), config))
                branched = [ffn]
            else:
                deltas = {name: _add_deltas(getattr(layer, name, None), config) for name in ("self_attn", ffn)}
                branched = [name for name, names in deltas.items() if names]
                changed.update(*deltas.values())
        _become(layer, MetisHomeLayerMixin, branched=branched)  # all of them: FSDP takes the first class of a name
        layer.decides = depth == config.router_layer
    missing = sorted(set(config.branch_projections) - changed)
    if missing and config.branch_kind == "lora" and not config.is_router_only:
        raise ValueError(f"`branch_projections` names {missing}, which no {type(layers[0]).__name__} has. Drop them.")


def _add_deltas(module: nn.Module | None, config: MetisHomeConfigMixin) -> list[str]:
    """Add LoRA deltas to those of `branch_projections` that a module has, and return their names."""
    names = [name for name in config.branch_projections if hasattr(module, name)]
    if not names:
        return names
    for branch in config.loaded_branches:
        deltas = {name: MetisHomeLowRank(getattr(module, name), config) for name in names}
        setattr(module, branch, nn.ModuleDict(deltas))
    _become(module, MetisHomeModuleMixin, projections=names)
    return names
