"""What needs no clock: operations at the shape of the 7B model, and the bytes of weights that a decoding step reads."""

from functools import lru_cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from hf_metis_home.modeling import MetisHomeConfig, MetisHomeForConditionalGeneration
from hf_metis_home.modeling.router_metis_home import Routing


TEXT_7B = {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}


@lru_cache
def shape_7b(router_layer: int) -> MetisHomeForConditionalGeneration:
    """The 7B model's language model without storage. The vision tower is not counted, so it is one layer."""
    config = MetisHomeConfig(
        text_config=TEXT_7B,
        router_layer=router_layer,
        vision_config={"depth": 1, "out_hidden_size": 3584, "fullatt_block_indexes": [0]},
    )
    with torch.device("meta"):
        return MetisHomeForConditionalGeneration(config).eval().to(torch.bfloat16)


@torch.no_grad()
def operations(model: MetisHomeForConditionalGeneration, tokens: int, route: bool) -> int:
    """
    Floating-point operations, as `torch.utils.flop_counter` counts them (matrix products alone), on one prompt whose
    vision features are given: of `route`, or of the prefill of one branch with the scores of the first answer token.
    """
    text = model.model.language_model
    inputs = {
        "inputs_embeds": torch.empty(1, tokens, text.config.hidden_size, dtype=text.dtype, device="meta"),
        "position_ids": torch.empty(3, 1, tokens, dtype=torch.long, device="meta"),
    }
    with FlopCounterMode(display=False) as counter:
        if route:
            text(**inputs, routing=Routing(route_only=True))
        else:
            model.lm_head(text(**inputs, routing=Routing(thinking=True), use_cache=False).last_hidden_state[:, -1:])
    # The router does not run without storage: two products of a vector with a matrix, and its queries meet every token
    # twice, to weigh it and to sum it up.
    router = sum(2 * layer.weight.numel() for layer in (text.router.up_proj, text.router.score))
    router += 2 * tokens * 2 * text.router.query.weight.numel()
    return counter.get_total_flops() + (router if route else 0)


def bytes_read(model: torch.nn.Module, mixed: bool) -> int:
    """
    Bytes of weights that a decoding step reads: attention, norms, head and shared feed-forward networks, and one
    branch's, or both branches' in a mixed batch. Of the embeddings a step reads a row per query, of the router nothing.
    """
    idle = ("visual", "embed_tokens", ".router.") + (() if mixed else (".non_thinking.",))
    return sum(
        parameter.numel() * parameter.element_size()
        for name, parameter in model.named_parameters()
        if not any(part in name for part in idle)
    )
