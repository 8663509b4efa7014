"""
Processors and tiny models for tests that need text.

Two tokenizers: the miniature's, in which each tag is one token, and a byte-level BPE with Qwen's split regex, in which
a tag is several tokens whose last one joins what follows. Both are in real `Qwen2_5_VLProcessor`s with Qwen's template.
"""

from functools import lru_cache

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from hf_metis_home.miniature.model import build_processor
from hf_metis_home.miniature.tokenizer import SPECIAL_TOKENS, build_tokenizer


QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXT = [
    "First I think about the question, then I answer it. <think>Because 7 - 3 = 4</think><answer>4</answer>",
    "<think></think><answer>yes</answer> system user assistant You are a helpful assistant.",
    "think answer thinking thinks answered answers what colour is the shape",
] * 20


@lru_cache
def _byte_level_json() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    return tokenizer.to_str()


def byte_level_processor():
    """A processor whose tokenizer splits like Qwen's and is trained on a few sentences."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_byte_level_json()),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    return build_processor(tokenizer)


def word_level_processor():
    """The miniature's processor."""
    return build_processor(build_tokenizer())


def tiny_dense(processor, seed: int = 0, num_layers: int = 2, hidden: int = 32, **text):
    """A dense Qwen2.5-VL of some ten thousand parameters for a processor's vocabulary."""
    torch.manual_seed(seed)
    tokenizer = processor.tokenizer
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{token}|>") for name, token in _TOKEN_OF_FIELD.items()}
    special = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": hidden,
            "intermediate_size": 48,
            "num_hidden_layers": num_layers,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
            "initializer_range": 0.1,
            **special,
            **text,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "num_heads": 2,
            "intermediate_size": 32,
            "out_hidden_size": hidden,
            "fullatt_block_indexes": [1],
            "window_size": 56,
            "initializer_range": 0.1,
        },
        **ids,
        **special,
    )
    return Qwen2_5_VLForConditionalGeneration(config).eval()


_TOKEN_OF_FIELD = {
    "image_token_id": "image_pad",
    "video_token_id": "video_pad",
    "vision_start_token_id": "vision_start",
    "vision_end_token_id": "vision_end",
}


def tiny_word_level(**kwargs):
    """A tiny dense model and the miniature's processor."""
    processor = word_level_processor()
    return tiny_dense(processor, **kwargs), processor
