"""Model inputs from rows."""

from collections.abc import Sequence


def prompt_inputs(processor, rows: Sequence[dict]):
    """
    Model inputs for the prompts of rows, padded on the left, ending with the header of the assistant's turn.

    Args:
        processor ([`~transformers.Qwen2_5_VLProcessor`]):
            The model's processor, with the chat template for the prompts.
        rows (`Sequence[dict]`):
            Rows of the row format with `prompt` and `images`.

    Returns:
        [`~transformers.BatchFeature`]: `input_ids` of shape `(batch_size, seq_len)`, `attention_mask`, and tensors of
        images if there are any.
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
    """A row's prompt with its images filled in, or put before the first query if that is plain text."""
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
