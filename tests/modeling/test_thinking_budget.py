"""A thought that has used up its budget is closed and the answer follows; everything else stays as it was."""

import pytest
import torch
from transformers.generation.streamers import BaseStreamer

from hf_metis_home.conversion import upcycle
from hf_metis_home.modeling import MetisHomeConfig
from hf_metis_home.modeling.generation_metis_home import ThinkingBudgetLogitsProcessor
from tests.fixtures_text import byte_level_processor, tiny_dense, word_level_processor

from .tiny import KINDS, NON_THINKING_OPENING, THINKING_CLOSING, THINKING_OPENING, batch, prompt_ids, tiny_hybrid


OPEN = [prompt_ids(0) + THINKING_OPENING, prompt_ids(1, length=5, images=2) + THINKING_OPENING]
DIRECT = prompt_ids(2, length=11, images=0) + NON_THINKING_OPENING
PROMPTS = [*OPEN, DIRECT]
LENGTH = 12


@pytest.fixture(params=["ffn_0", "ffn_1", "lora_attention_0"])
def hybrid(request):
    return tiny_hybrid(**KINDS[request.param])


def answers(model, prompts, seeds=None, **kwargs):
    inputs = batch(prompts, seeds=seeds)
    options = {"max_new_tokens": LENGTH, "min_new_tokens": LENGTH, "do_sample": False, **kwargs}
    return model.generate(**inputs, **options)[:, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("budget", [1, 3, 7])
def test_closes_after_the_budget_and_goes_on(hybrid, budget):
    no_other = {"suppress_tokens": THINKING_CLOSING}  # nobody but the budget closes: by chance random weights might
    free = answers(hybrid, PROMPTS, **no_other)
    found = answers(hybrid, PROMPTS, max_thinking_tokens=budget, **no_other)
    for row in (0, 1):
        start = free[row][:budget] + THINKING_CLOSING
        assert found[row][: len(start)] == start
        # The rest is what the thinking branch says after this beginning.
        rest = answers(hybrid, [PROMPTS[row] + start], seeds=[row], max_new_tokens=4, min_new_tokens=4, **no_other)
        assert found[row][len(start) : len(start) + 4] == rest[0][: LENGTH - len(start)]
    assert found[2] == free[2]


def test_rows_do_not_depend_on_their_neighbours(hybrid):
    found = answers(hybrid, PROMPTS, max_thinking_tokens=[2, 5, 1])
    for row, budget in enumerate([2, 5, 1]):
        assert found[row] == answers(hybrid, [PROMPTS[row]], seeds=[row], max_thinking_tokens=budget)[0]


def test_a_row_may_be_without_limit(hybrid):
    free, found = answers(hybrid, PROMPTS), answers(hybrid, PROMPTS, max_thinking_tokens=[None, 2, None])
    assert (found[0], found[2]) == (free[0], free[2]) and found[1] != free[1]


@pytest.mark.parametrize(
    "strategy",
    [
        {"num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "num_return_sequences": 3},
        {"do_sample": True, "num_beams": 2, "top_k": 5},
        {"prompt_lookup_num_tokens": 3},
    ],
    ids=["beams", "sampling", "beam_sampling", "prompt_lookup"],
)
def test_with_other_strategies(hybrid, strategy):
    torch.manual_seed(0)
    prompts = PROMPTS[:1] if "prompt_lookup_num_tokens" in strategy else PROMPTS
    per_query = strategy.get("num_return_sequences", 1)
    # Nobody but the budget closes a thought: by chance random weights might.
    strategy = {**strategy, "suppress_tokens": THINKING_CLOSING}
    for row, tokens in enumerate(answers(hybrid, prompts, max_thinking_tokens=4, **strategy)):
        closed = next((i for i in range(LENGTH) if tokens[i : i + 2] == THINKING_CLOSING), None)
        assert closed is not None and closed <= 4 if row // per_query < 2 else closed != 4


def test_streams_what_it_returns(hybrid):
    class Keep(BaseStreamer):
        tokens: list[int] = []

        def put(self, value):
            self.tokens += value.flatten().tolist()

        def end(self):
            self.tokens.append(-1)

    streamer = Keep()
    found = answers(hybrid, OPEN[:1], max_thinking_tokens=3, streamer=streamer)
    assert streamer.tokens == OPEN[0] + found[0] + [-1]


def test_other_processors_stay(hybrid):
    class Never(torch.nn.Module):
        def __call__(self, input_ids, scores):
            scores[:, 11:13] = -float("inf")  # even the closing itself
            return scores

    found = answers(hybrid, OPEN, max_thinking_tokens=2, logits_processor=[Never()])
    assert all(tokens[2:4] == THINKING_CLOSING and 11 not in tokens[4:] for tokens in found)


# Tokens of a byte-level BPE: "</" 1, "think" 2, "><" 3, "answer" 4; ".</" 5 is joined to the end of a thought.
CASES = {
    "not yet": ([9], 2, None),
    "budget reached": ([8, 9], 2, 1),
    "one token of the closing written": ([8, 9, 1], 2, 2),
    "two written": ([8, 9, 1, 2], 2, 3),
    "all written": ([8, 9, 1, 2, 3, 4], 2, None),
    "the model has begun by itself": ([8, 1], 2, 2),
    "begun with a joined token": ([8, 5, 2], 3, 3),
    "begun by itself and gone on": ([8, 5, 2, 3], 3, 4),
    "closed by itself before": ([8, 5, 2, 3, 4, 7, 7, 7], 2, None),
    "a word of the closing inside a thought": ([2, 8], 2, 1),
}


@pytest.mark.parametrize("thought", CASES)
def test_next_token(thought):
    tokens, budget, expected = CASES[thought]
    config = MetisHomeConfig(thinking_opening_ids=[6], thinking_closing_ids=[1, 2, 3, 4])
    processor = ThinkingBudgetLogitsProcessor(budget, config)
    assert processor._forced_token([6, *tokens], budget) == expected
    assert processor._forced_token([7, *tokens], budget) is None  # the answer did not open with a thought


@pytest.mark.parametrize("length", [3, 5, 20])
def test_a_thought_in_the_prompt_closes_at_the_first_new_token(hybrid, length):
    thought = [20 + number for number in range(length)]
    prompts = [OPEN[0] + thought, OPEN[1]]
    found = answers(hybrid, prompts, max_thinking_tokens=3, suppress_tokens=THINKING_CLOSING)
    assert found[0][:2] == THINKING_CLOSING and found[1][3:5] == THINKING_CLOSING
    # One that the prompt has begun to close is closed to the end, and one that it has closed is left alone.
    begun, closed = OPEN[0] + thought + THINKING_CLOSING[:1], OPEN[0] + thought + THINKING_CLOSING
    found = answers(hybrid, [begun, closed], seeds=[0, 0], max_thinking_tokens=3, suppress_tokens=THINKING_CLOSING)
    assert found[0][0] == THINKING_CLOSING[1] and not set(THINKING_CLOSING) & {*found[0][1:], *found[1]}


@pytest.mark.parametrize("make_processor", [word_level_processor, byte_level_processor])
def test_text_reads_back(make_processor):
    processor = make_processor()
    model = upcycle(tiny_dense(processor), processor)
    prompt = processor.apply_chat_template([{"role": "user", "content": "is it 7?"}], add_generation_prompt=True)
    # An untrained model would not end the tag by itself, so the prompt holds the beginning of the thought.
    inputs = processor(text=[prompt + "<think>7"], return_tensors="pt")
    output = model.generate(**inputs, max_thinking_tokens=6, min_new_tokens=16, max_new_tokens=16, do_sample=False)
    text = processor.decode(output[0]).removeprefix(prompt)
    # Where a tag's last character is joined to what follows, it is the model's to write, here with random weights.
    thought, closed, answer = text.partition("</think><answer")
    assert thought.startswith("<think>7") and closed and answer
    free = model.generate(**inputs, min_new_tokens=16, max_new_tokens=16, do_sample=False)
    assert "</think><answer" not in processor.decode(free[0]).removeprefix(prompt)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (0, "`max_thinking_tokens` is 0, but must be a whole number of tokens, at least 1"),
        (2.5, "`max_thinking_tokens` is 2.5, but must be a whole number"),
        (True, "`max_thinking_tokens` is True, but must be a whole number"),
        ([2, 3], "`max_thinking_tokens` has 2 values, but the batch has 3 rows"),
        ([2, -1, 3], r"`max_thinking_tokens\[1\]` is -1, but must be"),
    ],
)
def test_bad_budgets(hybrid, budget, message):
    with pytest.raises(ValueError, match=message):
        answers(hybrid, PROMPTS, max_thinking_tokens=budget)


def test_a_budget_without_effect(hybrid):
    with pytest.raises(ValueError, match="`max_thinking_tokens=3` has no effect, because `thinking=False`"):
        answers(hybrid, [prompt_ids(0)], max_thinking_tokens=3, thinking=False)
    with pytest.raises(ValueError, match="`max_thinking_tokens=3` has no effect, because `thinking=False`"):
        answers(hybrid, [prompt_ids(0), prompt_ids(1)], max_thinking_tokens=3, thinking=[False, False])
    # A row that the router, or an opening, may still send to the thinking branch.
    answers(hybrid, [prompt_ids(0), prompt_ids(1)], max_thinking_tokens=3, thinking=[False, None])


def test_a_configuration_without_the_format(hybrid):
    hybrid.config.thinking_closing_ids = []
    with pytest.raises(ValueError, match="`config.thinking_closing_ids` is empty. `metis-home upcycle` writes them"):
        answers(hybrid, PROMPTS, max_thinking_tokens=3)
