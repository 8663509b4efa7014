"""Tiny random dense models of every backbone, and inputs with one picture per row for each."""

import torch

from hf_metis_home.modeling import hybrid_classes

from .tiny import ASSISTANT, IMAGE, PAD, TURN_END, TURN_START, VIDEO, VISION_END, VISION_START


FAST = ["qwen3_vl", "qwen3", "gemma3"]
TEXT = {
    "vocab_size": 100, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 99, "initializer_range": 0.2,
}  # fmt: skip
WITH_GRID = ("qwen2_5_vl", "qwen3_vl", "qwen3_5", "glm4v")  # pictures as patches with a grid
WITH_GRID_IDS = {"image_token_id": IMAGE, "video_token_id": VIDEO}
QWEN_IDS = {**WITH_GRID_IDS, "vision_start_token_id": VISION_START, "vision_end_token_id": VISION_END}
VISION = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14
}  # fmt: skip
QWEN_VISION = {
    "depth": 2, "hidden_size": 16, "num_heads": 2, "intermediate_size": 32, "out_hidden_size": 32, "patch_size": 14,
    "initializer_range": 0.2,
}  # fmt: skip
ALTERNATING = ["sliding_attention", "full_attention"] * 2


def _rope(**more):
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1], **more}}


LINEAR = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"] * 2,
}  # fmt: skip
FIELDS = {  # of the configuration: text, vision, and its own
    "qwen2_5_vl": (_rope(), {**QWEN_VISION, "fullatt_block_indexes": [1], "window_size": 56}, QWEN_IDS),
    "qwen3_vl": (
        {"head_dim": 8, **_rope(mrope_interleaved=True)},
        {**QWEN_VISION, "depth": 3, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16},
        QWEN_IDS,
    ),
    "qwen3_5": (
        {"head_dim": 8, **LINEAR, **_rope(mrope_interleaved=True, partial_rotary_factor=1.0)},
        {**QWEN_VISION, "num_position_embeddings": 16},
        QWEN_IDS,
    ),
    "glm4v": (
        _rope(partial_rotary_factor=1.0),
        {**QWEN_VISION, "hidden_size": 32, "image_size": 28},
        {
            **WITH_GRID_IDS, "image_start_token_id": VISION_START, "image_end_token_id": VISION_END,
            "video_start_token_id": 94, "video_end_token_id": 95,
        },
    ),
    "gemma3": (
        {"head_dim": 8, "sliding_window": 8, "layer_types": ALTERNATING},
        {**VISION, "image_size": 28, "model_type": "siglip_vision_model"},
        {
            "image_token_index": IMAGE, "boi_token_index": VISION_START, "eoi_token_index": VISION_END,
            "mm_tokens_per_image": 4, "initializer_range": 0.2,
        },
    ),
    "gemma4": (
        {
            "head_dim": 8, "global_head_dim": 8, "sliding_window": 8, "layer_types": ALTERNATING,
            "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 100, "num_kv_shared_layers": 0,
        },
        {**VISION, "num_key_value_heads": 2, "head_dim": 8, "pooling_kernel_size": 2},
        {**WITH_GRID_IDS, "boi_token_id": VISION_START, "eoi_token_id": VISION_END, "audio_config": None},
    ),
    "smolvlm": ({"model_type": "llama"}, {**VISION, "image_size": 56}, {"image_token_id": IMAGE, "scale_factor": 2}),
    "internvl": (
        {"model_type": "qwen2"},
        {**VISION, "image_size": [56, 56], "patch_size": [14, 14]},
        {"image_token_id": IMAGE, "image_seq_length": 4, "downsample_ratio": 0.5},
    ),
    "mistral3": (
        {"head_dim": 8, "model_type": "mistral"},
        {**VISION, "image_size": 56, "head_dim": 8, "model_type": "pixtral"},
        {"image_token_index": IMAGE, "spatial_merge_size": 2},
    ),
    "lfm2_vl": (
        {
            "model_type": "lfm2", "layer_types": ["conv", "full_attention"] * 2, "block_ff_dim": 48,
            "block_auto_adjust_ff_dim": False,
        },
        {**VISION, "num_patches": 16, "model_type": "siglip2_vision_model"},
        {"image_token_id": IMAGE, "downsample_factor": 2, "projector_hidden_size": 32},
    ),
    "qwen3": ({"head_dim": 8}, None, {}),
    "llama": ({}, None, {}),
}  # fmt: skip


