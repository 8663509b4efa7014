"""
Metis-HOME (arXiv 2510.20519) on transformers' Qwen2.5-VL: from layer `router_layer` on, each decoder layer has two
feed-forward branches, *thinking* and *non_thinking*, and a router sends each query to one of them for its whole answer.

This file travels to the Hub beside the weights, so it imports nothing but torch, transformers and its two siblings.
Attention, vision tower, embeddings, norms, head, positions and caches are the parent's. Restated here, because the
parent leaves no room for the branch: the decoder layer, and the two forwards through which the decision has to travel.
Nothing is kept on a module between calls: a decision lives in the arguments of the call it was made for.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from transformers import LogitsProcessorList, UnbatchedClassifierFreeGuidanceLogitsProcessor
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast, ModelOutput
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
    Qwen2_5_VLAttention,
    Qwen2_5_VLDecoderLayer,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLModel,
    Qwen2_5_VLPreTrainedModel,
    Qwen2_5_VLTextModel,
)
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple
from transformers.utils.generic import maybe_autocast, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .branches_metis_home import (
    BranchRows,
    MetisHomeBranches,
    MetisHomeLowRankAttention,
    MetisHomeLowRankMLP,
    MetisHomeZeroLinear,
)
from .compat_metis_home import CACHE
from .configuration_metis_home import (
    ATTENTION_PROJECTIONS,
    BRANCHES,
    MetisHomeConfig,
    MetisHomeTextConfig,
    check_only_branch,
)
from .generation_metis_home import (
    GenerationDecision,
    ThinkingBudgetLogitsProcessor,
    check_budgets,
    common_prefix,
)


ROUTER_QUERIES = 4  # learned queries of the "attention" pooling


@dataclass
class MetisHomeModelOutputWithPast(BaseModelOutputWithPast):
    """
    Args:
        router_logits (`torch.FloatTensor` of shape `(batch_size, 2)`, *optional*):
            Router scores in fp32, column 1 = thinking. Only where the router was asked (see `forward`).
    """

    router_logits: torch.FloatTensor | None = None


@dataclass
class MetisHomeCausalLMOutputWithPast(CausalLMOutputWithPast):
    """
    Args:
        router_logits (`torch.FloatTensor` of shape `(batch_size, 2)`, *optional*):
            Router scores in fp32, column 1 = thinking. Only where the router was asked (see `forward`).
    """

    router_logits: torch.FloatTensor | None = None


@dataclass
class MetisHomeRouting(ModelOutput):
    """
    What [`MetisHomeForConditionalGeneration.route`] returns.

    Args:
        logits (`torch.FloatTensor` of shape `(batch_size, 2)`):
            Router scores in fp32, column 1 = thinking.
        thinking_probability (`torch.FloatTensor` of shape `(batch_size,)`):
            Probability that the query is one for the thinking branch.
        thinking (`torch.LongTensor` of shape `(batch_size,)`):
            The decision: 1 where the probability reaches the threshold.
    """

    logits: torch.FloatTensor | None = None
    thinking_probability: torch.FloatTensor | None = None
    thinking: torch.LongTensor | None = None


def check_threshold(thinking_threshold: float | None, default: float) -> float:
    """The threshold to use: the argument, or the config's where it is None. An error outside [0, 1]."""
    if thinking_threshold is None:
        return default
    if isinstance(thinking_threshold, bool) or not isinstance(thinking_threshold, (int, float)):
        raise ValueError(
            f"`thinking_threshold` is {thinking_threshold!r}, but must be a number in [0, 1]: a query goes to the "
            "thinking branch where the router's probability is at least this."
        )
    if not 0.0 <= thinking_threshold <= 1.0:
        raise ValueError(
            f"`thinking_threshold` is {thinking_threshold}, but it is compared with a probability and must be in "
            "[0, 1]: 0 sends every query to the thinking branch; to force a branch, pass `thinking=True` or `False`."
        )
    return float(thinking_threshold)


def check_thinking(thinking, batch_size: int, device) -> bool | torch.Tensor | None:
    """
    One form for every way to say `thinking`.

    Returns:
        `None` (the router decides every row), a `bool` (all rows share a branch), a `torch.BoolTensor` of shape
        `(batch_size,)` (every row decided), or a `torch.LongTensor` of that shape, -1 where the router decides.
    """
    meaning = "True (thinking branch), False (non-thinking branch) or None (the router decides)"
    if thinking is None or isinstance(thinking, bool):
        return thinking
    if isinstance(thinking, (list, tuple)):
        for row, value in enumerate(thinking):
            if value is not None and not isinstance(value, bool):
                raise ValueError(f"`thinking[{row}]` is {value!r}, but must be {meaning}.")
        decided = None not in thinking
        thinking = torch.tensor([-1 if value is None else int(value) for value in thinking], device=device)
    elif isinstance(thinking, torch.Tensor):
        if thinking.is_floating_point() or thinking.is_complex():
            raise ValueError(
                f"`thinking` has dtype {thinking.dtype}, but must be boolean, or integer with 1, 0 and -1."
            )
        # A boolean tensor is known to be decided without looking at it, which would wait for the device.
        decided = thinking.dtype == torch.bool or not bool((thinking < 0).any())
    else:
        raise ValueError(f"`thinking` is {thinking!r}, but must be {meaning}, or a list of such values, one per row.")
    if thinking.shape != (batch_size,):
        raise ValueError(
            f"`thinking` has shape {tuple(thinking.shape)}, but the batch has {batch_size} rows: pass one value per "
            "row, or a single True / False for all of them."
        )
    return thinking.to(device=device, dtype=torch.bool if decided else torch.long)


