"""From rows to what a model takes."""

from collections.abc import Sequence


def prompt_inputs(processor, rows: Sequence[dict]):
    """
    Model inputs for the prompts of rows, padded on the left, with the opening of the assistant's turn.

    Args:
        processor ([`~transformers.Qwen2_5_VLProcessor`]):
            Its chat template renders the prompts.
        rows (`Sequence[dict]`):
            Rows of the row format with `prompt` and `images`.

    Returns:
        [`~transformers.BatchFeature`]: `input_ids` of shape `(batch_size, seq_len)` and what goes with them.
    """
    return processor.apply_chat_template(
        [conversation_of(row) for row in rows],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left"},
    )


def conversation_of(row: dict) -> list[dict]:
    """A row's prompt with its images: in the places for them, or in front of the first query where that is text."""
    images = iter(row["images"])
    messages = []
    for message in row["prompt"]:
        content = message["content"]
        if isinstance(content, str):
            first_query = message["role"] == "user" and all(before["role"] != "user" for before in messages)
            places = [{"type": "image", "image": image} for image in images] if first_query else []
            parts = [*places, {"type": "text", "text": content}]
        else:
            parts = [{"type": "image", "image": next(images)} if part["type"] == "image" else part for part in content]
        messages.append({"role": message["role"], "content": parts})
    return messages
