"""
The miniature: a real Qwen2.5-VL of about a million parameters with a real processor, small enough to train on a CPU.

Size and initialisation are chosen so that the vision tower learns right away: with transformers' default
`initializer_range` of 0.02 it stalls for hundreds of steps in a model this small.
"""

from importlib.resources import files

import torch
from transformers import (
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from .tokenizer import build_tokenizer


IMAGE_SIZE = 56  # pixels; 14-pixel patches merged 2 x 2 make 4 tokens
CHAT_TEMPLATE = files("trl") / "chat_templates" / "qwen2_5_vl.jinja"  # as published with the checkpoints


def build_processor(tokenizer) -> Qwen2_5_VLProcessor:
    """A Qwen2.5-VL processor for images of 56 x 56 pixels around a tokenizer that has Qwen's special tokens."""
    pixels = {"min_pixels": IMAGE_SIZE**2, "max_pixels": IMAGE_SIZE**2}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**pixels),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**pixels),
        chat_template=CHAT_TEMPLATE.read_text(encoding="utf-8"),
    )


def build_miniature(seed: int = 0) -> tuple[Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor]:
    """
    The untrained miniature.

    Args:
        seed (`int`, *optional*, defaults to 0):
            Seed of the initial weights. The global random state does not change.

    Returns:
        The dense model (fp32, on the CPU) and its processor.
    """
    processor = build_processor(build_tokenizer())
    tokenizer = processor.tokenizer
    special = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 512,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]},
            "initializer_range": 0.08,
            **special,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 96,
            "intermediate_size": 288,
            "num_heads": 3,
            "out_hidden_size": 128,
            "fullatt_block_indexes": [1],
            "window_size": 56,
            "initializer_range": 0.08,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        **special,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(do_sample=False, max_new_tokens=64, **special)
    return model, processor
