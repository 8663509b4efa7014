"""A conversation with a model: what was said, which branch answers next and why, and the answer."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..answers import AnswerFormat


@dataclass
class Turn:
    """
    A question and its answer.

    Args:
        question (`str`):
            The question.
        images (`list[tuple]`, *optional*):
            Pairs of path and image.
        thinking (`bool`, *optional*):
            The branch that answers; None for a dense model.
        why (`str`):
            Why it is that branch.
        thinking_probability, thinking_threshold (`float`, *optional*):
            The router's probability and the threshold, if the router decided.
        thought, answer, text (`str`):
            The parts of the answer, and all that the model wrote.
        tokens (`int`), seconds (`float`):
            Length and duration of the answer.
        ended (`str`):
            Why the answer is not complete; empty if it is.
    """

    question: str
    images: list[tuple] = field(default_factory=list)
    thinking: bool | None = None
    why: str = "dense model, no router"
    thinking_probability: float | None = None
    thinking_threshold: float | None = None
    thought: str = ""
    answer: str = ""
    text: str = ""
    tokens: int = 0
    seconds: float = 0.0
    ended: str = ""

    @property
    def branch(self) -> str:
        return {True: "thinking branch", False: "non-thinking branch", None: "only branch"}[self.thinking]


@dataclass
class Conversation:
    """
    Turns with one model.

    Every question is routed again, on the whole conversation as the chat template renders it. Earlier answers are in it
    without their thoughts, which templates can read as `reasoning_content`.

    Args:
        model, processor:
            As [`~cli._models.load_model`] returns them.
        thinking (`bool`, *optional*):
            The branch that has to answer; None for the router.
        thinking_threshold (`float`, *optional*):
            The router's threshold; the configuration's by default.
        enable_thinking (`bool`, *optional*):
            Passed to the chat template, which then writes the opening of the answer.
        max_new_tokens (`int`):
            Longest answer.
        max_thinking_tokens (`int`, *optional*):
            Budget of the thought.
        temperature (`float`):
            Sampling temperature; 0 is greedy.
        system_prompt (`str`, *optional*):
            Replaces the template's own.
    """

    model: Any
    processor: Any
    thinking: bool | None = None
    thinking_threshold: float | None = None
    enable_thinking: bool | None = None
    max_new_tokens: int = 2048
    max_thinking_tokens: int | None = None
    temperature: float = 0.0
    system_prompt: str | None = None
    turns: list[Turn] = field(default_factory=list)

    @property
    def two_branch(self) -> bool:
        return self.model.config.model_type == "metis_home"

    @property
    def threshold(self) -> float:
        """The threshold of the next question."""
        return self.model.config.thinking_threshold if self.thinking_threshold is None else self.thinking_threshold

    def ask(
        self,
        question: str,
        images: Sequence[tuple] = (),
        on_decision: Callable[[Turn], None] = lambda turn: None,
        on_text: Callable[[str, str], None] = lambda thought, answer: None,
    ) -> Turn:
        """
        Answer a question and keep the turn. Ctrl-C stops the answer; a turn without any text is dropped.

        Args:
            question (`str`):
                Text of the question.
            images (`Sequence[tuple[str, PIL.Image.Image]]`, *optional*):
                Images for it, with their paths.
            on_decision (`Callable`, *optional*):
                Called with the turn when its branch is known.
            on_text (`Callable`, *optional*):
                Called with the thought and the answer so far, again and again.

        Returns:
            [`Turn`].

        Raises:
            ValueError: the text contains a special token; the conversation is too long for the model; a forced branch
                contradicts the chat template's opening.
        """
        import torch
        from transformers import TextStreamer

        # 1. The prompt, and how many tokens are left for the answer.
        for token in self.processor.tokenizer.added_tokens_decoder.values():
            if token.special and token.content in question:
                raise ValueError(f"{token.content!r} is a special token of the chat template. Remove it.")
        turn = Turn(question, list(images))
        inputs, opening = self._inputs(turn)
        length = inputs["input_ids"].shape[1]
        room = self.model.config.get_text_config().max_position_embeddings - length
        if room < 1:
            raise ValueError(
                f"the conversation has {length} tokens, but the model can read only {length + room}. /clear starts a "
                "new one."
            )
        limit = min(self.max_new_tokens, room)

        # 2. The branch.
        options: dict = {"do_sample": self.temperature > 0, "max_new_tokens": limit}
        if self.temperature > 0:
            options["temperature"] = self.temperature
        if self.two_branch:
            options["decision"] = self._decide(turn, inputs)
            if turn.thinking and self.max_thinking_tokens is not None:
                options["max_thinking_tokens"] = self.max_thinking_tokens
        on_decision(turn)

        # 3. The answer, shown while it is written.
        answer_format = AnswerFormat.of(self.model.config)

        class Streamer(TextStreamer):
            def put(self, value):
                turn.tokens += 0 if self.next_tokens_are_prompt else value.numel()
                super().put(value)

            def on_finalized_text(self, text: str, stream_end: bool = False):
                turn.text += text
                turn.thought, turn.answer = answer_format.split(opening + turn.text, finished=stream_end)
                on_text(turn.thought, turn.answer)

        streamer = Streamer(self.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        started = time.perf_counter()
        try:
            output = self.model.generate(**inputs, streamer=streamer, **options)
            ends = torch.tensor(self.model.generation_config.eos_token_id, device=output.device)
            if turn.tokens >= limit and not torch.isin(output[0, -1], ends):
                turn.ended = f"cut off after {limit} tokens"
        except KeyboardInterrupt:
            streamer.end()
            turn.ended = "stopped"
        turn.seconds = time.perf_counter() - started
        if turn.text.strip() or not turn.ended:
            self.turns.append(turn)
        return turn

    def _inputs(self, turn: Turn):
        """Model inputs for a question after all turns, and the text with which the template begins the answer."""
        from ..modeling.generation_metis_home import open_answers

        messages = [] if self.system_prompt is None else [_message("system", self.system_prompt)]
        for one in (*self.turns, turn):
            messages.append(_message("user", one.question, [image for _, image in one.images]))
            if one is not turn:
                messages.append({**_message("assistant", one.answer), "reasoning_content": one.thought})
        options: dict = {} if self.enable_thinking is None else {"enable_thinking": self.enable_thinking}
        inputs = self.processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", **options
        ).to(self.model.device)
        if not self.two_branch:
            return inputs, ""
        [opening] = open_answers(inputs["input_ids"], None, self.model.config)
        if options and not opening:
            raise ValueError(
                f"`--enable_thinking {self.enable_thinking}` has no effect, because the model's chat template does not "
                "use it. Remove it, and force a branch with /think or /direct."
            )
        return inputs, self.processor.tokenizer.decode(opening)

    def _decide(self, turn: Turn, inputs):
        """The model's decision, which is noted in the turn."""
        command = {True: "/think", False: "/direct", None: None}[self.thinking]
        if command and self.enable_thinking is not None and self.enable_thinking != self.thinking:
            raise ValueError(
                f"{command} contradicts the chat template, which opens the answer of the other branch. Type /auto to "
                "follow it, or start without --enable_thinking."
            )
        threshold = self.threshold if self.thinking is None else None
        decision = self.model.decide(**inputs, thinking=self.thinking, thinking_threshold=threshold)
        turn.thinking = bool(decision.thinking)
        if decision.source == ["router"]:
            turn.thinking_probability, turn.thinking_threshold = float(decision.thinking_probability), threshold
            sign = ">=" if turn.thinking else "<"
            turn.why = f"router probability {turn.thinking_probability:.3f} {sign} threshold {threshold:.3f}"
        else:
            turn.why = f"forced by {command or 'the chat template'}"
        return decision


def _message(role: str, text: str, images: Sequence = ()) -> dict:
    content = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": text}]
    return {"role": role, "content": content}
