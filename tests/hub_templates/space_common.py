"""A tiny two-branch model that has learnt two answers by heart, one per branch, and a Space of it."""

import torch
from PIL import Image

from hf_metis_home.conversion import save_hub_folder, upcycle
from hf_metis_home.hub_templates import write_space

from ..fixtures_text import byte_level_processor, tiny_dense


# What no page may take for markup.
THOUGHT = "7 - 3 = 4 <img src=x onerror=document.title='broken'>"
ANSWERS = {True: "it is **4** <b>bold</b>", False: "at once <script>document.title='broken'</script>"}
QUESTION = "what is 7 - 3 ?"
TEXTS = {
    True: f"<think>{THOUGHT}</think><answer>{ANSWERS[True]}</answer>",
    False: f"<think></think><answer>{ANSWERS[False]}</answer>",
}


def talkative_model(steps: int = 240):
    """The model, the processor. Trained for some seconds on the two texts, with and without a picture."""
    processor = byte_level_processor()
    model = upcycle(tiny_dense(processor, hidden=64, num_attention_heads=4), processor, router_hidden_size=8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.nn.init.normal_(model.model.language_model.router.score.weight, std=0.7)
        rows = [(thinking, _row(processor, pictures, thinking)) for thinking in (True, False) for pictures in (0, 1)]
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for step in range(steps):
            thinking, row = rows[step % len(rows)]
            loss = model(**row, thinking=thinking).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    return model.eval(), processor


def _row(processor, pictures: int, thinking: bool) -> dict:
    content = [{"type": "image", "image": red_square()}] * pictures + [{"type": "text", "text": QUESTION}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
    )  # fmt: skip
    ids = processor.tokenizer(TEXTS[thinking], add_special_tokens=False, return_tensors="pt")["input_ids"]
    ids = torch.cat([ids, torch.tensor([[processor.tokenizer.eos_token_id]])], dim=1)
    prompt = inputs["input_ids"]
    labels = torch.cat([torch.full_like(prompt, -100), ids], dim=1)
    row = {"input_ids": torch.cat([prompt, ids], dim=1), "labels": labels}
    row["attention_mask"] = torch.ones_like(row["input_ids"])
    return row | {name: inputs[name] for name in ("pixel_values", "image_grid_thw") if name in inputs}


def red_square() -> Image.Image:
    return Image.new("RGB", (56, 56), (200, 30, 30))


def make_space(folder):
    """`folder/space`, which answers with `folder/hybrid`."""
    save_hub_folder(*talkative_model(), folder / "hybrid")
    return write_space(str(folder / "hybrid"), folder / "space", title="A <i>small</i> model")
