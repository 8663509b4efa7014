"""One answer to each query of a batch."""

import math
from dataclasses import dataclass

import torch

from ..answers import AnswerFormat


@dataclass(frozen=True)
class GeneratedAnswer:
    """
    What a model wrote in reply to one query.

    Args:
        text (`str`):
            The generated text.
        tokens (`int`):
            Generated tokens, including the end of turn.
        thinking (`bool`):
            The branch that answered; for a dense model, whether it wrote a thought.
        thinking_probability (`float`, *optional*):
            The router's, if it was asked.
    """

    text: str
    tokens: int
    thinking: bool
    thinking_probability: float | None


@torch.no_grad()
def generate_answers(
    model,
    processor,
    inputs,
    *,
    max_new_tokens: int,
    thinking: bool | None = None,
    thinking_threshold: float | None = None,
    temperature: float = 0.0,
) -> list[GeneratedAnswer]:
    """
    One answer to each query of a batch.

    Args:
        model ([`MetisHomeForConditionalGeneration`] or [`~transformers.Qwen2_5_VLForConditionalGeneration`]):
            A dense model chooses by itself whether to write a thought.
        processor ([`~transformers.Qwen2_5_VLProcessor`]):
            Its processor.
        inputs ([`~transformers.BatchFeature`]):
            As [`~data.prompt_inputs`] returns them, on the model's device.
        max_new_tokens (`int`):
            Longest answer in tokens.
        thinking (`bool`, *optional*):
            Force a branch of a two-branch model; None asks its router.
        thinking_threshold (`float`, *optional*):
            Threshold of the router, if not the model's own.
        temperature (`float`, *optional*, defaults to 0.0):
            0 is greedy; above 0, sample from all tokens at this temperature with torch's global generator.
    """
    two_branch = model.config.model_type == "metis_home"
    if thinking is not None and not two_branch:
        raise ValueError(f"`thinking={thinking}` forces a branch, but the model is dense ({model.config.model_type}).")
    choice = {"thinking": thinking, "thinking_threshold": thinking_threshold} if two_branch else {}
    sampling = {"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature > 0 else {}
    output = model.generate(
        **inputs,
        **choice,
        max_new_tokens=max_new_tokens,
        do_sample=temperature > 0,
        return_dict_in_generate=True,
        **sampling,
    )
    answers = output.sequences[:, inputs["input_ids"].shape[1] :]
    texts = processor.batch_decode(answers, skip_special_tokens=True)
    lengths = (answers != processor.tokenizer.pad_token_id).sum(dim=1).tolist()
    if two_branch:
        modes, probabilities = output.thinking.bool().tolist(), output.thinking_probability.tolist()
    else:
        modes = [bool(AnswerFormat.of(model.config).parse(text).thought) for text in texts]
        probabilities = [math.nan] * len(texts)
    return [
        GeneratedAnswer(text, length, mode, None if math.isnan(probability) else probability)
        for text, length, mode, probability in zip(texts, lengths, modes, probabilities, strict=True)
    ]
