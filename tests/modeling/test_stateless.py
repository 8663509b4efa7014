"""Nothing is kept between calls: whatever else the model does meanwhile, a generation gives what it gives alone."""

import sys
import threading

import pytest
import torch

from .generating import CHUNKED_PREFILL, PROMPTS, THINKING, generate
from .tiny import KINDS, batch, branch_twin, tiny_hybrid


COMPLETIONS = [[30, 31, 32, 1], [40, 1], [50, 51, 52, 53, 54, 1], [60, 61, 1]]
FORCED = {"thinking": THINKING}
OPPOSITE = {"thinking": [not flag for flag in THINKING]}


@pytest.fixture(params=KINDS)
def hybrid(request):
    return tiny_hybrid(**KINDS[request.param])


def mixed_threshold(hybrid, inputs):
    """A threshold at which some queries think and some do not."""
    return {"thinking_threshold": hybrid.route(**inputs).thinking_probability.median().item()}


def other_queries():
    return batch(PROMPTS[2:] + PROMPTS[:1], seeds=[7, 8, 9])


def train(hybrid):
    inputs = batch(PROMPTS[::-1], "right", COMPLETIONS)
    hybrid.train()
    with torch.enable_grad():
        hybrid(**inputs, **OPPOSITE, labels=inputs["input_ids"]).loss.backward()
    hybrid.eval()


MEANWHILE = {
    "generate_forced": lambda hybrid: generate(hybrid, other_queries(), thinking=[False, True, True]),
    "generate_routed": lambda hybrid: generate(hybrid, other_queries(), thinking_threshold=0.0),
    "generate_beams": lambda hybrid: generate(hybrid, batch(PROMPTS), **OPPOSITE, num_beams=2),
    "generate_that_fails": lambda hybrid: pytest.raises(ValueError, generate, hybrid, other_queries(), thinking=[True]),
    "forward": lambda hybrid: hybrid(**other_queries(), thinking=[False, True, True]),
    "training": train,
    "route": lambda hybrid: hybrid.route(**other_queries(), thinking_threshold=1.0),
}


class Meanwhile:
    """A streamer that does something else with the model after every token."""

    def __init__(self, action):
        self.action, self.count = action, 0

    def put(self, tokens):
        self.count += 1
        self.action()

    def end(self):
        pass


@pytest.mark.parametrize("meanwhile", MEANWHILE)
@pytest.mark.parametrize("kind", ["forced", "routed"])
def test_same_tokens_whatever_happens_at_every_step(hybrid, kind, meanwhile):
    inputs = batch(PROMPTS)
    branch = FORCED if kind == "forced" else mixed_threshold(hybrid, inputs)
    alone = generate(hybrid, inputs, **branch)
    streamer = Meanwhile(lambda: MEANWHILE[meanwhile](hybrid))
    assert torch.equal(generate(hybrid, inputs, **branch, streamer=streamer), alone)
    assert streamer.count > 5
    assert torch.equal(generate(hybrid, inputs, **branch), alone)


class Turn:
    """A streamer that waits after every token until the other generation has had one."""

    def __init__(self, mine, other):
        self.mine, self.other, self.turns = mine, other, 0

    def put(self, tokens):
        self.other.release()
        assert self.mine.acquire(timeout=60)
        self.turns += 1

    def end(self):
        self.other.release(1000)


def test_two_generations_that_take_turns(hybrid):
    inputs = batch(PROMPTS)
    calls = [(inputs, OPPOSITE), (other_queries(), mixed_threshold(hybrid, other_queries())), (inputs, FORCED)]
    alone = [generate(hybrid, inputs, **branch) for inputs, branch in calls]
    for one, two in ((0, 2), (0, 1), (1, 2)):
        gates = threading.Semaphore(0), threading.Semaphore(0)
        found = {}

        def run(call, mine, other, found=found):
            streamer = Turn(mine, other)
            found[call] = generate(hybrid, calls[call][0], **calls[call][1], streamer=streamer), streamer.turns

        threads = [
            threading.Thread(target=run, args=(one, gates[0], gates[1])),
            threading.Thread(target=run, args=(two, gates[1], gates[0])),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for call in (one, two):
            assert torch.equal(found[call][0], alone[call]) and found[call][1] > 5


def test_free_threads(hybrid):
    inputs = batch(PROMPTS)
    branches = [FORCED, OPPOSITE, {"thinking": True}, mixed_threshold(hybrid, inputs)]
    alone = [generate(hybrid, inputs, **branch).tolist() for branch in branches]
    found = {}

    def run(index):
        found[index] = [generate(hybrid, inputs, **branches[index]).tolist() for _ in range(5)]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=run, args=(index,)) for index in range(len(branches))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert found == {index: [tokens] * 5 for index, tokens in enumerate(alone)}


def fingerprint(value):
    """Something that changes when a value does, be it replaced or altered in place."""
    if isinstance(value, torch.Tensor):
        return id(value), value._version
    if isinstance(value, dict):
        return {key: fingerprint(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [fingerprint(item) for item in value]
    if hasattr(value, "to_dict") and not isinstance(value, type):
        return id(value), repr(value.to_dict())
    return value if isinstance(value, (bool, int, float, str, type(None))) else id(value)


def state(model):
    classes = [base for base in type(model).__mro__ if base.__module__.startswith("hf_metis_home")]
    found = {base.__name__: fingerprint(dict(vars(base))) for base in classes}
    for name, module in model.named_modules():
        found |= {f"{name}.{key}": fingerprint(value) for key, value in vars(module).items()}
    return found


def changes(before, after):
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


@pytest.mark.parametrize("kwargs", [FORCED, {}, {"num_beams": 2, "num_return_sequences": 2}, {"do_sample": True}])
def test_generate_changes_nothing_but_upstreams_position_offset(hybrid, kwargs):
    before = state(hybrid)
    generate(hybrid, batch(PROMPTS), **kwargs)
    assert changes(before, state(hybrid)) == {"model.rope_deltas"}


@pytest.mark.parametrize(
    "kwargs",
    [
        pytest.param({"cache_implementation": "static", "prefill_chunk_size": 4}, marks=CHUNKED_PREFILL),
        {"return_dict_in_generate": True, "output_hidden_states": True},
    ],
)
def test_generate_changes_what_it_changes_in_a_dense_model(hybrid, kwargs):
    found = []
    for model in (hybrid, branch_twin(hybrid, "thinking")):
        before = state(model)
        generate(model, batch(PROMPTS), **kwargs)
        found.append(changes(before, state(model)))
    assert found[0] == found[1] and "model.rope_deltas" in found[0]


def test_route_and_forward_leave_the_model_as_it_was(hybrid):
    before = state(hybrid)
    hybrid.route(**batch(PROMPTS))
    assert state(hybrid) == before
    with torch.no_grad():
        hybrid(**batch(PROMPTS))
    assert changes(before, state(hybrid)) == {"model.rope_deltas"}
