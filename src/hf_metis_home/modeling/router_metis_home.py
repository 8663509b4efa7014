"""
The router: what it reads, how it scores a prompt, and when a probability means thinking. Ships to the Hub with the
weights, so it imports only torch, transformers and its sibling files.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers.cache_utils import Cache
from transformers.utils.generic import maybe_autocast

from .branches_metis_home import BranchRows, MetisHomeZeroLinear
from .compat_metis_home import CACHE
from .configuration_metis_home import MetisHomeConfigMixin


ROUTER_QUERIES = 4  # learned queries of the "attention" pooling


def is_thinking(probability, threshold):
    """
    Whether a query goes to the thinking branch. The only place that compares a probability with a threshold.

    Compared in fp32, the router's precision, in which 0.7 reaches a threshold of 0.7.

    Args:
        probability (`float`, `torch.Tensor` or `numpy.ndarray`):
            The router's probability that a query needs thinking. NaN counts as not thinking.
        threshold (`float`, or array-like of the shape of `probability`):
            The threshold, or one per row.

    Returns:
        `bool`, `torch.BoolTensor` or a boolean `numpy.ndarray`, as `probability`.

    Example:

    ```python
    >>> is_thinking(0.7, 0.5), is_thinking(torch.tensor([0.2, 0.9]), 0.5)
    (True, tensor([False,  True]))
    ```
    """
    if isinstance(probability, torch.Tensor):
        if not isinstance(threshold, (int, float)):
            threshold = torch.as_tensor(threshold, dtype=torch.float32, device=probability.device)
        return probability.float() >= threshold
    thinking = is_thinking(torch.tensor(probability), threshold)
    return thinking.numpy() if thinking.ndim else thinking.item()


def check_thinking(thinking, batch_size: int, device) -> bool | torch.Tensor | None:
    """
    Bring every way to say `thinking` into one form.

    Returns:
        `None` (the router decides every row), a `bool` (all rows share a branch), a `torch.BoolTensor` of shape
        `(batch_size,)` (every row decided), or a `torch.LongTensor` of that shape, -1 where the router decides.
    """
    meaning = "True (thinking branch), False (non-thinking branch) or None (the router decides)"
    if thinking is None or isinstance(thinking, bool):
        return thinking
    if isinstance(thinking, (list, tuple)):
        for row, value in enumerate(thinking):
            if value is not None and not isinstance(value, bool):
                raise ValueError(f"`thinking[{row}]` is {value!r}, but must be {meaning}.")
        decided = None not in thinking
        thinking = torch.tensor([-1 if value is None else int(value) for value in thinking], device=device)
    elif isinstance(thinking, torch.Tensor):
        if thinking.is_floating_point() or thinking.is_complex():
            raise ValueError(
                f"`thinking` has dtype {thinking.dtype}, but must be boolean, or integer with 1, 0 and -1."
            )
        # A boolean tensor is decided by its type. Looking at values would wait for the device.
        decided = thinking.dtype == torch.bool or not bool((thinking < 0).any())
    else:
        raise ValueError(f"`thinking` is {thinking!r}, but must be {meaning}, or a list of such values, one per row.")
    if thinking.shape != (batch_size,):
        raise ValueError(
            f"`thinking` has shape {tuple(thinking.shape)}, but the batch has {batch_size} rows: pass one value per "
            "row, or a single True / False for all of them."
        )
    return thinking.to(device=device, dtype=torch.bool if decided else torch.long)


def check_prompts(attention_mask: torch.Tensor | None) -> None:
    """An error where `attention_mask` leaves a row without a token."""
    if not isinstance(attention_mask, torch.Tensor) or attention_mask.ndim != 2:
        return
    empty = ~attention_mask.bool().any(dim=-1)
    if empty.any():
        raise ValueError(
            f"`attention_mask` is all zero in row {int(empty.nonzero()[0])}: a prompt without a token cannot be routed "
            "or answered. Drop the row."
        )


def check_routable(cache: Cache | None, prompt_mask: torch.Tensor | None) -> None:
    """An error where the router would be asked too late (a filled cache), or would read the answer (training)."""
    if cache is not None and cache.get_seq_length() > 0:
        raise ValueError(
            f"`thinking` is not given, but `{CACHE}` already holds tokens: the router decides once per query, from "
            "the whole prompt. Pass `thinking=` with the branch of the query that is being continued."
        )
    if torch.is_grad_enabled() and prompt_mask is None:
        raise ValueError(
            "`thinking` is not given while gradients are on, and there is no `prompt_mask`: the router would read "
            "the answer. Pass `thinking=` and `prompt_mask=` (True on prompt tokens) to train, or use "
            "`torch.no_grad()`."
        )


def open_turns(input_ids: torch.LongTensor, config: MetisHomeConfigMixin) -> torch.LongTensor:
    """
    Where the assistant turn begins that each row leaves open.

    Args:
        input_ids (`torch.LongTensor` of shape `(batch_size, seq_len)`):
            The prompts, with -1 on tokens to ignore.
        config ([`MetisHomeConfigMixin`]):
            Knows the assistant header and the end of a turn.

    Returns:
        `torch.LongTensor` of shape `(batch_size,)`: position of the header, `seq_len` where no turn is open.
    """
    header, length = config.assistant_header_ids, input_ids.shape[1]
    if not header or length < len(header):
        return input_ids.new_full(input_ids.shape[:1], length)
    starts = (input_ids.unfold(1, len(header), 1) == torch.tensor(header, device=input_ids.device)).all(
        -1
    )  # [B, T - n + 1]
    positions = torch.arange(length, device=input_ids.device)
    last_header = torch.where(starts, positions[: starts.shape[1]], -1).amax(dim=1)
    last_end = torch.where(input_ids == config.end_of_turn_id, positions, -1).amax(dim=1)
    return torch.where(last_header > last_end, last_header, length)


def readable_tokens(
    config: MetisHomeConfigMixin,
    input_ids: torch.LongTensor | None,
    inputs: torch.Tensor,
    attention_mask: torch.Tensor | None,
    prompt_mask: torch.Tensor | None,
) -> torch.BoolTensor:
    """
    The tokens that the router reads: the prompt's, without padding and without an assistant turn that is open.

    `inputs` is `input_ids`, or `inputs_embeds` where there are none.
    """
    if prompt_mask is None:
        mask = torch.ones(inputs.shape[:2], dtype=torch.bool, device=inputs.device)
    elif prompt_mask.shape != inputs.shape[:2]:
        raise ValueError(
            f"`prompt_mask` has shape {tuple(prompt_mask.shape)}, but the input has {tuple(inputs.shape[:2])} "
            "(batch, tokens): mark every token, True where it belongs to the prompt."
        )
    else:
        mask = prompt_mask.bool()
    if isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2:
        mask = mask & attention_mask.bool()
    if input_ids is None:
        return mask
    # Tokens outside the prompt can neither open nor end a turn.
    opened = open_turns(input_ids.masked_fill(~mask, -1), config)
    return mask & (torch.arange(input_ids.shape[1], device=mask.device) < opened[:, None])


class Routing:
    """
    What one forward call says about branches, on its way through the backbone to the decoder layers, and what is
    decided there, on its way back. No dataclass: wrappers that shard or move a model pass copies of dataclasses on, and
    scores would stay there.

    Attributes:
        router ([`MetisHomeRouter`]):
            Scores the prompts, if there is something that it may read.
        thinking (`bool` or `torch.Tensor` of shape `(batch_size,)`, *optional*):
            As [`check_thinking`] returns it.
        threshold (`float`):
            Thinking where the router's probability is at least this.
        router_mask, vision_mask (`torch.BoolTensor` of shape `(batch_size, seq_len)`, *optional*):
            Tokens that the router reads, and those that hold image or video features. Without them it does not run.
        route_only (`bool`):
            Stop after the router.
        branch_logits (`torch.FloatTensor` of shape `(batch_size, 2)`, *optional*):
            The scores, where the router was asked.
        branch (`bool`, `torch.BoolTensor` or [`BranchRows`], *optional*):
            The decision, in the form in which the layers compute it cheapest.
    """

    def __init__(self):
        self.router = self.thinking = self.router_mask = self.vision_mask = self.branch_logits = self.branch = None
        self.threshold, self.route_only = 0.5, False

    def ask(self, hidden_states: torch.Tensor) -> None:
        """Have the router score the prompts, if there is something that it may read."""
        if self.router_mask is not None:
            self.branch_logits = self.router(hidden_states, self.router_mask, self.vision_mask)

    def decide(self, hidden_states: torch.Tensor) -> None:
        """Called by the decoder layer at the router's depth, with its input."""
        self.ask(hidden_states)
        if not self.route_only:
            self.branch = self._decided(hidden_states)

    def _decided(self, hidden_states: torch.Tensor) -> bool | torch.Tensor | BranchRows:
        thinking, training = self.thinking, torch.is_grad_enabled()
        if isinstance(thinking, bool):
            if not training or torch.compiler.is_compiling():
                return thinking
            thinking = torch.full((hidden_states.shape[0],), int(thinking), device=hidden_states.device)
        if self.branch_logits is not None:
            probability = self.branch_logits.detach().softmax(dim=-1)[:, 1]
            routed = is_thinking(probability, self.threshold).long()
            # A device map may have put the language model elsewhere than the inputs.
            thinking = routed if thinking is None else thinking.to(routed.device)
            thinking = torch.where(thinking < 0, routed, thinking)
        thinking = thinking.bool()
        if torch.compiler.is_compiling():
            return thinking  # how many rows take a branch is data, so a traced graph runs both on every row
        if not training:
            share = thinking.float().mean().item()
            if share in (0.0, 1.0):
                return bool(share)
        # With gradients on, a branch without rows still runs, on zero rows: a sharded or data-parallel run in which
        # ranks skip different branches would otherwise reduce gradients that do not belong together.
        return BranchRows(thinking.nonzero()[:, 0], (~thinking).nonzero()[:, 0])


