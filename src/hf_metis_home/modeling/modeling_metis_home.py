"""
Metis-HOME (arXiv 2510.20519) on transformers' Qwen2.5-VL: from layer `router_layer` on, each decoder layer has two
feed-forward branches, *thinking* and *non_thinking*, and a router sends each query to one of them for its whole answer.

This file ships to the Hub with the weights, so it imports only torch, transformers and its sibling files. Attention,
vision tower, embeddings, norms, head, positions and caches are the parent's. Restated here, because the parent leaves
no room for the branch: the decoder layer, and the text model's forward. Modules keep nothing between calls: a decision
lives in the arguments of the call it was made for.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import LogitsProcessorList
from transformers.cache_utils import Cache, DynamicCache
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, ModelOutput
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as dense
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .branches_metis_home import BranchRows, MetisHomeDecoderLayer, MetisHomeZeroLinear
from .compat_metis_home import CACHE, MultimodalBaseModelOutputWithPast, MultimodalCausalLMOutputWithPast
from .configuration_metis_home import (
    BRANCHES,
    MetisHomeConfig,
    MetisHomeTextConfig,
    check_only_branch,
    check_threshold,
    tensor_parallel_plan,
)
from .generation_metis_home import GenerationCall, MetisHomeDecision, MetisHomeGenerationMixin, decide
from .router_metis_home import (
    MetisHomeRouter,
    Routing,
    check_prompts,
    check_routable,
    check_thinking,
    is_thinking,
    readable_tokens,
)


def with_inputs_of(parent: Any) -> Callable:
    """Show the inputs that a forward passes on to its parent's in its signature, which `generate` and trainers read."""

    def decorate(forward: Any) -> Any:
        parameters = {**inspect.signature(parent.forward).parameters, **inspect.signature(forward).parameters}
        named = [parameter for parameter in parameters.values() if parameter.kind is not parameter.VAR_POSITIONAL]
        forward.__signature__ = inspect.Signature(sorted(named, key=lambda parameter: parameter.kind))
        return forward

    return decorate


@dataclass
class MetisHomeModelOutputWithPast(MultimodalBaseModelOutputWithPast):
    """
    Args:
        branch_logits (`torch.FloatTensor` of shape `(batch_size, 2)`, *optional*):
            The router's scores in fp32, column 1 = thinking. Only where the router was asked (see `forward`).
    """

    branch_logits: torch.FloatTensor | None = None


@dataclass
class MetisHomeCausalLMOutputWithPast(MultimodalCausalLMOutputWithPast):
    """
    Args:
        branch_logits (`torch.FloatTensor` of shape `(batch_size, 2)`, *optional*):
            The router's scores in fp32, column 1 = thinking. Only where the router was asked (see `forward`).
    """

    branch_logits: torch.FloatTensor | None = None


@dataclass
class MetisHomeRouting(ModelOutput):
    """
    What [`MetisHomeForConditionalGeneration.route`] returns.

    Args:
        logits (`torch.FloatTensor` of shape `(batch_size, 2)`):
            Router scores in fp32, column 1 = thinking.
        thinking_probability (`torch.FloatTensor` of shape `(batch_size,)`):
            Probability that the query needs the thinking branch.
        thinking (`torch.LongTensor` of shape `(batch_size,)`):
            The decision: 1 where the probability reaches the threshold.
    """

    logits: torch.FloatTensor | None = None
    thinking_probability: torch.FloatTensor | None = None
    thinking: torch.LongTensor | None = None


