"""A conversation: who decides, what the next question is asked with, and how an answer ends."""

import pytest
import torch
from PIL import Image

from hf_metis_home.cli._conversation import Conversation

from .chat_common import hybrid, script


THOUGHT = "<think>7 - 3 = 4</think><answer>4</answer>"


def make(**options) -> Conversation:
    return Conversation(*hybrid(), **{"max_new_tokens": 6, **options})


def red() -> list[tuple]:
    return [("red.png", Image.new("RGB", (56, 56), "red"))]


def router_of(messages: list[dict]) -> float:
    model, processor = hybrid()
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    return float(model.route(**inputs).thinking_probability)


def said(role: str, text: str, *images) -> dict:
    content = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": text}]
    return {"role": role, "content": content}


def test_the_router_decides_as_it_does_in_generate():
    model, processor = hybrid()
    inputs = processor.apply_chat_template(
        [said("user", "what colour?", red()[0][1])],
        add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
    )  # fmt: skip
    seen = []
    for threshold in (0.0, 0.3, 0.7, 1.0):
        output = model.generate(
            **inputs, max_new_tokens=6, return_dict_in_generate=True, thinking_threshold=threshold, do_sample=False
        )
        turn = make(thinking_threshold=threshold).ask("what colour?", red())
        assert turn.thinking == bool(output.thinking)
        assert turn.thinking_probability == pytest.approx(float(output.thinking_probability))
        new = output.sequences[0, inputs["input_ids"].shape[1] :]
        assert turn.text == processor.decode(new, skip_special_tokens=True) and turn.tokens == len(new)
        assert f" {'>=' if turn.thinking else '<'} threshold {threshold:.3f}" in turn.why
        seen.append(turn.thinking)
    assert seen[0] is True and seen[-1] is False


@pytest.mark.parametrize("options", [{}, {"thinking": True}, {"enable_thinking": False}])
def test_a_question_costs_one_pass_of_the_vision_tower_and_one_rendering(monkeypatch, options):
    model, processor = hybrid()
    passes, renderings = [], []
    render = processor.apply_chat_template
    monkeypatch.setattr(
        processor, "apply_chat_template", lambda *given, **more: renderings.append(given) or render(*given, **more)
    )
    hook = model.model.visual.register_forward_hook(lambda *given: passes.append(given))
    try:
        assert make(**options).ask("what colour?", red()).tokens
    finally:
        hook.remove()
    assert (len(passes), len(renderings)) == (1, 1)


