"""The reasoning parser for vLLM, without vLLM: what it sends, whole and as a stream."""

import importlib
import sys
from types import ModuleType, SimpleNamespace

import pytest

from hf_metis_home.answers import AnswerFormat, opening_text

from ..fixtures_text import byte_level_processor, word_level_processor


@pytest.fixture
def parser_class(monkeypatch):
    class ReasoningParser:
        def __init__(self, tokenizer, *args, **kwargs):
            self.model_tokenizer = tokenizer

    manager = SimpleNamespace(register_module=lambda name: lambda parser: parser)
    stubs = {"vllm.entrypoints.generate.base.protocol": {"DeltaMessage": SimpleNamespace}}
    stubs["vllm.reasoning"] = {"ReasoningParser": ReasoningParser, "ReasoningParserManager": manager}
    for name, members in stubs.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "hf_metis_home.serving.vllm_reasoning", raising=False)
    yield importlib.import_module("hf_metis_home.serving.vllm_reasoning").MetisHomeReasoningParser
    sys.modules.pop("hf_metis_home.serving.vllm_reasoning")


@pytest.mark.parametrize("processor", [word_level_processor, byte_level_processor])
@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize(
    ("enabled", "thought"), [(None, "17 + 4 < 22"), (None, None), (True, "17 + 4 < 22"), (False, None)]
)
def test_thought_and_answer_come_apart(parser_class, processor, size, enabled, thought):
    tokenizer = processor().tokenizer
    text = AnswerFormat().render(thought, "it is 21")
    parser = parser_class(tokenizer, chat_template_kwargs={"enable_thinking": enabled})
    reply = text if enabled is None else text.removeprefix(opening_text(tokenizer, enabled))
    assert parser.extract_reasoning(reply, None) == (thought, "it is 21")
    sent, previous = {"reasoning": "", "content": ""}, ""
    while previous != reply:
        current = reply[: len(previous) + size]
        delta = parser.extract_reasoning_streaming(previous, current, current[len(previous) :], [], [], [])
        for name in sent:
            sent[name] += (delta and getattr(delta, name)) or ""
        previous = current
    assert sent == {"reasoning": thought or "", "content": "it is 21"}