class MetisHomePreTrainedModel(dense.Qwen2_5_VLPreTrainedModel):
    """What the models share: layers that are not split over devices, and a router that stays in fp32."""

    config: MetisHomeConfig
    _no_split_modules = ["MetisHomeDecoderLayer", "Qwen2_5_VLDecoderLayer", "Qwen2_5_VLVisionBlock"]
    # A route is a threshold on a probability: rounding it to bf16 would move decisions.
    _keep_in_fp32_modules_strict = ["router"]
    # Quantisers skip these. They match names from their start, so one per model class that contains a router.
    _keep_in_fp32_modules = ["model.language_model.router", "language_model.router", "router"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        if isinstance(module, MetisHomeZeroLinear):
            module.reset_parameters()
        else:
            super()._init_weights(module)


class MetisHomeTextModel(MetisHomePreTrainedModel, dense.Qwen2_5_VLTextModel):
    """Qwen2.5-VL's language model with the router, and two branches from layer `config.router_layer` on."""

    config: MetisHomeTextConfig
    input_modalities = ("text",)
    _can_record_outputs = {"hidden_states": dense.Qwen2_5_VLDecoderLayer, "attentions": dense.Qwen2_5_VLAttention}

    def __init__(self, config: MetisHomeTextConfig):
        lora = config.branch_kind == "lora"
        config.base_model_tp_plan = tensor_parallel_plan(
            shared_ffn=lora or config.router_layer > 0,
            branches=config.loaded_branches if config.router_layer < config.num_hidden_layers else (),
            deltas=config.branch_projections if lora else None,
        )
        if config.num_hidden_layers == 0:  # a router that reads the embeddings
            config.base_model_tp_plan = {}
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
        *,
        routing: Routing,
        past_key_values: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPast:
        """
        The parent's forward with the router between layers `router_layer - 1` and `router_layer`.

        Args:
            routing ([`Routing`]):
                The branch of each row, or what the router needs to choose it. With `route_only` the forward stops
                after the router, and `last_hidden_state` is what the router read.
        """
        if (input_ids is None) ^ (inputs_embeds is not None):
            raise ValueError("You must specify exactly one of input_ids or inputs_embeds")
        cache = past_key_values if cache is None else cache
        if use_cache and cache is None and not torch.jit.is_tracing():
            cache = DynamicCache(config=self.config)
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        shared_layers = self.config.router_layer
        if routing.route_only and shared_layers == 0:  # nothing before the router needs positions and masks
            routing.ask(self.router, inputs_embeds)
            return BaseModelOutputWithPast(last_hidden_state=inputs_embeds)

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

        routing.ask(self.router, hidden_states)
        if routing.route_only:
            return BaseModelOutputWithPast(last_hidden_state=hidden_states)

        if shared_layers == len(self.layers):
            raise ValueError(
                "This model is only a router (`router_layer` is the number of its layers), so it can `route()` and "
                "`decide()`, but not answer. To answer, load the model that it was exported from."
            )
        branch = self._branch(routing, hidden_states)
        for layer, mask in zip(self.layers[shared_layers:], masks[shared_layers:], strict=True):
            hidden_states = layer(hidden_states, branch=branch, attention_mask=mask, **layer_kwargs)
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states), **{CACHE: cache})

    def _branch(self, routing: Routing, hidden_states: torch.Tensor) -> bool | torch.Tensor | BranchRows:
        """The decision in the form in which the layers compute it cheapest."""
        thinking, training = routing.thinking, torch.is_grad_enabled()
        if self.config.only_branch is not None:
            return thinking  # a `bool`, the branch that is loaded
        if isinstance(thinking, bool):
            if not training or torch.compiler.is_compiling():
                return thinking
            thinking = torch.full((hidden_states.shape[0],), int(thinking), device=hidden_states.device)
        if routing.branch_logits is not None:
            probability = routing.branch_logits.detach().softmax(dim=-1)[:, 1]
            routed = is_thinking(probability, routing.threshold).long()
            # A device map may have put the language model elsewhere than the inputs.
            thinking = routed if thinking is None else thinking.to(routed.device)
            thinking = torch.where(thinking < 0, routed, thinking)
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


