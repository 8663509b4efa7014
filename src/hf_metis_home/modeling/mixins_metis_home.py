"""
The hybrid on any backbone: two mixins, one in front of a backbone's base model, one in front of its model with a head.

Ships to the Hub with the weights, so it imports only torch, transformers and its sibling files. Everything but the
branch is the backbone's: a [`Routing`] travels through its forwards by keyword, and the decoder layers do what it says.
Modules keep nothing between calls.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, make_dataclass
from functools import wraps
from typing import get_args

import torch
from torch import nn
from transformers import LogitsProcessorList
from transformers.modeling_outputs import ModelOutput
from transformers.utils import can_return_tuple

from .branches_metis_home import MetisHomeZeroLinear, add_branches
from .compat_metis_home import CACHE
from .configuration_metis_home import BRANCHES, MetisHomeConfigMixin, MixinBase, check_threshold
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


@dataclass
class MetisHomeRouting(ModelOutput):
    """
    What [`MetisHomeModelMixin.route`] returns.

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


OUTPUTS: dict[type, type] = {}  # a backbone's output class, and the same with the router's scores


def with_branch_logits(outputs: ModelOutput, branch_logits: torch.FloatTensor | None) -> ModelOutput:
    """The backbone's outputs and `branch_logits`, None where the router was not asked."""
    return _output_class(type(outputs))(**outputs, branch_logits=branch_logits)


def _output_class(dense: type) -> type:
    if dense not in OUTPUTS:
        fields = [("branch_logits", torch.FloatTensor | None, field(default=None))]
        name, namespace = f"MetisHome{dense.__name__}", {"__module__": __name__}
        OUTPUTS[dense] = globals()[name] = make_dataclass(name, fields, bases=(dense,), namespace=namespace)
    return OUTPUTS[dense]


def _joined(own: Callable, dense: Callable) -> Callable:
    """`own` with the inputs of the backbone's forward in its signature, which `generate` and trainers read."""
    signature = inspect.signature(dense)
    # Compilers cannot trace the making of a class, so it is made now.
    for output in get_args(signature.return_annotation) or [signature.return_annotation]:
        if isinstance(output, type) and issubclass(output, ModelOutput):
            _output_class(output)
    parameters = {**signature.parameters, **inspect.signature(own).parameters}
    in_order = [name for name, each in signature.parameters.items() if each.kind is each.POSITIONAL_OR_KEYWORD][1:]

    @wraps(own)
    def forward(self, *args, **kwargs) -> ModelOutput:
        return own(self, **dict(zip(in_order, args, strict=False)), **kwargs)

    signature = signature.replace(parameters=sorted(parameters.values(), key=lambda each: each.kind))
    forward.__dict__["__signature__"] = signature
    return forward


def _without_routing(encode: Callable) -> Callable:
    @wraps(encode)
    def features(self, *args, routing=None, **kwargs):
        return encode(self, *args, **kwargs)

    return features


class _Mixin(MixinBase):
    """What both mixins share: a router that stays in fp32, and layers that start at zero."""

    config: MetisHomeConfigMixin
    # A route is a threshold on a probability: rounding it to bf16 would move decisions.
    _keep_in_fp32_modules_strict = ["router"]
    # Quantisers skip these. They match names from their start, so one per place where a backbone has its text model.
    _keep_in_fp32_modules = [
        f"{model}{text}router" for model in ("model.", "") for text in ("language_model.", "text_model.", "")
    ]

    def initialize_weights(self):
        super().initialize_weights()
        for module in self.modules():
            if isinstance(module, MetisHomeZeroLinear):
                module.reset_parameters()


