"""
What `generate` needs beside the model: the decision of a call, and the budget for thinking.

This file travels to the Hub beside the weights, so it imports nothing but torch and transformers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from transformers import LogitsProcessor


@dataclass
class GenerationDecision:
    """
    What a `generate` call decided before its first token. Filled once, by the hook that routes.

    Args:
        max_thinking_tokens (`int` or `list`, *optional*):
            As given to `generate`.
        budgets (`list[int | None]`):
            The same per query: tokens after the thinking opening, None for no limit.
        thinking (`torch.BoolTensor` of shape `(batch_size,)`, *optional*):
            The branch of every query.
        thinking_probability (`torch.FloatTensor` of shape `(batch_size,)`, *optional*):
            The router's probability; NaN where it was not asked.
        prompt_length (`int`, *optional*, defaults to 0):
            Tokens of the prompt in the sequences that logits processors see, padding included.
        prefills (`list[list[int]]`, *optional*):
            Per query the tokens of its answer that the prompt holds already: a forced opening, a prefill.
    """

    max_thinking_tokens: int | list[int | None] | None = None
    budgets: list[int | None] = field(default_factory=list)
    thinking: torch.Tensor | None = None
    thinking_probability: torch.Tensor | None = None
    prompt_length: int = 0
    prefills: list[list[int]] = field(default_factory=list)


class ThinkingBudgetLogitsProcessor(LogitsProcessor):
    """
    Closes the thought of a row after a number of tokens, so that its answer follows.

    It keeps no state: what it does to a row follows from the row's tokens, so that beams may be reordered and candidate
    tokens taken back.

    Args:
        decision ([`GenerationDecision`]):
            Of the call that this processor is used in.
        opening (`list[int]`):
            Tokens that open a thinking answer.
        closing (`list[int]`):
            Tokens that close a thought and open the answer.
    """

    def __init__(self, decision: GenerationDecision, opening: Sequence[int], closing: Sequence[int]):
        self.decision = decision
        self.opening, self.closing = list(opening), list(closing)
        # The first token of a closing may be joined to the thought's last character; the rest tells that it is there.
        self.closed_by = self.closing[1:] or self.closing

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Scores of shape `(rows, vocab_size)`: a row whose thought must close has one token left."""
        prefills, budgets = self.decision.prefills, self.decision.budgets
        limits = [budget for budget in budgets if budget is not None]
        generated = input_ids.shape[1] - self.decision.prompt_length
        if not limits or generated + max(map(len, prefills)) < min(limits):
            return scores  # no row can be there yet: do not look at the device
        rows = input_ids[:, self.decision.prompt_length :].tolist()
        thinking = self.decision.thinking.tolist()
        per_query = len(rows) // len(prefills)  # beams or returned sequences
        scores = scores.clone()
        for row, tokens in enumerate(rows):
            query = row // per_query
            if not thinking[query] or budgets[query] is None:
                continue
            forced = self._forced_token(prefills[query] + tokens, budgets[query])
            if forced is not None:
                scores[row] = -float("inf")
                scores[row, forced] = 0.0
        return scores

    def _forced_token(self, answer: list[int], budget: int) -> int | None:
        """The only token that may come next, or None where the model is free."""
        opened = len(self.opening)
        thought = answer[opened:]
        if answer[:opened] != self.opening or len(thought) < budget or _contains(thought, self.closed_by):
            return None
        remaining = self.closing[self._begun(thought[:budget]) :]
        place = len(thought) - budget
        return remaining[place] if place < len(remaining) else None

    def _begun(self, thought: list[int]) -> int:
        """How many tokens of the closing the thought ends with: the model may be about to close it by itself."""
        for count in range(len(self.closing) - 1, 0, -1):
            if thought[-count:] == self.closing[:count]:
                return count
            if count > 1 and thought[1 - count :] == self.closing[1:count]:
                return count
        return 0


def check_budgets(max_thinking_tokens, batch_size: int) -> list[int | None]:
    """
    One budget per query.

    Args:
        max_thinking_tokens (`int`, or `list` of `int` or `None`, *optional*):
            For all queries, or one per query; None for no limit.
        batch_size (`int`):
            Number of queries.
    """
    if max_thinking_tokens is None:
        return [None] * batch_size
    values = max_thinking_tokens if isinstance(max_thinking_tokens, (list, tuple)) else [max_thinking_tokens]
    for row, value in enumerate(values):
        if value is None and values is max_thinking_tokens:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            name = f"`max_thinking_tokens[{row}]`" if values is max_thinking_tokens else "`max_thinking_tokens`"
            raise ValueError(
                f"{name} is {value!r}, but must be a whole number of tokens, at least 1: after so many the thought is "
                "closed and the answer follows. For no thought at all, pass `thinking=False`."
            )
    if values is not max_thinking_tokens:
        return [max_thinking_tokens] * batch_size
    if len(values) != batch_size:
        raise ValueError(
            f"`max_thinking_tokens` has {len(values)} values, but the batch has {batch_size} rows: pass one per row, "
            "or a single number for all of them."
        )
    return list(values)


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of what two sequences begin with alike."""
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def _contains(tokens: list[int], part: list[int]) -> bool:
    return any(tokens[start : start + len(part)] == part for start in range(len(tokens) - len(part) + 1))