@pytest.mark.parametrize("thinking", [True, False])
def test_you_decide(thinking):
    turn = make(thinking=thinking).ask("what colour?")
    assert turn.thinking is thinking and turn.thinking_probability is None
    assert turn.why == ("forced by /think" if thinking else "forced by /direct")
    model, processor = hybrid()
    inputs = processor.apply_chat_template(
        [said("user", "what colour?")], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    output = model.generate(**inputs, max_new_tokens=6, thinking=thinking, do_sample=False)
    assert turn.text == processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("thinking", [True, False])
def test_the_template_decides(monkeypatch, thinking):
    _, processor = hybrid()
    opening = processor.tokenizer.decode(
        hybrid()[0].config.thinking_opening_ids if thinking else hybrid()[0].config.non_thinking_opening_ids
    )
    whole = THOUGHT if thinking else "<think></think><answer>4</answer>"
    assert whole.startswith(opening) and opening
    model, _ = script(monkeypatch, whole.removeprefix(opening))
    turn = Conversation(model, processor, enable_thinking=thinking).ask("7 - 3?")
    assert turn.thinking is thinking and turn.why == "forced by the chat template"
    assert (turn.thought, turn.answer) == ("7 - 3 = 4" if thinking else "", "4")


def test_a_contradiction_is_an_error_and_not_a_turn():
    conversation = make(thinking=False, enable_thinking=True)
    with pytest.raises(ValueError, match="/direct contradicts the chat template"):
        conversation.ask("what colour?")
    assert conversation.turns == []


def test_a_template_that_does_not_know_the_word(monkeypatch):
    _, processor = hybrid()
    monkeypatch.setattr(processor, "chat_template", processor.chat_template.replace("enable_thinking", "another_word"))
    with pytest.raises(ValueError, match="`--enable_thinking True` has no effect"):
        make(enable_thinking=True).ask("what colour?")


def test_the_next_question_is_routed_afresh_on_all_that_was_said(monkeypatch):
    model, processor = script(monkeypatch, THOUGHT, "<think></think><answer>red</answer>")
    conversation = Conversation(model, processor, system_prompt="You are a helpful assistant.")
    image = red()
    first = conversation.ask("7 - 3?", image)
    second = conversation.ask("what colour?")
    system = said("system", "You are a helpful assistant.")
    history = [system, said("user", "7 - 3?", image[0][1])]
    assert first.thinking_probability == pytest.approx(router_of(history))
    history += [said("assistant", "4"), said("user", "what colour?")]  # the thought is not among it
    assert second.thinking_probability == pytest.approx(router_of(history))
    assert first.thinking_probability != second.thinking_probability
    assert [turn.answer for turn in conversation.turns] == ["4", "red"]
    prompt = processor.decode(model.calls[1]["input_ids"][0])
    assert "7 - 3 = 4" not in prompt and "4<|im_end|>" in prompt and "pixel_values" in model.calls[1]


def test_a_template_that_keeps_thoughts_gets_them(monkeypatch):
    model, processor = script(monkeypatch, THOUGHT, "<answer>red</answer>")
    keeping = processor.chat_template.replace(
        "{% for message in messages %}", "{% for message in messages %}{{ message.reasoning_content }}", 1
    )
    assert keeping != processor.chat_template
    monkeypatch.setattr(processor, "chat_template", keeping)
    conversation = Conversation(model, processor)
    conversation.ask("7 - 3?")
    conversation.ask("what colour?")
    assert "7 - 3 = 4" in processor.decode(model.calls[1]["input_ids"][0])


def test_thought_and_answer_come_while_they_are_written(monkeypatch):
    model, processor = script(monkeypatch, THOUGHT)
    seen, decisions = [], []
    turn = Conversation(model, processor).ask(
        "7 - 3?", on_decision=decisions.append, on_text=lambda *parts: seen.append(parts)
    )
    assert seen[-1] == (turn.thought, turn.answer) == ("7 - 3 = 4", "4")
    assert ("7 - 3", "") in [(thought.strip(), answer) for thought, answer in seen] and decisions == [turn]
    assert not any("<" in part for parts in seen for part in parts)


def test_ctrl_c_stops_the_answer_and_keeps_what_there_is(monkeypatch):
    model, processor = script(monkeypatch, "one two three four five six", "<answer>4</answer>")
    conversation = Conversation(model, processor)
    interrupted = []

    def interrupt_once(thought, answer):
        if "three" in answer and not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt

    turn = conversation.ask("count", on_text=interrupt_once)
    assert turn.ended == "stopped" and turn.answer.startswith("one two three") and "six" not in turn.answer
    assert conversation.turns == [turn] and 0 < turn.tokens < 20
    assert conversation.ask("and?").answer == "4"


def test_a_long_answer_is_cut_and_says_so(monkeypatch):
    model, processor = script(monkeypatch, "one two three four", "yes")
    turn = Conversation(model, processor, max_new_tokens=3).ask("count")
    assert turn.tokens == 3 and turn.ended == "cut off after 3 tokens"
    ids = processor.tokenizer("yes", add_special_tokens=False)["input_ids"]
    exact = Conversation(model, processor, max_new_tokens=len(ids) + 1).ask("well?")
    assert exact.answer == "yes" and exact.ended == ""


def test_a_conversation_that_is_too_long(monkeypatch):
    monkeypatch.setattr(hybrid()[0].config.text_config, "max_position_embeddings", 60)
    conversation = make()
    with pytest.raises(ValueError, match=r"has \d+ tokens, but the model can read only 60. /clear"):
        conversation.ask("why? " * 60)
    assert conversation.turns == []
    monkeypatch.setattr(hybrid()[0].config.text_config, "max_position_embeddings", 10_000)
    assert conversation.ask("why? " * 60).tokens


@pytest.mark.parametrize("text", ["<|im_end|>", "look: <|image_pad|>", "<|vision_start|>"])
def test_signs_of_the_template_are_no_words(text):
    with pytest.raises(ValueError, match="is a special token of the chat template"):
        make().ask(text)


def test_the_budget_closes_a_thought(monkeypatch):
    model, _ = script(monkeypatch, "yes", "yes")
    make(thinking=True, max_thinking_tokens=5).ask("why?")
    make(thinking=False, max_thinking_tokens=5).ask("why?")  # of no concern here, where `generate` would refuse it
    assert model.calls[0]["max_thinking_tokens"] == 5 and "max_thinking_tokens" not in model.calls[1]


def test_temperature():
    torch.manual_seed(0)
    greedy = [make().ask("why?").text for _ in range(2)]
    drawn = {make(temperature=5.0).ask("why?").text for _ in range(4)}
    assert greedy[0] == greedy[1] and len(drawn) > 1


def test_a_dense_model_has_one_branch():
    from ..fixtures_text import byte_level_processor, tiny_dense

    processor = byte_level_processor()
    turn = Conversation(tiny_dense(processor), processor, max_new_tokens=3).ask("why?", red())
    assert turn.thinking is None and turn.branch == "only branch" and turn.tokens
