"""Random models and prompts of the same sizes for all benchmarks: no text, no padding, one image per query."""

import argparse
from dataclasses import dataclass, fields
from zlib import crc32

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from hf_metis_home.modeling import MetisHomeConfig, MetisHomeForConditionalGeneration


VISION_START, VISION_END, IMAGE, VIDEO, TURN_START, ASSISTANT, TURN_END = 2, 3, 4, 5, 6, 7, 8
SPECIAL = 16  # word ids start here
PATCH_DIM = 3 * 2 * 14 * 14
# How far logits that should be equal may lie apart: a batch of other rows is summed in another order.
TOLERANCE = {"float32": {"rtol": 1e-4, "atol": 1e-4}, "bfloat16": {"rtol": 0.02, "atol": 0.05}}


@dataclass(frozen=True)
class Sizes:
    hidden: int = 512
    ffn: int = 1408
    layers: int = 8
    vocab: int = 4096  # the head then has the share of the weights that it has in the 7B model, 8 %
    vision_depth: int = 4
    batch: int = 8
    text_tokens: int = 64
    image_side: int = 16  # patches; four of them make a token
    device: str = "cpu"
    dtype: str = "float32"

    @classmethod
    def add_flags(cls, parser: argparse.ArgumentParser) -> None:
        for field in fields(cls):
            if field.type is int:
                parser.add_argument(f"--{field.name}", type=int, default=field.default)

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Sizes":
        return cls(**{field.name: getattr(args, field.name) for field in fields(cls)})

    def __str__(self) -> str:
        return (
            f"hidden size {self.hidden}, FFN {self.ffn}, {self.layers} layers, vocabulary {self.vocab}, a vision tower "
            f"of {self.vision_depth} layers; batches of {self.batch} queries of {self.text_tokens} words and an image "
            f"of {self.image_side**2 // 4} tokens"
        )


def config_values(sizes: Sizes) -> dict:
    heads = max(2, sizes.hidden // 64)
    half = sizes.hidden // heads // 2
    text = {
        "vocab_size": sizes.vocab,
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.ffn,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": heads,
        "num_key_value_heads": max(1, heads // 4),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [half - 2 * (3 * half // 8), 3 * half // 8, 3 * half // 8],
        },
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    vision = {
        "depth": sizes.vision_depth,
        "hidden_size": sizes.hidden // 2,
        "num_heads": max(2, sizes.hidden // 128),
        "intermediate_size": sizes.hidden,
        "out_hidden_size": sizes.hidden,
        "fullatt_block_indexes": [sizes.vision_depth - 1],
    }
    ids = {
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "vision_start_token_id": VISION_START,
        "vision_end_token_id": VISION_END,
    }
    return {"text_config": text, "vision_config": vision, **ids}


def dense_model(sizes: Sizes, seed: int = 0) -> Qwen2_5_VLForConditionalGeneration:
    return build(Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig(**config_values(sizes)), sizes, seed)


def hybrid_model(sizes: Sizes, router_layer: int, seed: int = 0, **options) -> MetisHomeForConditionalGeneration:
    """A hybrid with an opinionated router, whose thinking branch and shared weights are those of `dense_model`."""
    config = MetisHomeConfig(
        **config_values(sizes),
        router_layer=router_layer,
        **options,
        assistant_header_ids=[TURN_START, ASSISTANT],
        end_of_turn_id=TURN_END,
        thinking_opening_ids=[9],
        non_thinking_opening_ids=[9, 10],
    )
    model = build(MetisHomeForConditionalGeneration, config, sizes, seed)
    model.model.language_model.router.float()
    return model


@torch.no_grad()
def build(model_class, config, sizes: Sizes, seed: int):
    """Draw every matrix by its name: models then share what they have in common, and none needs another to be made."""
    with torch.device(sizes.device):
        model = model_class._from_config(config, dtype=getattr(torch, sizes.dtype))
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            name = f"{seed} {name.replace('.mlp.thinking.', '.mlp.')}"
            generator = torch.Generator(sizes.device).manual_seed(crc32(name.encode()))
            parameter.normal_(std=0.7 if name.endswith("router.score.weight") else 0.02, generator=generator)
    return model.eval()


def queries(sizes: Sizes, count: int | None = None, seed: int = 0) -> dict[str, torch.Tensor]:
    """Inputs of `count` queries, by default one batch."""
    count = count or sizes.batch
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(SPECIAL, sizes.vocab, (count, sizes.text_tokens), generator=generator)
    image = [VISION_START, *[IMAGE] * (sizes.image_side**2 // 4), VISION_END]
    frame = torch.tensor([TURN_START, SPECIAL, *image, TURN_END, TURN_START, ASSISTANT]).expand(count, -1)
    input_ids = torch.cat([frame[:, :-3], words, frame[:, -3:]], dim=1)
    pixel_values = torch.randn(count * sizes.image_side**2, PATCH_DIM, generator=generator)
    inputs = {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "mm_token_type_ids": (input_ids == IMAGE).int(),
        "pixel_values": pixel_values.to(getattr(torch, sizes.dtype)),
        "image_grid_thw": torch.tensor([[1, sizes.image_side, sizes.image_side]]).repeat(count, 1),
    }
    return {name: tensor.to(sizes.device) for name, tensor in inputs.items()}


def seen(model, inputs: dict[str, torch.Tensor]) -> dict:
    """The same inputs with the vision tower's features in the place of the pixels."""
    with torch.no_grad():
        features = model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True)
    rest = {name: tensor for name, tensor in inputs.items() if name != "pixel_values"}
    return {**rest, "mm_encoder_outputs": {"image": features}}


def rows(inputs: dict, index: list[int]) -> dict:
    """Some queries of a batch, of pixels or of features."""
    chosen = torch.tensor(index, device=inputs["input_ids"].device)
    result = {}
    for name, value in inputs.items():
        if name == "mm_encoder_outputs":
            images = value["image"].pooler_output
            result[name] = {"image": BaseModelOutputWithPooling(pooler_output=[images[row] for row in index])}
        elif name == "pixel_values":
            result[name] = value.unflatten(0, (len(inputs["input_ids"]), -1))[chosen].flatten(0, 1)
        else:
            result[name] = value[chosen]
    return result


def megabytes(*models: torch.nn.Module) -> float:
    """MB (1e6 bytes) of weights."""
    return sum(tensor.numel() * tensor.element_size() for model in models for tensor in model.parameters()) / 1e6


def join(batches: list[dict]) -> dict:
    """Batches of queries as one."""
    result = {}
    for name in batches[0]:
        if name == "mm_encoder_outputs":
            images = [image for batch in batches for image in batch[name]["image"].pooler_output]
            result[name] = {"image": BaseModelOutputWithPooling(pooler_output=images)}
        else:
            result[name] = torch.cat([batch[name] for batch in batches])
    return result


def threshold_for(probability: torch.Tensor, share: float = 0.5) -> float:
    """The threshold at which this share of the queries goes to the thinking branch, between two of them."""
    probability = probability.sort(descending=True).values
    thinking = round(share * len(probability))
    if not 0 < thinking < len(probability):
        raise ValueError(f"{share:.0%} of {len(probability)} queries is none or all, but both kinds are needed.")
    return float(probability[thinking - 1 : thinking + 1].double().mean())
