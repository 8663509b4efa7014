"""Split over two processes (`tp_plan="auto"`), a hybrid says what it says on one, as the dense model does."""

import re
from functools import partial

import pytest
import torch

from tests.torchrun import on_two_ranks

from .tiny import KINDS, tiny_dense, tiny_hybrid
from .two_ranks import outcomes


pytestmark = pytest.mark.slow
HEADS = {"num_key_value_heads": 2}  # one per rank
MODELS = {
    "dense": partial(tiny_dense, **HEADS),
    **{name: partial(tiny_hybrid, **kind, **HEADS) for name, kind in KINDS.items()},
}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tensor_parallel")
    for name, make in MODELS.items():
        make().save_pretrained(folder / name)
    on_two_ranks("tests.modeling.two_ranks", str(folder))
    return [torch.load(folder / f"rank_{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", MODELS)
def test_two_ranks_say_what_one_says(ranks, name):
    expected = outcomes(MODELS[name]())
    for rank in ranks:
        assert rank[name].keys() - {"shards"} == expected.keys()
        for call, value in expected.items():
            torch.testing.assert_close(rank[name][call], value, rtol=0, atol=1e-4, msg=call)


@pytest.mark.parametrize("name", MODELS)
def test_what_the_plan_names_is_split(ranks, name):
    model = MODELS[name]()
    planned = {path for path, _ in model.named_modules() if re.sub(r"\d+", "*", path) in model._tp_plan}
    for rank in ranks:
        assert {shard.rpartition(".")[0] for shard in rank[name]["shards"]} == planned
