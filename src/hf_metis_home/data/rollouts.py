"""Answers drawn from a model in this process."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from typing import Any

from .prompts import prompt_inputs


# What no answer may hold: the trainers refuse rows with them.
NEVER = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")


class ModelRollouts:
    """
    Draws answers with `generate`.

    The same prompts, settings and seed give the same answers: the prompts of a set are cut into batches once, and each
    batch is drawn with a seed of its own, whole, also where only a part of it is missing.

    Args:
        model ([`~transformers.Qwen2_5_VLForConditionalGeneration`] or [`MetisHomeForConditionalGeneration`]):
            A two-branch model answers with its thinking branch.
        processor ([`~transformers.Qwen2_5_VLProcessor`]):
            The model's.
        name (`str`):
            What to call the model.
        temperature, top_p (`float`):
            Of the sampling.
        max_new_tokens (`int`):
            Longest answer in tokens.
        batch_size (`int`):
            Prompts per call of `generate`.
        seed (`int`):
            Of the sampling.
        system_prompt (`str`, *optional*):
            Put before every prompt; not part of the rows that are made.
    """

    def __init__(
        self,
        model,
        processor,
        name: str,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        max_new_tokens: int = 2048,
        batch_size: int = 4,
        seed: int = 0,
        system_prompt: str | None = None,
    ):
        self.model, self.processor, self.batch_size = model.eval(), processor, batch_size
        self.settings: dict[str, Any] = {
            "model": name,
            "temperature": temperature,
            "top_p": top_p,
            "max_new_tokens": max_new_tokens,
            "batch_size": batch_size,
            "seed": seed,
            "system_prompt": system_prompt,
        }

    def probe(self, row: dict) -> None:
        """Nothing to try out: the model is here."""

    def roll_out(self, rows, indices: Sequence[int], done: set[int], count: int) -> Iterator[tuple[int, list[str]]]:
        """
        Answers to prompts.

        Args:
            rows ([`PromptSet`]):
                The prompts.
            indices (`Sequence[int]`):
                Which of them, the same at every call.
            done (`set[int]`):
                Those that need no answers any more.
            count (`int`):
                Answers per prompt.

        Yields:
            A prompt's index and its answers.
        """
        for start in range(0, len(indices), self.batch_size):
            batch = indices[start : start + self.batch_size]
            if not done.issuperset(batch):
                yield from zip(batch, self._draw([rows[index] for index in batch], batch, count), strict=True)

    def _draw(self, rows: list[dict], indices: Sequence[int], count: int) -> list[list[str]]:
        import torch
        from PIL import Image

        settings = self.settings
        rows = [
            {
                "prompt": with_system_prompt(row["prompt"], settings["system_prompt"]),
                "images": [Image.open(io.BytesIO(image["bytes"])).convert("RGB") for image in row["images"]],
            }
            for row in rows
        ]
        inputs = prompt_inputs(self.processor, rows).to(self.model.device)
        branch = {"thinking": True} if self.model.config.model_type == "metis_home" else {}
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed_of(settings["seed"], *indices))
            sequences = self.model.generate(
                **inputs,
                **branch,
                do_sample=True,
                temperature=settings["temperature"],
                top_p=settings["top_p"],
                top_k=0,
                num_return_sequences=count,
                max_new_tokens=settings["max_new_tokens"],
                suppress_tokens=self._suppressed(),
            )
        answers = sequences[:, inputs["input_ids"].shape[1] :]  # [len(rows) * count, new tokens]
        texts = self.processor.batch_decode(answers, skip_special_tokens=True)
        return [texts[start : start + count] for start in range(0, len(texts), count)]

    def _suppressed(self) -> list[int]:
        """Ids of image and padding tokens, as far as they do not end an answer."""
        tokenizer, ends = self.processor.tokenizer, self.model.generation_config.eos_token_id
        vocabulary = tokenizer.get_vocab()
        ids = {vocabulary[token] for token in NEVER if token in vocabulary} | {tokenizer.pad_token_id}
        return sorted(ids - {None} - set(ends if isinstance(ends, list) else [ends]))


def with_system_prompt(prompt: list[dict], system_prompt: str | None) -> list[dict]:
    """A conversation that begins with a system prompt, in place of its own."""
    if system_prompt is None:
        return prompt
    return [{"role": "system", "content": system_prompt}, *(one for one in prompt if one["role"] != "system")]


def seed_of(*parts: int | str) -> int:
    """A seed for some numbers or words, the same in every process."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=4).digest(), "big")
