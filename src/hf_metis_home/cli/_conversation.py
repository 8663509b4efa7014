"""A conversation with a model: what was said, who decides about the branch, and the next answer."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..answers import AnswerFormat


@dataclass(frozen=True)
class Decision:
    """
    Which branch answers a question, and why.

    Args:
        thinking (`bool`, *optional*):
            The branch; None of a dense model, and where only the chat template knows.
        why (`str`):
            The reason, to be read after the branch's name.
        thinking_probability, thinking_threshold (`float`, *optional*):
            The router's probability and what it was compared with, where the router decided.
    """

    thinking: bool | None
    why: str
    thinking_probability: float | None = None
    thinking_threshold: float | None = None

    @property
    def branch(self) -> str:
        return {True: "thinking branch", False: "non-thinking branch", None: "one branch"}[self.thinking]


@dataclass
class Turn:
    """A question and what became of it. `images` holds pairs of path and picture."""

    question: str
    images: list[tuple] = field(default_factory=list)
    decision: Decision | None = None
    text: str = ""
    thought: str = ""
    answer: str = ""
    tokens: int = 0
    seconds: float = 0.0
    ended: str = ""  # "", or why the answer is not complete

    def record(self) -> dict:
        """What is saved of it: facts and texts, no pictures."""
        facts = vars(self.decision)
        return {
            "question": self.question,
            "images": [path for path, _ in self.images],
            **facts,
            **{name: getattr(self, name) for name in ("thought", "answer", "text", "tokens", "seconds", "ended")},
        }


@dataclass
class Conversation:
    """
    Turns with one model, which can be asked further.

    Every question is routed afresh, on the whole conversation as the chat template renders it. An earlier answer goes
    into it without its thought, which stands in `reasoning_content` for templates that read it.

    Args:
        model, processor:
            As [`~cli._models.load_model`] gives them.
        thinking (`bool`, *optional*):
            The branch that has to answer; None for the router.
        thinking_threshold (`float`, *optional*):
            The router's; the configuration's by default.
        enable_thinking (`bool`, *optional*):
            Passed to the chat template, which then writes the opening of the answer.
        max_new_tokens (`int`):
            Longest answer.
        max_thinking_tokens (`int`, *optional*):
            Budget of the thought.
        temperature (`float`):
            0 answers greedily.
        system_prompt (`str`, *optional*):
            In place of the template's own.
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
        """What the router's probability is compared with."""
        own = self.model.config.thinking_threshold if self.two_branch else None
        return own if self.thinking_threshold is None else self.thinking_threshold

    def ask(
        self,
        question: str,
        images: Sequence[tuple] = (),
        on_decision: Callable[[Decision], None] = lambda decision: None,
        on_text: Callable[[str, str], None] = lambda thought, answer: None,
    ) -> Turn:
        """
        Answer a question and keep the turn. Ctrl-C ends the answer where it is; without a word of it, the turn is lost.

        Args:
            question (`str`):
                Text of the question.
            images (`Sequence[tuple[str, PIL.Image.Image]]`, *optional*):
                Pictures before it, with their paths.
            on_decision, on_text (`Callable`, *optional*):
                Called with the decision, then again and again with thought and answer so far.

        Returns:
            [`Turn`].

        Raises:
            ValueError: text that spells out a special token, a conversation that is too long for the model, a forced
                branch that contradicts the chat template's opening.
        """
        import torch
        from transformers import TextStreamer

        self._check_text(question)
        turn = Turn(question, list(images))
        inputs, opening = self._inputs(turn)
        length = inputs["input_ids"].shape[1]
        room = self.model.config.get_text_config().max_position_embeddings - length
        if room < 1:
            raise ValueError(
                f"the conversation has {length} tokens, as many as the model can read or more. /clear begins a new one."
            )
        limit = min(self.max_new_tokens, room)
        turn.decision = self._decide(inputs, opening)
        on_decision(turn.decision)

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
            with torch.no_grad():
                output = self.model.generate(**inputs, streamer=streamer, max_new_tokens=limit, **self._options(turn))
            if turn.tokens >= limit and int(output[0, -1]) not in self._ends():
                turn.ended = f"cut off after {limit} tokens"
        except KeyboardInterrupt:
            streamer.end()
            turn.ended = "stopped"
        turn.seconds = time.perf_counter() - started
        if turn.text.strip() or not turn.ended:
            self.turns.append(turn)
        return turn

    def _check_text(self, text: str) -> None:
        for token in self.processor.tokenizer.added_tokens_decoder.values():
            if token.special and token.content in text:
                raise ValueError(f"{token.content!r} is a sign of the chat template, not a word. Leave it out.")

    def _inputs(self, turn: Turn):
        """Model inputs for a question with all that was said before, and what the template begins the answer with."""
        messages = [] if self.system_prompt is None else [_message("system", self.system_prompt)]
        for one in (*self.turns, turn):
            messages.append(_message("user", one.question, [image for _, image in one.images]))
            if one is not turn:
                messages.append({**_message("assistant", one.answer), "reasoning_content": one.thought})
        options = {} if self.enable_thinking is None else {"enable_thinking": self.enable_thinking}
        render = self.processor.apply_chat_template
        closed = render(messages, tokenize=False, **options)
        opened = render(messages, tokenize=False, add_generation_prompt=True, **options)
        header = self.processor.tokenizer.decode(getattr(self.model.config, "assistant_header_ids", None) or [])
        opening = opened.removeprefix(closed).removeprefix(header) if header else ""
        if options and not opening:
            raise ValueError(
                f"`--enable_thinking {self.enable_thinking}` has no effect, because the model's chat template does not "
                "know it. Leave it out, and force a branch with /think or /direct."
            )
        inputs = render(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", **options
        )
        return inputs.to(self.model.device), opening

    def _decide(self, inputs, opening: str) -> Decision:
        if not self.two_branch:
            return Decision(None, "a dense model, without a router")
        opened = self._opened_branch(opening)
        if self.thinking is not None:
            command = "/think" if self.thinking else "/direct"
            if opened not in (None, self.thinking):
                raise ValueError(
                    f"{command} contradicts the chat template, which begins the answer of the other branch. Type /auto "
                    "to follow it, or start without --enable_thinking."
                )
            return Decision(self.thinking, f"forced by {command}")
        if opened is not None:
            return Decision(opened, "forced by the chat template, which begins the answer that way")
        routing = self.model.route(**inputs, thinking_threshold=self.threshold)
        probability, thinking = float(routing.thinking_probability), bool(routing.thinking)
        compared = "at least" if thinking else "below"
        why = f"the router says {probability:.3f}, {compared} the threshold {self.threshold:.3f}"
        return Decision(thinking, why, probability, self.threshold)

    def _opened_branch(self, opening: str) -> bool | None:
        """The branch whose answers begin like that; one opening may begin with the other, so the longer one counts."""
        config, decode = self.model.config, self.processor.tokenizer.decode
        known = {True: decode(config.thinking_opening_ids), False: decode(config.non_thinking_opening_ids)}
        fitting = [branch for branch, text in known.items() if text and opening.startswith(text)]
        return max(fitting, key=lambda branch: len(known[branch]), default=None)

    def _options(self, turn: Turn) -> dict:
        """Keywords of `generate`."""
        options: dict = {"do_sample": self.temperature > 0}
        if self.temperature > 0:
            options["temperature"] = self.temperature
        thinking = turn.decision.thinking
        if thinking is not None:
            options["thinking"] = thinking
            if thinking and self.max_thinking_tokens is not None:
                options["max_thinking_tokens"] = self.max_thinking_tokens
        return options

    def _ends(self) -> list[int]:
        ends = self.model.generation_config.eos_token_id
        return ends if isinstance(ends, list) else [ends]


def _message(role: str, text: str, images: Sequence = ()) -> dict:
    content = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": text}]
    return {"role": role, "content": content}
