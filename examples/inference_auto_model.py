# /// script
# requires-python = ">=3.11"
# dependencies = ["transformers>=5.18", "torch", "torchvision", "pillow", "accelerate"]
# ///
"""
Uses a hybrid with only transformers; this package is not needed.

    python examples/inference_auto_model.py runs/sft picture.png "How many apples are left if two are eaten?"

`trust_remote_code=True` runs the Python files in the model's folder; read them first if you do not know the author.
"""

import sys

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor


if __name__ == "__main__":
    repo, image, question = sys.argv[1:4]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForImageTextToText.from_pretrained(repo, trust_remote_code=True, dtype="auto").to(device).eval()
    processor = AutoProcessor.from_pretrained(repo, trust_remote_code=True)

    content = [{"type": "image", "path": image}, {"type": "text", "text": question}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
    ).to(device)  # fmt: skip
    length = inputs["input_ids"].shape[1]

    def answer(**choice) -> str:
        tokens = model.generate(**inputs, max_new_tokens=1024, **choice)
        return processor.batch_decode(tokens[:, length:], skip_special_tokens=True)[0]

    print("The router thinks with probability", round(model.route(**inputs).thinking_probability.item(), 3))
    print("As it decides: ", answer())
    print("Thinking:      ", answer(thinking=True, max_thinking_tokens=512))
    print("Direct:        ", answer(thinking=False))
