"""
Low-rank deltas `scaling * B @ A` of linear layers, as LoRA has them: where a hybrid keeps them, how a branch starts
without one, how one is added to a weight, and the best delta of a rank for the difference of two weights.
"""

import math
from typing import NamedTuple
from zlib import crc32

import torch
from torch.nn.functional import pad

from .._progress import progress
from ..modeling.configuration_metis_home import ATTENTION_PROJECTIONS, BRANCHES, FFN_PROJECTIONS, MetisHomeConfigMixin
from .checkpoint import Checkpoint, LazyTensor


class LowRankDelta(NamedTuple):
    """`scaling * B @ A`, added to the weight of a linear layer. `A`: `(rank, in)`; `B`: `(out, rank)`."""

    A: LazyTensor
    B: LazyTensor
    scaling: float


def add_delta(weight: LazyTensor, delta: LowRankDelta | None) -> LazyTensor:
    """A weight plus a delta, if there is one. Computed in fp32 and rounded to the dtype of the weight."""
    if delta is None:
        return weight

    def read():
        change = delta.B.read().float() @ delta.A.read().float() * delta.scaling  # [out, in]
        return (weight.read().float() + change).to(weight.dtype)

    return LazyTensor(weight.shape, weight.dtype, read)


def low_rank_modules(config: MetisHomeConfigMixin) -> list[str]:
    """Dense names of the modules that branches of the `"lora"` kind change."""
    parents = {**dict.fromkeys(FFN_PROJECTIONS, "mlp"), **dict.fromkeys(ATTENTION_PROJECTIONS, "self_attn")}
    return [
        f"{config.text_model}layers.{layer}.{parents[projection]}.{projection}"
        for layer in range(config.router_layer, config.get_text_config().num_hidden_layers)
        for projection in config.branch_projections
    ]


def delta_names(module: str, branch: str) -> tuple[str, str]:
    """Names of `A` and `B` in a hybrid, from the dense name of the module."""
    parent, _, projection = module.rpartition(".")
    name = f"{parent}.{branch}.{projection}.lora_"
    return f"{name}A.weight", f"{name}B.weight"


def branch_deltas(hybrid: Checkpoint, branch: str) -> dict[str, LowRankDelta]:
    """The deltas of a branch of the `"lora"` kind, by the dense name of the module."""
    config = hybrid.config
    deltas, scaling = {}, config.branch_alpha / config.branch_rank
    for module in low_rank_modules(config):
        A, B = (hybrid.tensors[name] for name in delta_names(module, branch))
        deltas[module] = LowRankDelta(A, B, scaling)
    return deltas


def low_rank_tensors(
    dense: dict[str, LazyTensor], config: MetisHomeConfigMixin, deltas: dict[str, dict[str, LowRankDelta]],
    dtype: torch.dtype | None, seed: int,
) -> dict[str, LazyTensor]:  # fmt: skip
    """`A` and `B` of both branches, from their deltas by branch and module; a module without one starts at zero."""
    tensors, scaling = {}, config.branch_alpha / config.branch_rank
    for module in low_rank_modules(config):
        if f"{module}.weight" not in dense:
            continue  # in some backbones not every layer has attention
        for branch in BRANCHES:
            names = delta_names(module, branch)
            if delta := deltas.get(branch, {}).get(module):
                A, B = _fitted(delta, config.branch_rank, scaling)
            else:
                A, B = _zero_delta(dense[f"{module}.weight"], config.branch_rank, f"{seed} {names[0]}")
            tensors |= {names[0]: A.to(dtype), names[1]: B.to(dtype)}
    return tensors


def _fitted(delta: LowRankDelta, rank: int, scaling: float) -> tuple[LazyTensor, LazyTensor]:
    """`A` and `B` at the rank and scaling of the model; unchanged to the last bit where the delta has both already."""
    missing, factor = rank - delta.A.shape[0], delta.scaling / scaling
    A, B = delta.A, delta.B
    if missing:
        A = LazyTensor((rank, A.shape[1]), A.dtype, lambda: pad(delta.A.read(), (0, 0, 0, missing)))
    if missing or factor != 1.0:
        B = LazyTensor((B.shape[0], rank), B.dtype, lambda: pad(delta.B.read() * factor, (0, missing)))
    return A, B


