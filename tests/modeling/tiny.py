"""Tiny models and prompts made of token ids, for tests that need no text."""

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from hf_metis_home.modeling import MetisHomeConfig, MetisHomeConfigMixin, MetisHomeForConditionalGeneration


IMAGE, VIDEO, VISION_START, VISION_END = 90, 91, 92, 93
PAD, EOS, TURN_START, ASSISTANT, TURN_END = 0, 1, 5, 6, 7
HEADER = [TURN_START, ASSISTANT]
THINKING_OPENING, NON_THINKING_OPENING = [10], [10, 11, 12]
THINKING_CLOSING = [11, 12]
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "down_proj"]
# What to parametrise over where the kind of branches could matter: arguments of `tiny_hybrid`.
KINDS = {
    "ffn_0": {"router_layer": 0},
    "ffn_1": {"router_layer": 1},
    "lora_1": {"router_layer": 1, "branch_kind": "lora", "branch_rank": 3, "branch_alpha": 3.0},
    "lora_attention_0": {
        "router_layer": 0, "branch_kind": "lora", "branch_rank": 2, "branch_alpha": 2.0,
        "branch_projections": ATTENTION,
    },
}  # fmt: skip
PATCH_DIM = 3 * 2 * 14 * 14


def text_config(**kwargs):
    return {
        "vocab_size": 100,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
        "bos_token_id": PAD,
        "eos_token_id": EOS,
        "pad_token_id": PAD,
        "initializer_range": 0.2,
        **kwargs,
    }


VISION_CONFIG = {
    "depth": 2,
    "hidden_size": 16,
    "num_heads": 2,
    "intermediate_size": 32,
    "out_hidden_size": 32,
    "fullatt_block_indexes": [1],
    "window_size": 56,
    "initializer_range": 0.2,
}
TOKEN_IDS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": VISION_START,
    "vision_end_token_id": VISION_END,
}


def tiny_dense(seed: int = 0, **text):
    torch.manual_seed(seed)
    config = Qwen2_5_VLConfig(text_config=text_config(**text), vision_config=VISION_CONFIG, **TOKEN_IDS)
    return Qwen2_5_VLForConditionalGeneration(config).eval()


def tiny_hybrid(seed: int = 0, **text):
    """A hybrid whose branches differ and whose router has an opinion."""
    torch.manual_seed(seed)
    own = {name: text.pop(name) for name in list(text) if name in MetisHomeConfigMixin.__dataclass_fields__}
    config = MetisHomeConfig(
        text_config=text_config(**text),
        vision_config=VISION_CONFIG,
        router_hidden_size=8,
        **own,
        assistant_header_ids=HEADER,
        end_of_turn_id=TURN_END,
        thinking_opening_ids=THINKING_OPENING,
        non_thinking_opening_ids=NON_THINKING_OPENING,
        thinking_closing_ids=THINKING_CLOSING,
        **TOKEN_IDS,
    )
    model = MetisHomeForConditionalGeneration(config).eval()
    router = model.model.language_model.router
    torch.nn.init.normal_(router.up_proj.weight, std=0.3)
    torch.nn.init.normal_(router.score.weight, std=0.7)
    for module in model.modules():
        if hasattr(module, "lora_B"):
            torch.nn.init.normal_(module.lora_B.weight, std=0.2)
    return model


def branch_twin(hybrid, branch: str):
    """The dense model that a hybrid is when it takes one branch."""
    dense = tiny_dense(**{"num_hidden_layers": hybrid.config.text_config.num_hidden_layers})
    state = hybrid.state_dict()
    for name in list(state):
        parent, _, rest = name.partition(f".{branch}.")
        if name.endswith(".lora_A.weight") and rest:
            projection = rest.removesuffix(".lora_A.weight")
            module = hybrid.get_submodule(name.removesuffix(".lora_A.weight"))
            change = module.lora_B.weight @ module.lora_A.weight * module.scaling
            state[f"{parent}.{projection}.weight"] = (state[f"{parent}.{projection}.weight"] + change).detach()
        elif rest and ".lora_" not in name:
            state[f"{parent}.{rest}"] = state[name]
    state = {
        name: tensor
        for name, tensor in state.items()
        if not any(part in name for part in (".router.", ".thinking.", ".non_thinking."))
    }
    dense.load_state_dict(state, strict=True)
    return dense


def prompt_ids(seed: int, length: int = 8, images: int = 1) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(20, 80, (length,), generator=generator).tolist()
    vision = [VISION_START, IMAGE, IMAGE, IMAGE, IMAGE, VISION_END]
    return [TURN_START, 8, *(vision * images), *words, TURN_END, *HEADER]


def batch(prompts: list[list[int]], side: str = "left", completions: list[list[int]] | None = None, seeds=None):
    """
    Model inputs for prompts, padded on one side; images have 4x4 patches (4 tokens), different for every prompt.

    With completions, `prompt_mask` marks the prompts.
    """
    completions = completions or [[] for _ in prompts]
    rows = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    width = max(map(len, rows))
    ids, mask, prompt_mask, pixels, grids = [], [], [], [], []
    for index, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        pad = width - len(row)
        marks = [1] * len(prompt) + [0] * (len(row) - len(prompt))
        ids.append([PAD] * pad + row if side == "left" else row + [PAD] * pad)
        mask.append([0] * pad + [1] * len(row) if side == "left" else [1] * len(row) + [0] * pad)
        prompt_mask.append([0] * pad + marks if side == "left" else marks + [0] * pad)
        generator = torch.Generator().manual_seed(1000 + (seeds[index] if seeds else index))
        for _ in range(row.count(IMAGE) // 4):
            pixels.append(torch.randn(16, PATCH_DIM, generator=generator))
            grids.append([1, 4, 4])
    inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE).int()
    if pixels:
        inputs |= {"pixel_values": torch.cat(pixels), "image_grid_thw": torch.tensor(grids)}
    if any(completions):
        inputs["prompt_mask"] = torch.tensor(prompt_mask).bool()
    return inputs