class MetisHomeRouter(nn.Module):
    """
    Pools the prompt's hidden states and scores the two branches.

    It computes in the dtype of its own weights, fp32 unless the user casts the model, whatever the model's dtype. The
    scores start at zero, so an untrained router gives every query probability 0.5.
    """

    def __init__(self, config: MetisHomeTextConfig):
        super().__init__()
        self.pooling = config.router_pooling
        self.hidden_size = config.hidden_size
        vectors = {"mean": 1, "modality_mean": 2, "attention": ROUTER_QUERIES}[self.pooling]
        if self.pooling == "attention":
            self.query = nn.Linear(config.hidden_size, ROUTER_QUERIES, bias=False)
        self.up_proj = nn.Linear(vectors * config.hidden_size, config.router_hidden_size)
        self.score = MetisHomeZeroLinear(config.router_hidden_size, 2)

    def forward(
        self, hidden_states: torch.Tensor, router_mask: torch.Tensor, vision_mask: torch.Tensor
    ) -> torch.FloatTensor:
        """
        Args:
            hidden_states (`torch.Tensor` of shape `(batch_size, seq_len, hidden_size)`):
                Hidden states of the prompt at the router's depth.
            router_mask (`torch.BoolTensor` of shape `(batch_size, seq_len)`):
                Tokens that the router may read.
            vision_mask (`torch.BoolTensor` of shape `(batch_size, seq_len)`):
                Tokens that hold image or video features.

        Returns:
            `torch.FloatTensor` of shape `(batch_size, 2)`: scores, column 1 = thinking.
        """
        with maybe_autocast(device_type=hidden_states.device.type, enabled=False):
            return self.score(F.silu(self.up_proj(self.pool(hidden_states, router_mask, vision_mask))))

    def pool(
        self, hidden_states: torch.Tensor, router_mask: torch.Tensor, vision_mask: torch.Tensor
    ) -> torch.FloatTensor:
        """One vector per prompt, of shape `(batch_size, vectors * hidden_size)`, of its normalised tokens."""
        features = self.normalise(hidden_states.to(self.score.weight.dtype))
        # Padding can hold NaN (an attention row with nothing to attend to), which a weight of 0 would not take away.
        features = features.masked_fill(~router_mask[..., None], 0.0)
        if self.pooling == "attention":
            scores = self.query(features).masked_fill(~router_mask[..., None], torch.finfo(features.dtype).min)
            weights = scores.softmax(dim=1).transpose(1, 2)  # [B, Q, T]
        else:
            masks = [router_mask]
            if self.pooling == "modality_mean":
                masks = [router_mask & ~vision_mask, router_mask & vision_mask]
            weights = torch.stack(masks, dim=1).to(features.dtype)  # [B, V, T]
            weights = weights / weights.sum(dim=-1, keepdim=True).clamp(min=1)
        return (weights @ features).flatten(1)

    def normalise(self, features: torch.Tensor) -> torch.Tensor:
        """Bring every token to mean 0 and variance 1: vision features are far larger than those of text."""
        return F.layer_norm(features, (self.hidden_size,))