class MetisHomeModel(MetisHomePreTrainedModel, dense.Qwen2_5_VLModel):
    """Vision tower, router and two-branch language model without a head: what `AutoModel` gives."""

    _no_split_modules = MetisHomePreTrainedModel._no_split_modules

    def __init__(self, config: MetisHomeConfig):
        super(dense.Qwen2_5_VLModel, self).__init__(
            config
        )  # not the parent's, which would build a dense language model
        config.text_config.only_branch = check_only_branch(config.only_branch)
        self.visual = dense.Qwen2_5_VisionTransformerPretrainedModel._from_config(config.vision_config)
        self.language_model = MetisHomeTextModel._from_config(config.text_config)
        self.rope_deltas = None
        self.post_init()

    @can_return_tuple
    @with_inputs_of(dense.Qwen2_5_VLModel)
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        use_cache: bool | None = None,
        *,
        thinking: bool | list[bool | None] | torch.Tensor | None = None,
        thinking_threshold: float | None = None,
        prompt_mask: torch.Tensor | None = None,
        route_only: bool = False,
        routing: Routing | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MetisHomeModelOutputWithPast:
        """
        See [`MetisHomeForConditionalGeneration.forward`] for the arguments that are not Qwen2.5-VL's.

        `route_only=True` stops after the router and leaves no trace: neither a cache nor the parent's `rope_deltas`.
        """
        # 1. Who decides.
        cache = past_key_values if cache is None else cache
        inputs = input_ids if input_ids is not None else inputs_embeds
        routing = Routing() if routing is None else routing
        routing.route_only = route_only
        routing.threshold = self.threshold(thinking_threshold)
        thinking = self.only_loaded_branch(check_thinking(thinking, inputs.shape[0], inputs.device))
        routing.thinking = thinking
        undecided = thinking is None or (isinstance(thinking, torch.Tensor) and thinking.dtype != torch.bool)
        if undecided and not route_only:
            check_routable(cache, prompt_mask)

        # 2. What the router reads.
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        if undecided or route_only or prompt_mask is not None:
            routing.router_mask = readable_tokens(self.config, input_ids, inputs, attention_mask, prompt_mask)
            image_mask, video_mask = self.get_placeholder_mask(input_ids, inputs_embeds=inputs_embeds)  # [B, T, 1]
            routing.vision_mask = (image_mask | video_mask).squeeze(-1)

        # 3. What the parent leaves out: a tower for ranks without images, the types of tokens.
        seen = any(kwargs.get(name) is not None for name in ("pixel_values", "pixel_values_videos"))
        if not (seen or kwargs.get("mm_encoder_outputs")) and torch.is_grad_enabled() and _is_distributed():
            inputs_embeds = inputs_embeds + self._no_image(inputs_embeds)
        if kwargs.get("mm_token_type_ids") is None and input_ids is not None:
            kwargs["mm_token_type_ids"] = self.token_types(input_ids)

        rope_deltas = self.rope_deltas
        outputs = super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache and not route_only,
            routing=routing,
            return_dict=True,
            **{CACHE: cache},
            **kwargs,
        )
        if route_only:
            self.rope_deltas = rope_deltas  # another generation may be decoding with them
        return MetisHomeModelOutputWithPast(**outputs, branch_logits=routing.branch_logits)

    def get_image_features(self, pixel_values, image_grid_thw=None, routing: Routing | None = None, **kwargs):
        """As the parent's: `routing` is for the language model."""
        return super().get_image_features(pixel_values, image_grid_thw, **kwargs)

    def get_video_features(self, pixel_values_videos, video_grid_thw=None, routing: Routing | None = None, **kwargs):
        """As the parent's: `routing` is for the language model."""
        return super().get_video_features(pixel_values_videos, video_grid_thw, **kwargs)

    @torch.no_grad()
    def route(self, *, thinking_threshold: float | None = None, **inputs) -> MetisHomeRouting:
        """
        The router's decision for each prompt, without answering.

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
        thinking_threshold = self.threshold(thinking_threshold)
        check_prompts(inputs.get("attention_mask"))
        logits = self(**inputs, route_only=True).branch_logits
        probability = logits.softmax(dim=-1)[:, 1]
        return MetisHomeRouting(logits, probability, is_thinking(probability, thinking_threshold).long())

    @torch.no_grad()
    def decide(self, *, thinking=None, thinking_threshold: float | None = None, **inputs) -> MetisHomeDecision:
        """
        Which branch `generate` would answer each prompt with, and why, without answering.

        The router is asked once, and only if `thinking` and the openings of the prompts leave a row undecided. Pass the
        result to `generate(decision=...)`, with the same inputs, to answer without running router and vision tower
        again.

        Args:
            thinking (`bool`, `list` of `bool` or `None`, or `torch.Tensor` of shape `(batch_size,)`, *optional*):
                `True` thinking branch, `False` non-thinking branch, `None` (in an integer tensor -1) the opening of the
                prompt, or the router.
            thinking_threshold (`float`, *optional*, defaults to `config.thinking_threshold`):
                The router's decision is thinking where its probability is at least this, in [0, 1].
            inputs:
                What the processor returns for the prompts, as in `route`.

        Returns:
            [`MetisHomeDecision`]: `thinking`, `thinking_probability` and `source` per row.

        Raises:
            ValueError: `thinking` of a wrong length, type or value, or that contradicts the opening of a prompt; a
                threshold outside [0, 1], or one without effect; a row of `attention_mask` that is all zero.

        Example:

        ```python
        >>> decision = model.decide(**inputs)
        >>> decision.thinking.tolist(), decision.source
        ([1], ['router'])
        >>> tokens = model.generate(**inputs, decision=decision, max_new_tokens=256)
        ```
        """
        return decide(self, inputs, thinking, thinking_threshold)

    def only_loaded_branch(self, thinking: bool | torch.Tensor | None) -> bool | torch.Tensor | None:
        """
        What `check_thinking` returned, or the only branch that is loaded. An error where the other one is asked for.
        """
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

    def threshold(self, thinking_threshold: float | None) -> float:
        """The threshold to use: the argument, or the configuration's where it is None."""
        return check_threshold(self.config.thinking_threshold if thinking_threshold is None else thinking_threshold)

    def token_types(self, input_ids: torch.LongTensor) -> torch.LongTensor:
        """
        Token types as the processor gives them (0 text, 1 image, 2 video), of shape `(batch_size, seq_len)`. Without
        them the parent silently numbers image tokens like text.
        """
        return (input_ids == self.config.image_token_id).long() + 2 * (input_ids == self.config.video_token_id).long()

    def _no_image(self, inputs_embeds: torch.Tensor) -> torch.Tensor:
        """
        Zero, computed by the vision tower. In a sharded model every process has to run every module: a process without
        images would leave the others waiting in the vision tower.
        """
        vision = self.visual.config
        side = vision.spatial_merge_size
        patch = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        pixels = torch.zeros(side**2, patch, device=inputs_embeds.device, dtype=self.visual.dtype)
        grid = torch.tensor([[1, side, side]], device=inputs_embeds.device)
        features = torch.cat(self.get_image_features(pixels, grid, return_dict=True).pooler_output)
        return features[:0].sum().to(inputs_embeds.device, inputs_embeds.dtype)


