"""Prompts, a hybrid with the dense models of its branches, and answers to compare, for tests of `generate`."""

import pytest
import transformers
from packaging.version import Version

from .tiny import EOS, IMAGE, KINDS, PAD, VIDEO, VISION_END, VISION_START, batch, branch_twin, prompt_ids, tiny_hybrid


PROMPTS = [prompt_ids(4), prompt_ids(1, length=5, images=2), prompt_ids(2, length=11, images=0), prompt_ids(3)]
THINKING = [True, False, False, True]
NEW = 10
VERSION = Version(transformers.__version__)
CHUNKED_PREFILL = pytest.mark.skipif(
    VERSION < Version("5.19"), reason="before transformers 5.19 the dense Qwen2.5-VL fails at chunked prefill, too"
)
QUANTISED_CACHE = pytest.mark.skipif(
    VERSION < Version("5.21"),
    reason="before transformers 5.21 no cache is in fp8, and with beams the dense model fails at the others, too",
)
# Before, repetition penalties count padding: the dense model's batch differs from its rows alone.
PENALISES_PADDING = VERSION < Version("5.23")


def hybrid_and_twins(kind: str):
    hybrid = tiny_hybrid(**KINDS[kind])
    return hybrid, {True: branch_twin(hybrid, "thinking"), False: branch_twin(hybrid, "non_thinking")}


def generate(model, inputs, **kwargs):
    # Without the vision tokens, which only a processor may place.
    banned = [IMAGE, VIDEO, VISION_START, VISION_END]
    return model.generate(**inputs, **{"do_sample": False, "max_new_tokens": NEW, "suppress_tokens": banned, **kwargs})


def answers(model, inputs, **kwargs) -> list[list[int]]:
    return generate(model, inputs, **kwargs)[:, inputs["input_ids"].shape[1] :].tolist()


def single(row: int):
    return batch([PROMPTS[row]], seeds=[row])


def assert_same(found: list[int], expected: list[int]):
    """An answer in a batch, where padding follows until the longest is complete, and the same answer alone."""
    padding = set(found[len(expected) :])
    # Beam search pads with the end of sequence where the padding token is 0.
    assert found[: len(expected)] == expected and padding <= ({PAD, EOS} if expected[-1] == EOS else {PAD})