class MetisHomeModelMixin(_Mixin):
    """In front of a backbone's model without a head, with or without a vision tower: what `AutoModel` gives."""

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.forward = _joined(MetisHomeModelMixin.forward, super().forward)
        for name in ("get_image_features", "get_video_features"):
            if hasattr(cls, name):
                setattr(cls, name, _without_routing(getattr(cls, name)))

    def __init__(self, config: MetisHomeConfigMixin):
        config.prepare_text_config()
        super().__init__(config)
        self.add_branches()

    def add_branches(self) -> None:
        """Make a dense model that was just built the hybrid."""
        text, config = self.get_decoder(), self.config
        add_branches(text.layers, config)
        text.router = MetisHomeRouter(config)
        if config.is_router_only:
            norm = next(name for name in ("norm", "embedding_norm") if hasattr(text, name))
            setattr(text, norm, nn.Identity())  # the router reads what comes before it
        if config.only_branch is not None:
            # The checkpoint holds both.
            others = {rf"\.{branch}\." for branch in BRANCHES if branch != config.only_branch}
            self._keys_to_ignore_on_load_unexpected = others
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        *,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        thinking: bool | list[bool | None] | torch.Tensor | None = None,
        thinking_threshold: float | None = None,
        prompt_mask: torch.Tensor | None = None,
        route_only: bool = False,
        routing: Routing | None = None,
        **kwargs,
    ) -> ModelOutput:
        """
        See [`MetisHomeForConditionalGeneration.forward`] for the arguments that are not the backbone's.

        `route_only=True` stops after the router and leaves no trace: neither a cache nor the backbone's `rope_deltas`.
        """
        # 1. Who decides.
        inputs = inputs_embeds if input_ids is None else input_ids
        routing = Routing() if routing is None else routing
        routing.router, routing.route_only = self.get_decoder().router, route_only
        routing.threshold = self.threshold(thinking_threshold)
        routing.thinking = self.only_loaded_branch(check_thinking(thinking, inputs.shape[0], inputs.device))
        undecided = routing.thinking is None or (
            isinstance(routing.thinking, torch.Tensor) and routing.thinking.dtype != torch.bool
        )
        if undecided and not route_only:
            cache = kwargs.get("past_key_values")
            check_routable(kwargs.get(CACHE) if cache is None else cache, prompt_mask)
        if self.config.is_router_only and not route_only:
            raise ValueError("This model is only a router and cannot answer. Load the model that it was exported from.")

        # 2. What the router reads.
        if undecided or route_only or prompt_mask is not None:
            routing.router_mask = readable_tokens(self.config, input_ids, inputs, attention_mask, prompt_mask)
            routing.vision_mask = self.token_types(inputs) > 0

        # 3. What the backbone leaves out: a tower for ranks without images, the types of tokens.
        seen = any(kwargs.get(name) is not None for name in ("pixel_values", "pixel_values_videos"))
        idle = not (seen or kwargs.get("mm_encoder_outputs")) and torch.is_grad_enabled() and _is_distributed()
        zero = self._no_image() if idle and hasattr(self, "visual") else None
        if self.needs_token_types and input_ids is not None and kwargs.get("mm_token_type_ids") is None:
            kwargs["mm_token_type_ids"] = self.token_types(input_ids)
        if route_only:
            kwargs["use_cache"] = False

        rope_deltas = getattr(self, "rope_deltas", None)
        outputs = super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            routing=routing,
            return_dict=True,
            **kwargs,
        )
        if self.config.is_router_only:
            routing.ask(outputs.last_hidden_state)
        if route_only and hasattr(self, "rope_deltas"):
            self.rope_deltas = rope_deltas  # another generation may be decoding with them
        if zero is not None:
            outputs["last_hidden_state"] = outputs.last_hidden_state + zero.to(outputs.last_hidden_state)
        return with_branch_logits(outputs, routing.branch_logits)

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

    @property
    def needs_token_types(self) -> bool:
        """Whether the backbone numbers positions by the types of tokens. Without them it numbers images like text."""
        return hasattr(self, "compute_3d_position_ids")

    def token_types(self, inputs: torch.Tensor) -> torch.LongTensor:
        """
        Token types as the processor gives them (0 text, 1 image, 2 video), of shape `(batch_size, seq_len)`, from token
        ids or from their embeddings.
        """
        types = torch.zeros(inputs.shape[:2], dtype=torch.long, device=inputs.device)
        for value, name in ((1, "image_token_id"), (2, "video_token_id")):
            token = getattr(self.config, name, None)
            if token is None:
                continue
            if inputs.is_floating_point():
                embedding = self.get_input_embeddings()(torch.tensor(token, device=inputs.device))
                types += value * (inputs == embedding).all(dim=-1)
            else:
                types += value * (inputs == token)
        return types

    def _no_image(self) -> torch.Tensor:
        """
        Zero, computed by the vision tower. In a sharded model every process has to run every module: a process without
        images would leave the others waiting in the vision tower.
        """
        vision, weight = self.visual.config, next(self.visual.parameters())
        side = vision.spatial_merge_size
        patch = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        pixels = torch.zeros(side**2, patch, device=weight.device, dtype=self.visual.dtype)
        grid = torch.tensor([[1, side, side]], device=weight.device)
        features = torch.cat(self.get_image_features(pixels, grid, return_dict=True).pooler_output)
        return features[:0].sum()


class MetisHomeHeadMixin(_Mixin, MetisHomeGenerationMixin):
    """In front of a backbone's model with a head. `base_class` is the hybrid of its model without one."""

    base_class: type[MetisHomeModelMixin]

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        cls.forward = _joined(MetisHomeHeadMixin.forward, super().forward)

    def __init__(self, config: MetisHomeConfigMixin):
        config.prepare_text_config()
        super().__init__(config)
        self.model.__class__ = self.base_class  # was built dense; a second one would cost its memory
        self.model.add_branches()
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        *,
        thinking: bool | list[bool | None] | torch.Tensor | None = None,
        thinking_threshold: float | None = None,
        prompt_mask: torch.Tensor | None = None,
        **kwargs,
    ) -> ModelOutput:
        """
        The backbone's arguments (`past_key_values` is another name of `cache`, the only one before transformers 5.24)
        and:

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
            The backbone's output and `branch_logits` of shape `(batch_size, 2)`: the router's scores in fp32, column
            1 = thinking, or None where it was not asked. `loss` is only the language model's; the trainer adds the
            router's.

        Raises:
            ValueError: `thinking` of a wrong length, type or value, a threshold outside [0, 1], a `prompt_mask` of
                another shape than the input; an undecided row with a cache that holds tokens, or with gradients on and
                no `prompt_mask`.
        """
        routing = Routing()
        outputs = super().forward(
            thinking=thinking,
            thinking_threshold=thinking_threshold,
            prompt_mask=prompt_mask,
            routing=routing,
            return_dict=True,
            **kwargs,
        )
        return with_branch_logits(outputs, routing.branch_logits)

    def route(self, **inputs) -> MetisHomeRouting:
        """See [`MetisHomeModelMixin.route`]."""
        return self.model.route(**inputs)

    def decide(self, **inputs) -> MetisHomeDecision:
        """See [`MetisHomeModelMixin.decide`]."""
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
                What [`MetisHomeModelMixin.decide`] returned for these inputs, in place of `thinking` and
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
