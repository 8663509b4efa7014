"""A tiny two-branch model that says what a test wants it to, word for word, through the real `generate`."""

import time
from functools import lru_cache

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from hf_metis_home.conversion import upcycle

from ..fixtures_text import byte_level_processor, tiny_dense


@lru_cache
def hybrid():
    """Branches that differ, a router with an opinion, and a tokenizer that can spell anything."""
    processor = byte_level_processor()
    dense = tiny_dense(processor)
    model = upcycle(dense, processor, thinking_model=tiny_dense(processor, seed=1), router_hidden_size=8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.nn.init.normal_(model.model.language_model.router.score.weight, std=0.7)
    return model.eval(), processor


class Scripted(LogitsProcessor):
    """Leaves one token possible at every step."""

    def __init__(self, ids: list[int], seconds: float):
        self.ids, self.seconds, self.start = ids, seconds, None

    def __call__(self, input_ids, scores):
        if self.start is None:
            self.start = input_ids.shape[1]
        time.sleep(self.seconds)
        scores = torch.full_like(scores, -float("inf"))
        scores[:, self.ids[input_ids.shape[1] - self.start]] = 0.0
        return scores


def script(monkeypatch, *texts: str, seconds: float = 0.0):
    """The hybrid, whose next answers are `texts`. The keywords of its calls of `generate` are in `model.calls`."""
    model, processor = hybrid()
    tokenizer, generate = processor.tokenizer, type(model).generate
    pending = [tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id] for text in texts]
    calls = []

    def scripted(**options):
        calls.append(options)
        return generate(model, logits_processor=LogitsProcessorList([Scripted(pending.pop(0), seconds)]), **options)

    monkeypatch.setattr(model, "generate", scripted, raising=False)
    monkeypatch.setattr(model, "calls", calls, raising=False)
    return model, processor
