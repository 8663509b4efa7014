"""
Losses of the router: on labels, on the outcomes of both branches, or on the reward of the branch taken.

All take `branch_logits` `[B, 2]` (column 1 = thinking), compute in fp32 and return a differentiable scalar.

Left out: the expected regret `p(worse branch) * |gain|` itself. Its gradient has the factor `p (1 - p)`, which vanishes
where the router is sure, so one trained on task labels would never unlearn what outcomes prove wrong.
"""

import torch


def weighted_cross_entropy(
    branch_logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None = None
) -> torch.FloatTensor:
    """
    Cross-entropy towards a share of thinking: `mean(weight * -(target log p + (1 - target) log(1 - p)))`, where `p` is
    the probability of thinking. With weight 1 it is smallest where `p` is the mean of the targets.

    Args:
        branch_logits (`torch.Tensor` of shape `(batch_size, 2)`):
            Scores, column 1 = thinking.
        target (`torch.Tensor` of shape `(batch_size,)`):
            Share of thinking in [0, 1], or boolean labels.
        weight (`torch.Tensor` of shape `(batch_size,)`, *optional*):
            Weight of each row, 1 by default.

    Raises:
        ValueError: other shapes.

    Example:

    ```python
    >>> import torch
    >>> from hf_metis_home.trainers.router_losses import weighted_cross_entropy

    >>> weighted_cross_entropy(torch.zeros(2, 2), torch.tensor([True, False]))
    tensor(0.6931)
    ```
    """
    _check_shapes(branch_logits, target=target, **({} if weight is None else {"weight": weight}))
    log_p = branch_logits.float().log_softmax(dim=-1)  # [B, 2]
    target = target.detach().to(log_p)
    losses = -(target * log_p[:, 1] + (1 - target) * log_p[:, 0])  # [B]
    return (losses if weight is None else losses * weight.detach().to(log_p)).mean()


def regret_loss(branch_logits: torch.Tensor, gain: torch.Tensor) -> torch.FloatTensor:
    """
    Cross-entropy towards the better branch, weighted by what the choice is worth: `mean(|gain| * -log p(better))`.

    This is cost-sensitive classification. It is convex in the logits, and divided by `log 2` an upper bound of the
    regret of taking the branch with the higher score, because `-log p(better) >= log 2` if that is the worse one. With
    noisy gains the minimum is at `p = E[max(gain, 0)] / E[|gain|]`, so `p >= 0.5` exactly where thinking pays on
    average. `p` is the thinking branch's share of the stakes, not the probability that it is right.

    Args:
        branch_logits (`torch.Tensor` of shape `(batch_size, 2)`):
            Scores, column 1 = thinking.
        gain (`torch.Tensor` of shape `(batch_size,)`):
            Utility of the thinking branch minus that of the non-thinking one, in any unit. Rows with 0 add nothing,
            but count in the mean.

    Raises:
        ValueError: other shapes.

    Example:

    ```python
    >>> import torch
    >>> from hf_metis_home.trainers.router_losses import regret_loss

    >>> regret_loss(torch.zeros(2, 2), gain=torch.tensor([1.0, -0.5]))  # log 2 * (1 + 0.5) / 2
    tensor(0.5199)
    ```
    """
    _check_shapes(branch_logits, gain=gain)
    return weighted_cross_entropy(branch_logits, gain > 0, gain.float().abs())


def policy_gradient_loss(
    branch_logits: torch.Tensor, thinking: torch.Tensor, advantage: torch.Tensor
) -> torch.FloatTensor:
    """
    REINFORCE for the choice of the branch: `-mean(advantage * log p(taken branch))`.

    Args:
        branch_logits (`torch.Tensor` of shape `(batch_size, 2)`):
            Scores, column 1 = thinking.
        thinking (`torch.Tensor` of shape `(batch_size,)`):
            The branch that was taken, boolean or 0 / 1. The gradient is that of the expected reward if it was drawn
            from these probabilities (or the advantage is corrected for that).
        advantage (`torch.Tensor` of shape `(batch_size,)`):
            Reward of the answer minus a baseline. Gets no gradient.

    Raises:
        ValueError: other shapes.

    Example:

    ```python
    >>> import torch
    >>> from hf_metis_home.trainers.router_losses import policy_gradient_loss

    >>> policy_gradient_loss(torch.zeros(2, 2), torch.tensor([True, False]), torch.tensor([1.0, 0.5]))
    tensor(0.5199)
    ```
    """
    _check_shapes(branch_logits, thinking=thinking, advantage=advantage)
    log_p = branch_logits.float().log_softmax(dim=-1)
    taken = log_p.gather(1, thinking.to(log_p.device).long()[:, None])[:, 0]  # [B]
    return -(advantage.detach().to(log_p) * taken).mean()


def _check_shapes(branch_logits: torch.Tensor, **rows: torch.Tensor) -> None:
    """Raise an error for a wrong shape, which broadcasting would silently turn into a wrong loss."""
    if branch_logits.ndim != 2 or branch_logits.shape[1] != 2:
        raise ValueError(
            f"`branch_logits` has shape {tuple(branch_logits.shape)}, but must be (batch_size, 2), as from `route()`."
        )
    for name, values in rows.items():
        if values.shape != branch_logits.shape[:1]:
            raise ValueError(
                f"`{name}` has shape {tuple(values.shape)}, but must be ({len(branch_logits)},), one value per row."
            )
