"""
The miniature's tokenizer: whole words, with each tag of the answer format as one token.

Every text of the miniature round-trips exactly: a token includes the space before it and the line break after it, and
decoding adds none.
"""

from string import ascii_lowercase

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# One token each: the tags, and the system prompt that Qwen's chat template adds to every conversation.
PHRASES = ("<think>", "</think>", "<answer>", "</answer>", "You are a helpful assistant.")
UNKNOWN = "<|unknown|>"
ROLES = ("system\n", "user\n", "assistant\n")

SPLIT = r"(system|user|assistant)?\n| ?[A-Za-z]+|[0-9]|[^\sA-Za-z0-9]| "

WORDS = (
    # easy-vqa
    "a an any black blue brown circle color contain does gray green image in is it no not of present rectangle red "
    "shape teal the there triangle what yellow yes "
    # digits, words and captions
    "at calculate chain describe digit digits left letters picture read result squares sum top which"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer, always the same: special tokens, phrases, digits, signs, words with and without a space."""
    pieces = ["\n", " ", *ROLES, *"0123456789", *"?.,:;=+-*/()'>"]
    pieces += [space + word for space in ("", " ") for word in sorted({*WORDS.split(), *ascii_lowercase})]
    tokens = [*SPECIAL_TOKENS, *PHRASES, UNKNOWN, *pieces]
    tokenizer = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(phrase, special=False, normalized=False) for phrase in PHRASES])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )
