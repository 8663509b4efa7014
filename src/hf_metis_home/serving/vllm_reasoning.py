"""
vLLM's reasoning parser for hybrids: the thought goes into `reasoning`, the answer without its tags into `content`.

    vllm serve ... --reasoning-parser-plugin hf_metis_home.serving.vllm_reasoning --reasoning-parser metis_home

The tags are no tokens of Qwen's vocabulary, so it goes by text. Where `enable_thinking` has put the opening of the
answer into the prompt, the reply goes on from there. vLLM would enforce a `response_format` behind the thought; here it
is never told that the thought has ended, because it would then send the tags of the answer as they are.
"""

from vllm.entrypoints.generate.base.protocol import DeltaMessage
from vllm.reasoning import ReasoningParser, ReasoningParserManager

from ..answers import AnswerFormat, opening_text


@ReasoningParserManager.register_module("metis_home")
class MetisHomeReasoningParser(ReasoningParser):
    """Made by vLLM for each request, with the tokenizer and the request's `chat_template_kwargs`."""

    def __init__(self, tokenizer, *args, **kwargs):
        super().__init__(tokenizer, *args, **kwargs)
        enabled = (kwargs.get("chat_template_kwargs") or {}).get("enable_thinking")
        self.opening = "" if enabled is None else opening_text(tokenizer, thinking=bool(enabled))

    def extract_reasoning(self, model_output: str, request) -> tuple[str | None, str | None]:
        thought, answer = AnswerFormat().split(self.opening + model_output)
        return thought or None, answer or None

    def extract_reasoning_streaming(
        self, previous_text, current_text, delta_text, previous_token_ids, current_token_ids, delta_token_ids
    ) -> DeltaMessage | None:
        before = AnswerFormat().split(self.opening + previous_text, finished=False)
        now = AnswerFormat().split(self.opening + current_text, finished=False)
        thought, answer = (new[len(old) :] for old, new in zip(before, now, strict=True))
        return DeltaMessage(reasoning=thought or None, content=answer or None) if thought or answer else None

    def is_reasoning_end(self, input_ids) -> bool:
        return False

    def extract_content_ids(self, input_ids: list[int]) -> list[int]:
        return []
