"""
Token ids that the model needs from its processor, and `enable_thinking` in the processor's chat template.

`enable_thinking` is the ecosystem's name for choosing a mode in the template. Unset, the template renders exactly what
the source model's does; set, it also opens the answer with the first tokens of all training answers of that mode.
"""

import json
import logging

from ..answers import AnswerFormat, closing_token_ids, opening_text, opening_token_ids


logger = logging.getLogger(__name__)

# How templates of the Qwen family end. Everything before it is kept.
SOURCE_ENDING = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
ENDING = (
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is not none %}"
    "{{ THINKING if enable_thinking else NON_THINKING }}"
    "{% endif %}{% endif %}"
)


def prepare_processor(processor, config) -> None:
    """
    Add `enable_thinking` to a processor's chat template, and the processor's token ids to a configuration, in place.

    Args:
        processor ([`~transformers.ProcessorMixin`] or [`~transformers.PreTrainedTokenizerBase`]):
            The source model's. A template with an unknown ending is kept, with a warning.
        config ([`MetisHomeConfig`]):
            Gets `answer_format` (the default, if it has none), and for that format `assistant_header_ids`,
            `end_of_turn_id`, `thinking_opening_ids`, `non_thinking_opening_ids` and `thinking_closing_ids`.
    """
    tokenizer, answer_format = getattr(processor, "tokenizer", processor), AnswerFormat.of(config)
    config.answer_format = {name: tags and list(tags) for name, tags in vars(answer_format).items()}
    messages = [{"role": "user", "content": "?"}]
    closed = processor.apply_chat_template(messages, tokenize=False)
    opened = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    header = opened.removeprefix(closed)
    config.assistant_header_ids = tokenizer(header, add_special_tokens=False)["input_ids"]
    config.end_of_turn_id = tokenizer.eos_token_id
    config.thinking_opening_ids = opening_token_ids(tokenizer, thinking=True, answer_format=answer_format)
    config.non_thinking_opening_ids = opening_token_ids(tokenizer, thinking=False, answer_format=answer_format)
    config.thinking_closing_ids = closing_token_ids(tokenizer, answer_format)

    template = processor.chat_template
    if template.rstrip().endswith(SOURCE_ENDING):
        # `json.dumps` gives a Jinja string literal, whatever the tokenizer's text.
        ending = ENDING.replace("NON_THINKING", json.dumps(opening_text(tokenizer, False, answer_format)))
        ending = ending.replace("THINKING", json.dumps(opening_text(tokenizer, True, answer_format)))
        processor.chat_template = template.rstrip().removesuffix(SOURCE_ENDING) + ending
    elif "enable_thinking" not in template:
        logger.warning(
            "The processor's chat template does not end like Qwen's, so it is unchanged and has no `enable_thinking`. "
            "Force a branch with `generate(thinking=True)` or `False`."
        )