class MetisHomeDecoderLayer(Qwen2_5_VLDecoderLayer):
    """Qwen2.5-VL's decoder layer with two branches in its feed-forward network, of either kind, and its attention."""

    def __init__(self, config: MetisHomeTextConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        self.mlp = (MetisHomeBranches if config.branch_kind == "ffn" else MetisHomeLowRankMLP)(config)
        self.attention_has_branches = config.branch_kind == "lora" and any(
            name in config.branch_projections for name in ATTENTION_PROJECTIONS
        )
        if self.attention_has_branches:
            self.self_attn = MetisHomeLowRankAttention(config, layer_idx)

    def forward(self, hidden_states: torch.Tensor, branch: bool | torch.Tensor | BranchRows, **kwargs) -> torch.Tensor:
        residual = hidden_states
        hidden_states = self.input_layernorm(hidden_states)
        attended = {"branch": branch} if self.attention_has_branches else {}
        hidden_states, _ = self.self_attn(hidden_states=hidden_states, **attended, **kwargs)
        hidden_states = residual + hidden_states

        residual = hidden_states
        hidden_states = self.post_attention_layernorm(hidden_states)
        hidden_states = self.mlp(hidden_states, branch)
        return residual + hidden_states


class MetisHomePreTrainedModel(Qwen2_5_VLPreTrainedModel):
    """What the models here share: layers that devices do not split, and a router that stays in fp32."""

    config: MetisHomeConfig
    _no_split_modules = ["MetisHomeDecoderLayer", "Qwen2_5_VLDecoderLayer", "Qwen2_5_VLVisionBlock"]
    # A route is a threshold on a probability: rounding it to bf16 would move decisions.
    _keep_in_fp32_modules_strict = ["router"]
    # What quantisers skip, who match names from their start: from each of the three models that hold a router.
    _keep_in_fp32_modules = ["model.language_model.router", "language_model.router", "router"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        if isinstance(module, MetisHomeZeroLinear):
            module.reset_parameters()
        else:
            super()._init_weights(module)


class MetisHomeTextModel(MetisHomePreTrainedModel, Qwen2_5_VLTextModel):
    """Qwen2.5-VL's language model with the router, and two branches from layer `config.router_layer` on."""

    config: MetisHomeTextConfig
    input_modalities = ("text",)
    _can_record_outputs = {"hidden_states": Qwen2_5_VLDecoderLayer, "attentions": Qwen2_5_VLAttention}

    def __init__(self, config: MetisHomeTextConfig):
        super().__init__(config)
        for layer_idx in range(config.router_layer, config.num_hidden_layers):
            self.layers[layer_idx] = MetisHomeDecoderLayer(config, layer_idx)
        self.router = MetisHomeRouter(config)
        if config.only_branch is not None:
            # The checkpoint holds both.
            self._keys_to_ignore_on_load_unexpected = {
                rf"\.(mlp|self_attn)\.{branch}\." for branch in BRANCHES if branch != config.only_branch
            }
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        thinking: bool | torch.LongTensor | None = None,
        thinking_threshold: float = 0.5,
        router_mask: torch.BoolTensor | None = None,
        vision_mask: torch.BoolTensor | None = None,
        route_only: bool = False,
        past_key_values: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MetisHomeModelOutputWithPast:
        """
        The parent's forward with the router between layers `router_layer - 1` and `router_layer`.

        Args:
            thinking (`bool` or `torch.LongTensor` of shape `(batch_size,)`, *optional*):
                The branch: 1 thinking, 0 non-thinking, -1 or `None` the router's choice.
            thinking_threshold (`float`, *optional*, defaults to 0.5):
                Thinking where the router's probability is at least this.
            router_mask (`torch.BoolTensor` of shape `(batch_size, seq_len)`, *optional*):
                Tokens that the router reads. The router runs exactly when this is given.
            vision_mask (`torch.BoolTensor` of shape `(batch_size, seq_len)`, *optional*):
                Tokens that hold image or video features; none by default.
            route_only (`bool`, *optional*, defaults to `False`):
                Stop after the router. `last_hidden_state` is then what the router read.
        """
        if (input_ids is None) ^ (inputs_embeds is not None):
            raise ValueError("You must specify exactly one of input_ids or inputs_embeds")
        cache = past_key_values if cache is None else cache
        if use_cache and cache is None and not torch.jit.is_tracing():
            cache = DynamicCache(config=self.config)
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        shared_layers = self.config.router_layer
        if route_only and shared_layers == 0:  # nothing in front of the router needs positions and masks
            router_logits = self._router_logits(inputs_embeds, router_mask, vision_mask)
            return MetisHomeModelOutputWithPast(last_hidden_state=inputs_embeds, router_logits=router_logits)

        # As in the parent: 3 rows for temporal, height and width; a 4th in front holds text positions for packed masks.
        if position_ids is None:
            past_seen_tokens = cache.get_seq_length() if cache is not None else 0
            position_ids = torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + past_seen_tokens
            position_ids = position_ids.view(1, 1, -1).expand(3, inputs_embeds.shape[0], -1)
        elif position_ids.ndim == 2:
            position_ids = position_ids[None, ...].expand(3, position_ids.shape[0], -1)
        text_position_ids = None
        if position_ids.ndim == 3 and position_ids.shape[0] == 4:
            text_position_ids, position_ids = position_ids[0], position_ids[1:]

        if not isinstance(causal_mask_mapping := attention_mask, dict):
            mask_kwargs = {
                "config": self.config,
                "inputs_embeds": inputs_embeds,
                "attention_mask": attention_mask,
                CACHE: cache,
                "position_ids": text_position_ids,
            }
            causal_mask_mapping = {"full_attention": create_causal_mask(**mask_kwargs)}
            if self.has_sliding_layers:
                causal_mask_mapping["sliding_attention"] = create_sliding_window_causal_mask(**mask_kwargs)

        hidden_states = inputs_embeds
        position_embeddings = self.rotary_emb(hidden_states, position_ids)
        layer_kwargs = {
            "position_embeddings": position_embeddings,
            "position_ids": text_position_ids,
            CACHE: cache,
            "use_cache": use_cache,
            **kwargs,
        }
        masks = [causal_mask_mapping[layer_type] for layer_type in self.config.layer_types]
        for layer, mask in zip(self.layers[:shared_layers], masks[:shared_layers], strict=True):
            hidden_states = layer(hidden_states, attention_mask=mask, **layer_kwargs)

        router_logits = self._router_logits(hidden_states, router_mask, vision_mask)
        if route_only:
            return MetisHomeModelOutputWithPast(last_hidden_state=hidden_states, router_logits=router_logits)

        if shared_layers == len(self.layers):
            raise ValueError(
                "This model holds a router alone (`router_layer` is the number of its layers), so it can only "
                "`route()`. To answer, load the model that it was exported from."
            )
        if self.config.only_branch is not None:
            branch = thinking  # a `bool`, the one that is loaded
        else:
            branch = self._branch(thinking, router_logits, thinking_threshold, hidden_states)
        for layer, mask in zip(self.layers[shared_layers:], masks[shared_layers:], strict=True):
            hidden_states = layer(hidden_states, branch=branch, attention_mask=mask, **layer_kwargs)
        return MetisHomeModelOutputWithPast(
            last_hidden_state=self.norm(hidden_states), router_logits=router_logits, **{CACHE: cache}
        )

    def _router_logits(
        self,
        hidden_states: torch.Tensor,
        router_mask: torch.BoolTensor | None,
        vision_mask: torch.BoolTensor | None,
    ) -> torch.FloatTensor | None:
        """The router's scores `(batch_size, 2)`; None where it has nothing to read."""
        if router_mask is None:
            return None
        vision_mask = torch.zeros_like(router_mask) if vision_mask is None else vision_mask
        return self.router(hidden_states, router_mask, vision_mask)

    @staticmethod
    def _branch(
        thinking: bool | torch.LongTensor | None,
        router_logits: torch.FloatTensor | None,
        threshold: float,
        hidden_states: torch.Tensor,
    ) -> bool | torch.Tensor | BranchRows:
        """The decision in the form in which the layers compute it cheapest."""
        training = torch.is_grad_enabled()
        if isinstance(thinking, bool):
            if not training or torch.compiler.is_compiling():
                return thinking
            thinking = torch.full((hidden_states.shape[0],), int(thinking), device=hidden_states.device)
        if router_logits is not None:
            routed = (router_logits.detach().softmax(dim=-1)[:, 1] >= threshold).long()
            thinking = routed if thinking is None else torch.where(thinking < 0, routed, thinking)
        thinking = thinking.bool()
        if torch.compiler.is_compiling():
            return thinking  # how many rows take a branch is data, so a traced graph runs both on every row
        if not training:
            share = thinking.float().mean().item()
            if share in (0.0, 1.0):
                return bool(share)
        # With gradients on, a branch without rows still runs, on zero rows: a sharded or data-parallel run in which
        # ranks skip different branches would otherwise reduce gradients that do not belong together.
        return BranchRows(thinking.nonzero()[:, 0], (~thinking).nonzero()[:, 0])


class MetisHomeModel(MetisHomePreTrainedModel, Qwen2_5_VLModel):
    """Vision tower, router and two-branch language model without a head: what `AutoModel` gives."""

    _no_split_modules = MetisHomePreTrainedModel._no_split_modules

    def __init__(self, config: MetisHomeConfig):
        super(Qwen2_5_VLModel, self).__init__(config)  # not the parent's, which would build a dense language model
        config.text_config.only_branch = check_only_branch(config.only_branch)
        self.visual = Qwen2_5_VisionTransformerPretrainedModel._from_config(config.vision_config)
        self.language_model = MetisHomeTextModel._from_config(config.text_config)
        self.rope_deltas = None
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        image_grid_thw: torch.LongTensor | None = None,
        video_grid_thw: torch.LongTensor | None = None,
        mm_token_type_ids: torch.IntTensor | None = None,
        second_per_grid_ts: torch.Tensor | None = None,
        mm_encoder_outputs: dict | None = None,
        thinking: bool | list[bool | None] | torch.Tensor | None = None,
        thinking_threshold: float | None = None,
        prompt_mask: torch.Tensor | None = None,
        route_only: bool = False,
        past_key_values: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MetisHomeModelOutputWithPast:
        """
        See [`MetisHomeForConditionalGeneration.forward`] for the arguments that are not Qwen2.5-VL's.

        `route_only=True` stops after the router and leaves no trace: neither a cache nor the parent's `rope_deltas`.
        """
        cache = past_key_values if cache is None else cache
        inputs = input_ids if input_ids is not None else inputs_embeds
        thinking = self.only_loaded_branch(check_thinking(thinking, inputs.shape[0], inputs.device))
        thinking_threshold = check_threshold(thinking_threshold, self.config.thinking_threshold)
        undecided = thinking is None or (isinstance(thinking, torch.Tensor) and thinking.dtype != torch.bool)
        if undecided and not route_only:
            self._check_routable(cache, prompt_mask)

        router_mask = vision_mask = None
        if undecided or route_only or prompt_mask is not None:
            router_mask = self._router_mask(input_ids, inputs, attention_mask, prompt_mask)

        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        image_mask, video_mask = self.get_placeholder_mask(input_ids, inputs_embeds=inputs_embeds)  # [B, T, 1] each
        if router_mask is not None:
            vision_mask = (image_mask | video_mask).squeeze(-1)

        features = dict(mm_encoder_outputs or {})
        if pixel_values is not None:
            features["image"] = self.get_image_features(pixel_values, image_grid_thw, return_dict=True, **kwargs)
        if pixel_values_videos is not None:
            features["video"] = self.get_video_features(pixel_values_videos, video_grid_thw, return_dict=True, **kwargs)
        if not features and torch.is_grad_enabled() and _is_distributed():
            inputs_embeds = inputs_embeds + self._no_image(inputs_embeds)
        inputs_embeds = self._merge_features(inputs_embeds, input_ids, features)

        if position_ids is None and not (route_only and self.config.text_config.router_layer == 0):
            if mm_token_type_ids is None and input_ids is not None:
                mm_token_type_ids = self.token_types(input_ids)
            rope_deltas = self.rope_deltas
            position_ids = self.compute_3d_position_ids(
                input_ids=input_ids,
                image_grid_thw=image_grid_thw,
                video_grid_thw=video_grid_thw,
                second_per_grid_ts=second_per_grid_ts,
                inputs_embeds=inputs_embeds,
                attention_mask=attention_mask,
                mm_token_type_ids=mm_token_type_ids,
                **{CACHE: cache},
            )
            if route_only:
                self.rope_deltas = rope_deltas  # another generation may be decoding with them

        return self.language_model(
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache and not route_only,
            thinking=thinking,
            thinking_threshold=thinking_threshold,
            router_mask=router_mask,
            vision_mask=vision_mask,
            route_only=route_only,
            **kwargs,
        )

    @torch.no_grad()
    def route(self, *, thinking_threshold: float | None = None, **inputs) -> MetisHomeRouting:
        """
        The router's decision for prompts, without answering them.

        Runs the vision tower, the embeddings, the `router_layer` shared decoder layers and the router.

        Args:
            thinking_threshold (`float`, *optional*, defaults to `config.thinking_threshold`):
                Thinking where the probability is at least this, in [0, 1].
            inputs:
                What the processor returns for the prompts: `input_ids` of shape `(batch_size, seq_len)`,
                `attention_mask`, `pixel_values`, `image_grid_thw`, ... padded on either side.

        Returns:
            [`MetisHomeRouting`]: `logits` `(batch_size, 2)`, `thinking_probability` and `thinking` `(batch_size,)`.
        """
        thinking_threshold = check_threshold(thinking_threshold, self.config.thinking_threshold)
        _check_prompts(inputs.get("attention_mask"))
        logits = self(**inputs, route_only=True).router_logits
        probability = logits.softmax(dim=-1)[:, 1]
        return MetisHomeRouting(logits, probability, (probability >= thinking_threshold).long())

    def only_loaded_branch(self, thinking: bool | torch.Tensor | None) -> bool | torch.Tensor | None:
        """What `check_thinking` gave; where a single branch is loaded that branch, and an error for the other."""
        only = self.config.only_branch
        if only is None:
            return thinking
        loaded = only == "thinking"
        others = [thinking] if isinstance(thinking, bool) else [] if thinking is None else thinking.tolist()
        if any(value >= 0 and bool(value) != loaded for value in others):
            raise ValueError(
                f"`thinking` asks for the {'non-thinking' if loaded else 'thinking'} branch, but the model was loaded "
                f"with `only_branch={only!r}`. Load it with both branches (`only_branch=None`)."
            )
        return loaded

    def token_types(self, input_ids: torch.LongTensor) -> torch.LongTensor:
        """
        Token types as the processor gives them (0 text, 1 image, 2 video), of shape `(batch_size, seq_len)`. Without
        them the parent would number image tokens like text, without a word.
        """
        return (input_ids == self.config.image_token_id).long() + 2 * (input_ids == self.config.video_token_id).long()

    def _no_image(self, inputs_embeds: torch.Tensor) -> torch.Tensor:
        """
        Zero, by way of the vision tower. Where the model is sharded, every process has to run every module: one whose
        rows have no images would leave the others waiting in the vision tower.
        """
        vision = self.visual.config
        side = vision.spatial_merge_size
        patch = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        pixels = torch.zeros(side**2, patch, device=inputs_embeds.device, dtype=self.visual.dtype)
        grid = torch.tensor([[1, side, side]], device=inputs_embeds.device)
        features = torch.cat(self.get_image_features(pixels, grid, return_dict=True).pooler_output)
        return features[:0].sum().to(inputs_embeds.device, inputs_embeds.dtype)

    def _merge_features(self, inputs_embeds, input_ids, features: dict) -> torch.Tensor:
        """Vision features in the places of their placeholder tokens. An error where their numbers differ."""
        for modality in ("image", "video"):
            if features.get(modality) is None:
                continue
            embeds = torch.cat(features[modality].pooler_output, dim=0).to(inputs_embeds.device, inputs_embeds.dtype)
            image_mask, video_mask = self.get_placeholder_mask(
                input_ids, inputs_embeds=inputs_embeds, **{f"{modality}_features": embeds}
            )
            inputs_embeds = inputs_embeds.masked_scatter(image_mask if modality == "image" else video_mask, embeds)
        return inputs_embeds

    @staticmethod
    def _check_routable(cache: Cache | None, prompt_mask: torch.Tensor | None):
        if cache is not None and cache.get_seq_length() > 0:
            raise ValueError(
                f"`thinking` is not given, but `{CACHE}` already holds tokens: the router decides once per query, from "
                "the whole prompt. Pass `thinking=` with the branch of the query that is being continued."
            )
        if torch.is_grad_enabled() and prompt_mask is None:
            raise ValueError(
                "`thinking` is not given while gradients are on, and there is no `prompt_mask`: the router would read "
                "the answer. Pass `thinking=` and `prompt_mask=` (True on prompt tokens) to train, or use "
                "`torch.no_grad()`."
            )

    def _router_mask(self, input_ids, inputs, attention_mask, prompt_mask) -> torch.BoolTensor:
        """Which tokens the router reads: the prompt's, without padding and without an assistant turn that is open."""
        if prompt_mask is None:
            mask = torch.ones(inputs.shape[:2], dtype=torch.bool, device=inputs.device)
        elif prompt_mask.shape != inputs.shape[:2]:
            raise ValueError(
                f"`prompt_mask` has shape {tuple(prompt_mask.shape)}, but the input has {tuple(inputs.shape[:2])} "
                "(batch, tokens): mark every token, True where it belongs to the prompt."
            )
        else:
            mask = prompt_mask.bool()
        if isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2:
            mask = mask & attention_mask.bool()

        header = self.config.assistant_header_ids
        if input_ids is None or not header or input_ids.shape[1] < len(header):
            return mask
        ids = input_ids.masked_fill(~mask, -1)  # what is not prompt cannot open or end a turn
        starts = (ids.unfold(1, len(header), 1) == torch.tensor(header, device=ids.device)).all(-1)  # [B, T - n + 1]
        positions = torch.arange(ids.shape[1], device=ids.device)
        last_header = torch.where(starts, positions[: starts.shape[1]], -1).amax(dim=1)
        last_end = torch.where(ids == self.config.end_of_turn_id, positions, -1).amax(dim=1)
        open_from = torch.where(last_header > last_end, last_header, ids.shape[1])  # [B]
        return mask & (positions < open_from[:, None])


class MetisHomeForConditionalGeneration(MetisHomePreTrainedModel, Qwen2_5_VLForConditionalGeneration):
    """
    Qwen2.5-VL with a thinking and a non-thinking branch and a router that picks one per query (arXiv 2510.20519).

    Example:

    ```python
    >>> from transformers import AutoModelForImageTextToText, AutoProcessor

    >>> model = AutoModelForImageTextToText.from_pretrained("runs/demo/hybrid", trust_remote_code=True)
    >>> processor = AutoProcessor.from_pretrained("runs/demo/hybrid", trust_remote_code=True)
    >>> content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    >>> messages = [{"role": "user", "content": content}]
    >>> inputs = processor.apply_chat_template(
    ...     messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    ... )
    >>> model.route(**inputs).thinking_probability  # one number per query
    >>> model.generate(**inputs, max_new_tokens=256)  # the router decides
    >>> model.generate(**inputs, max_new_tokens=256, thinking=True)  # forced
    ```
    """

    _no_split_modules = MetisHomePreTrainedModel._no_split_modules

    def __init__(self, config: MetisHomeConfig):
        super(Qwen2_5_VLForConditionalGeneration, self).__init__(config)
        self.model = MetisHomeModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        pixel_values: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        image_grid_thw: torch.LongTensor | None = None,
        video_grid_thw: torch.LongTensor | None = None,
        mm_token_type_ids: torch.IntTensor | None = None,
        second_per_grid_ts: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        mm_encoder_outputs: dict | None = None,
        thinking: bool | list[bool | None] | torch.Tensor | None = None,
        thinking_threshold: float | None = None,
        prompt_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MetisHomeCausalLMOutputWithPast:
        """
        Arguments as in [`~transformers.Qwen2_5_VLForConditionalGeneration`] (`past_key_values` is another name of
        `cache`, the only one before transformers 5.24), and:

        Args:
            thinking (`bool`, `list` of `bool` or `None`, or `torch.Tensor` of shape `(batch_size,)`, *optional*):
                Branch per row: `True` thinking, `False` non-thinking, `None` (in an integer tensor -1) the router's
                choice. Required to continue a cache that holds tokens.
            thinking_threshold (`float`, *optional*, defaults to `config.thinking_threshold`):
                The router's choice is thinking where its probability is at least this, in [0, 1].
            prompt_mask (`torch.BoolTensor` of shape `(batch_size, seq_len)`, *optional*):
                True on the tokens of the prompt, which are all that the router reads. Needed when the input holds an
                answer too, as in training; without it the whole input is the prompt. The router runs, and
                `router_logits` is returned, when this is given or a row is undecided.

        Returns:
            [`MetisHomeCausalLMOutputWithPast`]: `loss` is the language model's loss alone; the router's belongs to the
            trainer.

        Raises:
            ValueError: `thinking` of a wrong length, type or value, a threshold outside [0, 1], a `prompt_mask` of
                another shape than the input; an undecided row with a cache that holds tokens, or with gradients on and
                no `prompt_mask`.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            pixel_values=pixel_values,
            pixel_values_videos=pixel_values_videos,
            image_grid_thw=image_grid_thw,
            video_grid_thw=video_grid_thw,
            mm_token_type_ids=mm_token_type_ids,
            second_per_grid_ts=second_per_grid_ts,
            mm_encoder_outputs=mm_encoder_outputs,
            thinking=thinking,
            thinking_threshold=thinking_threshold,
            prompt_mask=prompt_mask,
            past_key_values=past_key_values,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept, :])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.text_config.vocab_size, **kwargs
            )
        return MetisHomeCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            router_logits=outputs.router_logits,
            **{CACHE: getattr(outputs, CACHE)},
        )

    def route(self, **inputs) -> MetisHomeRouting:
        """See [`MetisHomeModel.route`]."""
        return self.model.route(**inputs)

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config=None,
        logits_processor=None,
        *args,
        thinking: bool | list[bool | None] | torch.Tensor | None = None,
        thinking_threshold: float | None = None,
        max_thinking_tokens: int | list[int | None] | None = None,
        **kwargs,
    ):
        """
        [`~transformers.GenerationMixin.generate`], with the branch decided once per query before the first token. The
        decision holds for every step, beam and returned sequence of the query.

        Args:
            thinking (`bool`, `list` of `bool` or `None`, or `torch.Tensor` of shape `(batch_size,)`, *optional*):
                `True` thinking branch, `False` non-thinking branch, `None` (the default) the router decides. A prompt
                that ends with a forced opening (`enable_thinking` in the chat template) has decided already.
            thinking_threshold (`float`, *optional*, defaults to `config.thinking_threshold`):
                The dial: thinking where the router's probability is at least this, in [0, 1].
            max_thinking_tokens (`int`, or `list` of `int` or `None` of length `batch_size`, *optional*):
                The budget: a thought that reaches so many tokens after its opening is closed, and the answer follows.
                Of no concern to queries that the non-thinking branch answers.

        Returns:
            What the parent returns. With `return_dict_in_generate=True` it also carries, one per returned sequence,
            `thinking` (`torch.LongTensor`, 1 or 0) and `thinking_probability` (`torch.FloatTensor`, NaN where the
            router was not asked).

        Raises:
            ValueError: as in `forward`; a threshold or a budget that cannot have an effect, because `thinking` decides
                every row; `thinking` that contradicts the opening of a prompt; a budget below 1, or without the token
                ids of the format in the configuration.
        """
        _check_prompts(kwargs.get("attention_mask"))
        decision = GenerationDecision(max_thinking_tokens)
        if max_thinking_tokens is not None:
            self._check_budget(max_thinking_tokens)
            budget = ThinkingBudgetLogitsProcessor(
                decision, self.config.thinking_opening_ids, self.config.thinking_closing_ids
            )
            logits_processor = LogitsProcessorList([*(logits_processor or ()), budget])
        outputs = super().generate(
            inputs,
            generation_config,
            logits_processor,
            *args,
            thinking=thinking,
            thinking_threshold=thinking_threshold,
            decision=decision,
            **kwargs,
        )
        if isinstance(outputs, ModelOutput):
            per_query = outputs.sequences.shape[0] // decision.thinking.shape[0]
            outputs["thinking"] = decision.thinking.repeat_interleave(per_query).long()
            outputs["thinking_probability"] = decision.thinking_probability.repeat_interleave(per_query)
            if (cache := outputs.get(CACHE)) is not None:
                cache.thinking = decision.thinking  # read where this model assists another
        return outputs

    def init_continuous_batching(self, *args, **kwargs):
        """Only with one branch loaded. Every way into continuous batching comes through here."""
        if self.config.only_branch is None:
            raise ValueError(
                "Continuous batching (`generate_batch`, `init_continuous_batching`, `cache_implementation='paged'`) "
                "packs many queries into one row, but the branch is chosen per row: one branch per row cannot be right "
                "for all of them. Fix the branch (`from_pretrained(..., only_branch='thinking')`), or call `generate` "
                "with a padded batch."
            )
        return super().init_continuous_batching(*args, **kwargs)

    def _get_candidate_generator(self, *args, model_kwargs: dict, assistant_model=None, **kwargs):
        # The parent hands every keyword to the assistant, and a dense one knows no branch.
        if assistant_model is not None and assistant_model.config.model_type != self.config.model_type:
            model_kwargs = {name: value for name, value in model_kwargs.items() if name != "thinking"}
        return super()._get_candidate_generator(
            *args, model_kwargs=model_kwargs, assistant_model=assistant_model, **kwargs
        )

    def _get_logits_processor(self, generation_config, *args, model_kwargs: dict | None = None, **kwargs):
        processors = super()._get_logits_processor(generation_config, *args, model_kwargs=model_kwargs, **kwargs)
        for processor in processors:
            if isinstance(processor, UnbatchedClassifierFreeGuidanceLogitsProcessor) and processor.model is self:
                if generation_config.use_cache:
                    raise ValueError(
                        f"`guidance_scale={generation_config.guidance_scale}` needs `use_cache=False`: with a cache, "
                        "Qwen2.5-VL in transformers counts the positions of the unconditional prompt wrongly and fails."
                    )
                # It calls the model once more per step, without the prompt, and that has to be the same branch.
                processor.model = partial(self, thinking=model_kwargs["thinking"])
        return processors

    def _check_budget(self, max_thinking_tokens) -> None:
        if not self.config.thinking_opening_ids or not self.config.thinking_closing_ids:
            raise ValueError(
                f"`max_thinking_tokens={max_thinking_tokens}` needs to know how a thought is opened and closed, but "
                "`config.thinking_opening_ids` or `config.thinking_closing_ids` is empty. `metis-home upcycle` writes "
                "them; `hf_metis_home.conversion.prepare_processor(processor, model.config)` adds them."
            )

    def _validate_model_kwargs(self, model_kwargs: dict):
        # `decision` carries what is decided out of the parent's `generate`; it never reaches `forward`.
        super()._validate_model_kwargs({name: value for name, value in model_kwargs.items() if name != "decision"})

    def _prepare_position_ids_for_generation(self, inputs_tensor, model_kwargs):
        if model_kwargs.get("mm_token_type_ids") is None and not inputs_tensor.is_floating_point():
            model_kwargs = {**model_kwargs, "mm_token_type_ids": self.model.token_types(inputs_tensor)}
        return super()._prepare_position_ids_for_generation(inputs_tensor, model_kwargs)

    def _maybe_prepare_encoder_kwargs_for_generation(
        self, inputs_tensor, model_kwargs, model_input_name, generation_config
    ) -> dict:
        # The parent calls this once per `generate`, after it has made masks and positions and before it repeats rows
        # for beams and returned sequences. The vision features computed here are used again by the prefill.
        model_kwargs = super()._maybe_prepare_encoder_kwargs_for_generation(
            inputs_tensor, model_kwargs, model_input_name, generation_config
        )
        decision = model_kwargs.pop("decision", None) or GenerationDecision()
        threshold = model_kwargs.pop("thinking_threshold", None)
        inputs = {**model_kwargs, model_input_name: inputs_tensor}
        thinking, is_assistant = model_kwargs.pop("thinking", None), bool(generation_config.is_assistant)
        if is_assistant and thinking is None:
            # An assistant is called again and again for one answer. A dense target cannot hand the branch on, so it
            # travels with the assistant's cache.
            thinking = getattr(model_kwargs.get(CACHE), "thinking", None)
        self._decide(decision, inputs, thinking, threshold, is_assistant)
        # As a `bool` where the rows agree: then no step has to look at the device, and one branch is read.
        share = decision.thinking.float().mean().item()
        model_kwargs["thinking"] = bool(share) if share in (0.0, 1.0) else decision.thinking
        return model_kwargs

    def _decide(
        self, decision: GenerationDecision, inputs: dict, thinking, threshold: float | None, is_assistant: bool
    ) -> None:
        """Fill in a decision: the branch that a prompt's opening names, else `thinking`, else the router's."""
        input_ids = inputs.get("input_ids")
        by_ids = input_ids is not None and input_ids.shape[1] > 0
        tensor = input_ids if by_ids else inputs["inputs_embeds"]
        batch_size, device = tensor.shape[0], tensor.device
        decision.budgets = check_budgets(decision.max_thinking_tokens, batch_size)
        threshold_value = check_threshold(threshold, self.config.thinking_threshold)
        thinking = self.model.only_loaded_branch(check_thinking(thinking, batch_size, device))
        if threshold is not None and (
            isinstance(thinking, bool) or (thinking is not None and thinking.dtype == torch.bool)
        ):
            raise ValueError(
                f"`thinking_threshold={threshold}` has no effect, because `thinking` already decides every row. Pass "
                "one of them: `thinking` to force a branch, the threshold to let the router decide."
            )
        if decision.max_thinking_tokens is not None and (
            thinking is False or (isinstance(thinking, torch.Tensor) and not thinking.any())
        ):
            raise ValueError(
                f"`max_thinking_tokens={decision.max_thinking_tokens}` has no effect, because `thinking=False` in "
                "every row lets none of them think. Pass one of them."
            )
        if not isinstance(thinking, torch.Tensor):
            thinking = torch.full((batch_size,), -1 if thinking is None else int(thinking), device=device)
        thinking = thinking.long()

        decision.prefills = [[] for _ in range(batch_size)]
        if by_ids:
            decision.prompt_length = input_ids.shape[1]
            decision.prefills = self._prefills(input_ids, inputs.get("attention_mask"))
            openings = torch.tensor([self._opened_branch(prefill) for prefill in decision.prefills], device=device)
            clash = (openings >= 0) & (thinking >= 0) & (openings != thinking)
            # The answer so far is part of an assistant's prompt; what it begins with is not the user's choice.
            if clash.any() and not is_assistant:
                row = int(clash.nonzero()[0])
                forced, opened = ("thinking", "non-thinking") if thinking[row] else ("non-thinking", "thinking")
                raise ValueError(
                    f"`thinking` forces the {forced} branch in row {row}, but the prompt of that row ends with the "
                    f"opening of the {opened} branch. Leave `thinking` out, or render the prompt without "
                    "`enable_thinking`."
                )
            thinking = torch.where(thinking < 0, openings, thinking)

        probability = torch.full((batch_size,), float("nan"), device=device)
        undecided = thinking < 0
        if undecided.any():
            MetisHomeModel._check_routable(inputs.get(CACHE), None)
            skipped = (CACHE, "use_cache", "labels", "prompt_mask", "logits_to_keep")
            prompt = {name: value for name, value in inputs.items() if name not in skipped}
            if not by_ids:
                prompt["input_ids"] = None
            routing = self.route(**prompt, thinking_threshold=threshold_value)
            probability = torch.where(undecided, routing.thinking_probability.to(device), probability)
            thinking = torch.where(undecided, routing.thinking.to(device), thinking)
        decision.thinking, decision.thinking_probability = thinking.bool(), probability

    def _prefills(self, input_ids: torch.LongTensor, attention_mask: torch.Tensor | None) -> list[list[int]]:
        """Per row the tokens that follow an assistant header whose turn is still open; none where there is none."""
        header, end = list(self.config.assistant_header_ids), self.config.end_of_turn_id
        if not header:
            return [[] for _ in input_ids]
        prefills = []
        for row, ids in enumerate(input_ids):
            ids = (ids if attention_mask is None else ids[attention_mask[row].bool()]).tolist()
            start = next((i for i in range(len(ids) - len(header), -1, -1) if ids[i : i + len(header)] == header), None)
            answer = [] if start is None else ids[start + len(header) :]
            prefills.append([] if end in answer else answer)
        return prefills

    def _opened_branch(self, prefill: list[int]) -> int:
        """The branch whose opening the tokens of an answer begin with: 1, 0, or -1 where they begin with none."""
        thinking, non_thinking = self.config.thinking_opening_ids, self.config.non_thinking_opening_ids
        shared = {1: common_prefix(prefill, thinking), 0: common_prefix(prefill, non_thinking)}
        if not thinking or not non_thinking or max(shared.values()) < min(len(thinking), len(non_thinking)):
            return -1
        # One opening may begin with the other (`<think` and `<think></think`), so the longer match names the branch.
        return int(shared[1] >= shared[0])


def _is_distributed() -> bool:
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def _check_prompts(attention_mask: torch.Tensor | None):
    if (
        isinstance(attention_mask, torch.Tensor)
        and attention_mask.ndim == 2
        and not attention_mask.bool().any(dim=-1).all()
    ):
        row = int((~attention_mask.bool().any(dim=-1)).nonzero()[0])
        raise ValueError(
            f"`attention_mask` is all zero in row {row}: a prompt without a token cannot be routed or answered. Drop "
            "the row."
        )


MetisHomeModel.register_for_auto_class("AutoModel")
MetisHomeForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")

__all__ = ["MetisHomeForConditionalGeneration", "MetisHomeModel", "MetisHomePreTrainedModel", "MetisHomeTextModel"]