def _zero_delta(weight: LazyTensor, rank: int, seed: str) -> tuple[LazyTensor, LazyTensor]:
    """`A` random, as PEFT draws it, and `B` zero: changes nothing until it is trained."""
    out_features, in_features = weight.shape

    def start():
        generator = torch.Generator().manual_seed(crc32(seed.encode()))
        bound = 1 / math.sqrt(in_features)
        return torch.empty(rank, in_features).uniform_(-bound, bound, generator=generator).to(weight.dtype)

    A = LazyTensor((rank, in_features), weight.dtype, start)
    B = LazyTensor((out_features, rank), weight.dtype, lambda: torch.zeros(out_features, rank, dtype=weight.dtype))
    return A, B


def approximate_differences(
    networks: dict[str, LazyTensor], base: dict[str, LazyTensor], rank: int, max_error: float, argument: str = "rank"
) -> tuple[dict[str, LowRankDelta], dict[str, float]]:
    """
    The best deltas of a rank for the differences of some weights from those of a base.

    Args:
        networks, base (`dict[str, LazyTensor]`):
            By the dense name of the weight.
        rank (`int`):
            An error calls it `argument`.
        max_error (`float`):
            Largest error allowed in any weight, relative to the Frobenius norm of its difference.

    Returns:
        The deltas by the dense name of the module, and by weight the energy that each keeps (the share of the squared
        Frobenius norm). Weights that do not differ are left out.

    Raises:
        ValueError: the rank loses more than `max_error`.
    """
    deltas, kept, needed = {}, {}, {}
    with progress("Decomposing", len(networks), "weights") as advance:
        for name, network in networks.items():
            difference = network.read().float() - base[name].read().float()
            if difference.any():
                approximation = LowRankApproximation(difference)
                error = approximation.error(rank)
                if error > max_error:
                    needed[name] = approximation.rank_for(max_error), error
                A, B = map(LazyTensor.of, approximation.factors(rank))
                deltas[name.removesuffix(".weight")] = LowRankDelta(A, B, scaling=1.0)
                kept[name] = 1 - error**2
            advance(1)
    if needed:
        worst = max(needed, key=lambda name: needed[name])
        raise ValueError(
            f"`{argument}` is {rank}, which loses more than `max_error={max_error}` in {len(needed)} of "
            f"{len(networks)} weights, most in {worst} ({needed[worst][1]:.3f}). Rank {needed[worst][0]} is enough; "
            "otherwise allow a larger `max_error`, or keep 'ffn' branches."
        )
    return deltas, kept


class LowRankApproximation:
    """
    The best approximations of a matrix by matrices of lower rank (Eckart and Young 1936).

    Computed in fp64 from the eigenvectors of the smaller Gram matrix, on the GPU if there is one.

    Args:
        matrix (`torch.Tensor` of shape `(out, in)`):
            Not zero.
    """

    def __init__(self, matrix: torch.Tensor):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.matrix = matrix.to(device, torch.float64)
        self.wide = matrix.shape[1] >= matrix.shape[0]
        gram = self.matrix @ self.matrix.T if self.wide else self.matrix.T @ self.matrix
        energies, vectors = torch.linalg.eigh(gram)  # ascending
        self.energies = energies.flip(0).clamp(min=0)
        self.vectors = vectors.flip(1)

    def error(self, rank: int) -> float:
        """Frobenius norm of what a rank loses, relative to that of the matrix."""
        return float((self.energies[rank:].sum() / self.energies.sum()).sqrt())

    def rank_for(self, error: float) -> int:
        """The smallest rank that loses at most `error`."""
        lost = (1 - self.energies.cumsum(0) / self.energies.sum()).clamp(min=0).sqrt()
        return min(int((lost > error).sum()) + 1, len(self.energies))

    def factors(self, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        """`A` of shape `(rank, in)` and `B` of shape `(out, rank)` in fp32; `B @ A` is the approximation."""
        vectors = self.vectors[:, :rank]
        A, B = (vectors.T @ self.matrix, vectors) if self.wide else (vectors.T, self.matrix @ vectors)
        return A.float().contiguous().cpu(), B.float().contiguous().cpu()