class MetisHomeForConditionalGeneration(
    MetisHomeGenerationMixin, MetisHomePreTrainedModel, dense.Qwen2_5_VLForConditionalGeneration
):
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
        super(dense.Qwen2_5_VLForConditionalGeneration, self).__init__(config)
        self.model = MetisHomeModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    @with_inputs_of(dense.Qwen2_5_VLForConditionalGeneration)
    def forward(
        self,
        *args,
        thinking: bool | list[bool | None] | torch.Tensor | None = None,
        thinking_threshold: float | None = None,
        prompt_mask: torch.Tensor | None = None,
        **kwargs,
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
                `branch_logits` is returned, when this is given or a row is undecided.

        Returns:
            [`MetisHomeCausalLMOutputWithPast`]: `loss` is only the language model's; the trainer adds the router's.

        Raises:
            ValueError: `thinking` of a wrong length, type or value, a threshold outside [0, 1], a `prompt_mask` of
                another shape than the input; an undecided row with a cache that holds tokens, or with gradients on and
                no `prompt_mask`.
        """
        routing = Routing()
        outputs = super().forward(
            *args,
            thinking=thinking,
            thinking_threshold=thinking_threshold,
            prompt_mask=prompt_mask,
            routing=routing,
            return_dict=True,
            **kwargs,
        )
        return MetisHomeCausalLMOutputWithPast(**outputs, branch_logits=routing.branch_logits)

    def route(self, **inputs) -> MetisHomeRouting:
        """See [`MetisHomeModel.route`]."""
        return self.model.route(**inputs)

    def decide(self, **inputs) -> MetisHomeDecision:
        """See [`MetisHomeModel.decide`]."""
        return self.model.decide(**inputs)

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
        decision: MetisHomeDecision | None = None,
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
                No effect on queries that the non-thinking branch answers.
            decision ([`MetisHomeDecision`], *optional*):
                What [`MetisHomeModel.decide`] returned for these inputs, in place of `thinking` and
                `thinking_threshold`. Neither the router nor, where it was asked, the vision tower runs again.

        Returns:
            What the parent returns. With `return_dict_in_generate=True` it also carries, one per returned sequence,
            `thinking` (`torch.LongTensor`, 1 or 0) and `thinking_probability` (`torch.FloatTensor`, NaN where the
            router was not asked).

        Raises:
            ValueError: as in `forward`; a threshold or a budget without effect, because `thinking` decides every row;
                `thinking` that contradicts the opening of a prompt; a budget below 1, or without the token ids of the
                format in the configuration; a `decision` beside `thinking` or a threshold, or for another batch size.
        """
        if decision is not None and (thinking is not None or thinking_threshold is not None):
            raise ValueError(
                "`decision` already names the branch of every row, so `thinking` and `thinking_threshold` cannot be "
                "passed with it: pass them to `decide`."
            )
        check_prompts(kwargs.get("attention_mask"))
        call = GenerationCall(self.config, decision, max_thinking_tokens)
        if call.budget is not None:
            logits_processor = LogitsProcessorList([*(logits_processor or ()), call.budget])
        outputs = super().generate(
            inputs,
            generation_config,
            logits_processor,
            *args,
            thinking=thinking,
            thinking_threshold=thinking_threshold,
            call=call,
            **kwargs,
        )
        if isinstance(outputs, ModelOutput):
            made = call.decision
            per_query = outputs.sequences.shape[0] // made.thinking.shape[0]
            outputs["thinking"] = made.thinking.repeat_interleave(per_query)
            outputs["thinking_probability"] = made.thinking_probability.repeat_interleave(per_query)
            if (cache := outputs.get(CACHE)) is not None:
                cache.thinking = made.thinking.bool()  # read where this model assists another
        return outputs


def _is_distributed() -> bool:
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


MetisHomeModel.register_for_auto_class("AutoModel")
MetisHomeForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")

__all__ = ["MetisHomeForConditionalGeneration", "MetisHomeModel", "MetisHomePreTrainedModel", "MetisHomeTextModel"]