class MetisHomeRouter(nn.Module):
    """
    Pools the prompt's hidden states and scores the two branches.

    Its weights are at least fp32 whatever the model's dtype, unless the user casts it, and it computes in their dtype.
    The scores start at zero, so an untrained router gives every query probability 0.5.
    """

    def __init__(self, config: MetisHomeConfigMixin):
        super().__init__()
        self.pooling = config.router_pooling
        self.hidden_size = config.get_text_config().hidden_size
        vectors = {"mean": 1, "modality_mean": 2, "attention": ROUTER_QUERIES}[self.pooling]
        # A decision is a threshold on a probability: rounding to bf16 would move it.
        dtype = torch.promote_types(torch.get_default_dtype(), torch.float32)
        if self.pooling == "attention":
            self.query = nn.Linear(self.hidden_size, ROUTER_QUERIES, bias=False, dtype=dtype)
        self.up_proj = nn.Linear(vectors * self.hidden_size, config.router_hidden_size, dtype=dtype)
        self.score = MetisHomeZeroLinear(config.router_hidden_size, 2, dtype=dtype)

    def forward(
        self, hidden_states: torch.Tensor, router_mask: torch.Tensor, vision_mask: torch.Tensor
    ) -> torch.FloatTensor:
        """
        Args:
            hidden_states (`torch.Tensor` of shape `(batch_size, seq_len, hidden_size)`):
                Hidden states of the prompt at the router's depth.
            router_mask (`torch.BoolTensor` of shape `(batch_size, seq_len)`):
                Tokens that the router may read.
            vision_mask (`torch.BoolTensor` of shape `(batch_size, seq_len)`):
                Tokens that hold image or video features.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, 2)`: scores, column 1 = thinking.
        """
        with maybe_autocast(device_type=hidden_states.device.type, enabled=False):
            return self.score(F.silu(self.up_proj(self.pool(hidden_states, router_mask, vision_mask))))

    def pool(
        self, hidden_states: torch.Tensor, router_mask: torch.Tensor, vision_mask: torch.Tensor
    ) -> torch.FloatTensor:
        """One vector per prompt, of shape `(batch_size, vectors * hidden_size)`, of its normalised tokens."""
        features = self.normalise(hidden_states.to(self.score.weight.dtype))
        # Padding can hold NaN (an attention row with nothing to attend to), which a weight of 0 would not remove.
        features = features.masked_fill(~router_mask[..., None], 0.0)
        if self.pooling == "attention":
            scores = self.query(features).masked_fill(~router_mask[..., None], torch.finfo(features.dtype).min)
            weights = scores.softmax(dim=1).transpose(1, 2)  # [B, Q, T]
        else:
            masks = [router_mask]
            if self.pooling == "modality_mean":
                masks = [router_mask & ~vision_mask, router_mask & vision_mask]
            weights = torch.stack(masks, dim=1).to(features.dtype)  # [B, V, T]
            weights = weights / weights.sum(dim=-1, keepdim=True).clamp(min=1)
        return (weights @ features).flatten(1)

    def normalise(self, features: torch.Tensor) -> torch.Tensor:
        """Bring every token to mean 0 and variance 1: vision features are far larger than those of text."""
        return F.layer_norm(features, (self.hidden_size,))
