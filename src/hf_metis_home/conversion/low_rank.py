"""The best low-rank approximation of a change of weights (Eckart and Young 1936), and what it loses."""

import torch


class LowRankApproximation:
    """
    A change of a weight, ready to be cut to any rank.

    Computed in fp64 from the eigenvectors of the smaller Gram matrix, on the GPU where there is one.

    Args:
        change (`torch.Tensor` of shape `(out, in)`):
            Not zero.
    """

    def __init__(self, change: torch.Tensor):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.change = change.to(device, torch.float64)
        self.wide = change.shape[1] >= change.shape[0]
        gram = self.change @ self.change.T if self.wide else self.change.T @ self.change
        energies, vectors = torch.linalg.eigh(gram)  # ascending
        self.energies = energies.flip(0).clamp(min=0)
        self.vectors = vectors.flip(1)

    def error(self, rank: int) -> float:
        """Frobenius norm of what is lost, over that of the change: 0 nothing, 1 all."""
        return float((self.energies[rank:].sum() / self.energies.sum()).sqrt())

    def rank_for(self, error: float) -> int:
        """The smallest rank that loses at most `error`."""
        lost = (1 - self.energies.cumsum(0) / self.energies.sum()).clamp(min=0).sqrt()
        return min(int((lost > error).sum()) + 1, len(self.energies))

    def halves(self, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        """`A` of shape `(rank, in)` and `B` of shape `(out, rank)` in fp32, whose product `B @ A` is nearest to it."""
        vectors = self.vectors[:, :rank]
        if self.wide:
            A, B = vectors.T @ self.change, vectors
        else:
            A, B = vectors.T, self.change @ vectors
        return A.float().contiguous().cpu(), B.float().contiguous().cpu()