def tiny_dense(backbone: str, seed: int = 0):
    """A dense model; another `seed` changes nothing but the feed-forward networks."""
    text, vision, own = FIELDS[backbone]
    dense_class = hybrid_classes(backbone)[2].__bases__[1]
    text = {**TEXT, **text}
    fields = text if vision is None else {"text_config": text, "vision_config": vision, **own}
    torch.manual_seed(0)
    model = dense_class(dense_class.config_class(**fields)).eval()
    torch.manual_seed(seed)
    for layer in model.model.get_decoder().layers if seed else ():
        for name, parameter in layer.named_parameters():
            if name.startswith(("mlp.", "feed_forward.")):
                parameter.data += 0.2 * torch.randn_like(parameter)
    return model


def batch(backbone: str, side: str = "left", rows: tuple[int, ...] = (0, 1, 2)) -> dict:
    """Prompts of different lengths; a row is the same in every batch."""
    prompts, pictures = [], FIELDS[backbone][1] is not None
    for row in rows:
        generator = torch.Generator().manual_seed(row)
        words = torch.randint(20, 80, (9 - 2 * row,), generator=generator).tolist()
        picture = [VISION_START, *[IMAGE] * 4, VISION_END] if pictures else []
        prompts.append([TURN_START, 8, *picture, *words, TURN_END, TURN_START, ASSISTANT])
    width = max(map(len, prompts))
    pads = [[PAD] * (width - len(prompt)) for prompt in prompts]
    ids = [pad + prompt if side == "left" else prompt + pad for pad, prompt in zip(pads, prompts, strict=True)]
    inputs = {"input_ids": torch.tensor(ids)}
    inputs["attention_mask"] = (inputs["input_ids"] != PAD).long()
    return inputs | (_pictures(backbone, inputs["input_ids"], rows) if pictures else {})


def _pictures(backbone: str, ids: torch.Tensor, rows: tuple[int, ...]) -> dict:
    def pixels(*shape: int) -> torch.Tensor:
        return torch.stack([torch.rand(shape, generator=torch.Generator().manual_seed(100 + row)) for row in rows])

    types, count = (ids == IMAGE).long(), len(rows)
    if backbone in WITH_GRID:
        grid = torch.tensor([[1, 4, 4]] * count)
        patches = pixels(16, 3 * 2 * 14 * 14).flatten(0, 1)
        return {"pixel_values": patches, "image_grid_thw": grid, "mm_token_type_ids": types}
    if backbone == "gemma3":
        return {"pixel_values": pixels(3, 28, 28), "token_type_ids": types}
    if backbone == "gemma4":
        places = torch.cartesian_prod(torch.arange(4), torch.arange(4)).flip(-1).repeat(count, 1, 1)
        return {"pixel_values": pixels(16, 588), "image_position_ids": places, "mm_token_type_ids": types}
    if backbone == "smolvlm":
        return {"pixel_values": pixels(1, 3, 56, 56)}
    if backbone == "mistral3":
        return {"pixel_values": pixels(3, 56, 56), "image_sizes": torch.tensor([[56, 56]] * count)}
    if backbone == "lfm2_vl":
        shapes, mask = torch.tensor([[4, 4]] * count), torch.ones(count, 16, dtype=torch.long)
        return {"pixel_values": pixels(16, 588), "spatial_shapes": shapes, "pixel_attention_mask": mask}
    return {"pixel_values": pixels(3, 56, 56)}
