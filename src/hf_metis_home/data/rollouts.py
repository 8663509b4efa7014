"""Rollouts from a model in this process."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from ..answers import AnswerFormat
from .prompts import prompt_inputs


# Tokens never sampled: the trainers refuse rows that contain them.
NEVER = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")


@dataclass(frozen=True)
class Sampling:
    """
    How answers are sampled.

    Args:
        temperature, top_p (`float`):
            As in `generate`.
        max_new_tokens (`int`):
            Longest answer in tokens.
        seed (`int`):
            The same seed gives the same answers, if the model is in this process.
        system_prompt (`str`, *optional*):
            Replaces the system prompt of every prompt; not written into the rows.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 2048
    seed: int = 0
    system_prompt: str | None = None


class ModelRollouts:
    """
    Samples answers with `generate`.

    The same prompts, settings and seed give the same answers: a set of prompts is always cut into the same batches, and
    each batch is sampled whole and with its own seed, even if only some of its answers are missing.

    Args:
        model ([`~transformers.Qwen2_5_VLForConditionalGeneration`] or [`MetisHomeForConditionalGeneration`]):
            A two-branch model answers with its thinking branch.
        processor ([`~transformers.Qwen2_5_VLProcessor`]):
            The model's processor.
        name (`str`):
            The model's name in settings and cards.
        batch_size (`int`, *optional*, defaults to 4):
            Prompts per call of `generate`.
        sampling:
            Fields of [`Sampling`].
    """

    def __init__(self, model, processor, name: str, *, batch_size: int = 4, **sampling):
        self.model, self.processor, self.batch_size = model.eval(), processor, batch_size
        self.sampling, self.answer_format = Sampling(**sampling), AnswerFormat.of(model.config)
        self.settings = {"model": name, "batch_size": batch_size, **asdict(self.sampling)}

    def probe(self, row: dict) -> None:
        """Nothing to check: the model is loaded."""

    def roll_out(self, rows, indices: Sequence[int], done: set[int], count: int) -> Iterator[tuple[int, list[str]]]:
        """
        Answers to prompts.

        Args:
            rows ([`PromptSet`]):
                The prompts.
            indices (`Sequence[int]`):
                Which of them, the same in every call.
            done (`set[int]`):
                Those that are answered already.
            count (`int`):
                Answers per prompt.

        Yields:
            The index of a prompt, and its answers.
        """
        for start in range(0, len(indices), self.batch_size):
            batch = indices[start : start + self.batch_size]
            if not done.issuperset(batch):
                yield from zip(batch, self._sample([rows[index] for index in batch], batch, count), strict=True)

    def _sample(self, rows: list[dict], indices: Sequence[int], count: int) -> list[list[str]]:
        import torch
        from PIL import Image

        sampling = self.sampling
        rows = [
            {
                "prompt": with_system_prompt(row["prompt"], sampling.system_prompt),
                "images": [Image.open(io.BytesIO(image["bytes"])).convert("RGB") for image in row["images"]],
            }
            for row in rows
        ]
        inputs = prompt_inputs(self.processor, rows).to(self.model.device)
        branch = {"thinking": True} if self.model.config.model_type == "metis_home" else {}
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed_of(sampling.seed, *indices))
            sequences = self.model.generate(
                **inputs,
                **branch,
                **{name: getattr(sampling, name) for name in ("temperature", "top_p", "max_new_tokens")},
                do_sample=True,
                top_k=0,
                num_return_sequences=count,
                suppress_tokens=self._suppressed(),
            )
        answers = sequences[:, inputs["input_ids"].shape[1] :]  # [len(rows) * count, new tokens]
        texts = self.processor.batch_decode(answers, skip_special_tokens=True)
        return [texts[start : start + count] for start in range(0, len(texts), count)]

    def _suppressed(self) -> list[int]:
        """Ids of image and padding tokens, except for one that ends answers."""
        tokenizer, ends = self.processor.tokenizer, self.model.generation_config.eos_token_id
        vocabulary = tokenizer.get_vocab()
        ids = {vocabulary[token] for token in NEVER if token in vocabulary} | {tokenizer.pad_token_id}
        return sorted(ids - {None} - set(ends if isinstance(ends, list) else [ends]))


def with_system_prompt(prompt: list[dict], system_prompt: str | None) -> list[dict]:
    """A conversation with another system prompt; unchanged if that is None."""
    if system_prompt is None:
        return prompt
    return [{"role": "system", "content": system_prompt}, *(one for one in prompt if one["role"] != "system")]


def seed_of(*parts: int | str) -> int:
    """A seed derived from numbers and words, the same in every process."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=4).digest(), "big")
