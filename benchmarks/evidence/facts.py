"""
Do branches gain accuracy where a network is too small for what it has to know?

Facts by heart: a key of two tokens has a value of three digits, in either mode, which the key alone tells nobody. With
*different* facts a key's two values have nothing to do with each other, with the *same* facts they are equal. Two
layers of random weights, whose feed-forward networks are the larger part; two branches against one dense model of the
same width, and against one whose network is as wide as both branches together. Keys and values are token ids, without
text, images or a processor, so that a step takes some 30 ms and thousands can be taken: the models are the library's
and transformers', the loop is this file's.

```bash
python -m benchmarks.evidence.facts --seed 0 --output runs/evidence/facts_0.json
```
"""

import argparse
import time

import torch
from torch.nn import functional as F
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from benchmarks.models import ASSISTANT, TURN_END, TURN_START, Sizes, config_values
from hf_metis_home.modeling import MetisHomeConfig, MetisHomeForConditionalGeneration

from .common import Results, arguments


SIZES = Sizes(hidden=32, ffn=64, layers=2, vocab=128, vision_depth=1)
KEYS, STEPS, BATCH = 2000, 8000, 512
OPENING, THOUGHT, CLOSED = 9, 11, 10  # <think>, and what follows it in either mode
KEY, DIGIT, QUESTION = 16, 80, 90  # first ids of 64 symbols, 10 digits, and the questions of both modes
PROMPT, GIVEN = 5, 7  # tokens of the prompt, and with the opening of the answer
ARMS = {  # facts, two branches, times the width
    "different, dense": ("different", False, 1),
    "different, hybrid": ("different", True, 1),
    "different, dense, twice as wide": ("different", False, 2),
    "same, dense": ("same", False, 1),
    "same, hybrid": ("same", True, 1),
}
RATES = (3e-3,)


class Facts:
    """What is to be learned by heart: `values` of shape `(2, keys, 3)`, direct ones first."""

    def __init__(self, kind: str, count: int, seed: int):
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randperm(64 * 64, generator=generator)[:count]
        self.keys = torch.stack([drawn // 64, drawn % 64], dim=1) + KEY
        self.values = torch.randint(0, 10, (2, count, 3), generator=generator) + DIGIT
        if kind == "same":
            self.values = self.values[:1].expand(2, -1, -1)

    def batch(self, mode: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Token ids `(rows, 10)`: question, key, header, opening of the mode, value."""
        rows = len(index)
        header = torch.tensor([TURN_START, ASSISTANT]).expand(rows, -1)
        opening = torch.stack([torch.full((rows,), OPENING), torch.where(mode.bool(), THOUGHT, CLOSED)], dim=1)
        question = (QUESTION + mode)[:, None]
        return torch.cat([question, self.keys[index], header, opening, self.values[mode, index]], dim=1)


def build(two_branch: bool, times: int, seed: int):
    """Random weights; both branches begin alike, as upcycling makes them."""
    values = config_values(SIZES)
    values["text_config"] |= {"intermediate_size": times * SIZES.ffn, "tie_word_embeddings": True}
    torch.manual_seed(seed)
    if two_branch:
        values |= {"router_layer": 0, "router_pooling": "modality_mean"}
        ids = {"assistant_header_ids": [TURN_START, ASSISTANT], "end_of_turn_id": TURN_END}
        openings = {"thinking_opening_ids": [OPENING, THOUGHT], "non_thinking_opening_ids": [OPENING, CLOSED]}
        model = MetisHomeForConditionalGeneration(MetisHomeConfig(**values, **ids, **openings))
        for layer in model.model.language_model.layers:
            layer.mlp.thinking.load_state_dict(layer.mlp.non_thinking.state_dict())
    else:
        model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**values))
    del model.model.visual
    return model


def answered(model, ids: torch.Tensor, mode: torch.Tensor):
    """Logits of the value's three tokens, and the router's."""
    hybrid = {}
    if model.config.model_type == "metis_home":
        prompt = (torch.arange(ids.shape[1]) < PROMPT).long().expand_as(ids)
        hybrid = {"thinking": mode.bool(), "prompt_mask": prompt}
    kept = torch.arange(GIVEN - 1, ids.shape[1] - 1)
    out = model(input_ids=ids, attention_mask=torch.ones_like(ids), logits_to_keep=kept, use_cache=False, **hybrid)
    return out.logits, out.branch_logits if hybrid else None


def learn(model, facts: Facts, steps: int, rate: float) -> None:
    """AdamW, a linear fall of the rate over the second half; the router's loss is added, as in Stage-SFT."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.0)
    fall = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: min(1, (n + 1) / 100, 2 * (1 - n / steps)))
    mode = torch.arange(BATCH) % 2
    for _ in range(steps):
        ids = facts.batch(mode, torch.randint(0, len(facts.keys), (BATCH,)))
        logits, routed = answered(model, ids, mode)
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, GIVEN:].flatten())
        if routed is not None:
            loss = loss + F.cross_entropy(routed, mode)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        fall.step()
        optimizer.zero_grad()


@torch.no_grad()
def recalled(model, facts: Facts) -> dict:
    """Per mode a string of 0 and 1: is the value right that greedy decoding gives? And what the router thinks."""
    found = {}
    for name, number in (("direct", 0), ("thinking", 1)):
        index = torch.arange(len(facts.keys))
        mode = torch.full_like(index, number)
        ids = facts.batch(mode, index)
        logits, routed = answered(model, ids, mode)
        # A wrong digit makes the row wrong whatever follows it, so the true ones may be given.
        right = (logits.argmax(dim=-1) == ids[:, GIVEN:]).all(dim=1)
        found[name] = {"correct": "".join(str(int(value)) for value in right)}
        if routed is not None:
            found[name]["routed"] = ((routed[:, 1] >= routed[:, 0]) == mode.bool()).float().mean().item()
    return found


def main(argv: list[str] | None = None) -> None:
    rates = {"--rates": {"type": float, "nargs": "+", "default": list(RATES), "help": "Of learning; each is an arm."}}
    args: argparse.Namespace = arguments("facts", __doc__.splitlines()[1], argv, tuple(ARMS), base=False, options=rates)
    results = Results(args.output)
    steps, count = (2, 8) if args.smoke else (STEPS, KEYS)
    for kind in args.arms:
        what, two_branch, times = ARMS[kind]
        for rate in args.rates:
            arm = f"{kind}, rate {rate:g}"
            if arm in results:
                continue
            started = time.perf_counter()
            facts, model = Facts(what, count, args.seed), build(two_branch, times, args.seed)
            learn(model, facts, steps, rate)
            results.add(arm, recalled(model.eval(), facts) | {"seconds": round(time.perf_counter() - started)})
            shares = [results.arms[arm][mode]["correct"].count("1") / count for mode in ("direct", "thinking")]
            print(args.seed, arm, results.arms[arm]["seconds"], [f"{share:.3f}" for share in shares], flush=True)


if __name__ == "__main__":
    main()
