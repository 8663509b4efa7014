"""Configuration of a Metis-HOME model. Ships to the Hub with the weights (`trust_remote_code`)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from transformers import Qwen2_5_VLConfig


MixinBase: Any = object  # for type checkers: a mixin may use what the class behind it has
BRANCH_KINDS = ("ffn", "lora")
BRANCHES = ("thinking", "non_thinking")
ATTENTION_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
FFN_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
FFN_NAMES = ("mlp", "feed_forward")  # what backbones call the feed-forward network of a decoder layer
ROUTER_POOLINGS = ("mean", "modality_mean", "attention")


def tensor_parallel_plan(
    dense: dict[str, str], shared_ffn: bool, branches: Iterable[str], deltas: Iterable[str] | None
) -> dict[str, str]:
    """
    How tensor parallelism splits the linear layers of the decoder: the backbone's plan, and the same for each branch.

    Args:
        dense (`dict[str, str]`):
            The plan of the backbone's text configuration.
        shared_ffn (`bool`):
            Whether any layer has a feed-forward network outside its branches.
        branches (`Iterable[str]`):
            The branches that are loaded; none in a router-only model.
        deltas (`Iterable[str]`, *optional*):
            The projections with a LoRA delta per branch. None where a branch is a feed-forward network of its own.
    """
    plan = {}
    for name, style in dense.items():
        module, _, projection = name.rpartition(".")
        ffn = module.rpartition(".")[2] in FFN_NAMES
        if shared_ffn or not ffn:
            plan[name] = style
        for branch in branches:
            if deltas is None and ffn:
                plan[f"{module}.{branch}.{projection}"] = style
            elif deltas is not None and projection in deltas:
                # The matrix that meets what is split; the other is whole on every device.
                plan[f"{module}.{branch}.{projection}.{'lora_B' if style == 'colwise' else 'lora_A'}"] = style
    return plan


@dataclass(kw_only=True)
class MetisHomeConfigMixin(MixinBase):
    r"""
    What a hybrid's configuration adds to its backbone's. The text configuration stays the backbone's own.

    The token-id sequences are written by the conversion from the processor of the source model, because a model has
    no tokenizer of its own. They are empty in a configuration made by hand; the router then reads the whole prompt and
    no forced opening is recognised.

    Args:
        branch_kind (`str`, *optional*, defaults to `"ffn"`):
            What a branch is. `"ffn"`: two full feed-forward networks in every two-branch layer. `"lora"`: one network
            for both, and LoRA deltas per branch.
        branch_rank (`int`, *optional*, defaults to 16):
            Rank of the LoRA deltas.
        branch_alpha (`float`, *optional*, defaults to 32.0):
            LoRA deltas are scaled by `branch_alpha / branch_rank`.
        branch_projections (`list[str]`, *optional*, defaults to `["gate_proj", "up_proj", "down_proj"]`):
            Projections with LoRA deltas in every two-branch layer: any of these and of `"q_proj"`, `"k_proj"`,
            `"v_proj"`, `"o_proj"`. Skills that need attention are hard to learn without deltas there.
        router_layer (`int`, *optional*, defaults to 1):
            Depth `k` of the router, `0 <= k <= num_hidden_layers`. The first `k` decoder layers keep one shared
            feed-forward network and the router reads the hidden states after them; `0` reads the input embeddings
            (text and projected vision features). The paper splits every layer (`0`) and does not say what its router
            reads; the default is our choice, from the measurement in `docs/experiments.md`. With
            `k == num_hidden_layers` there is no branch: the model is only a router, for `route()` and `decide()`.
        router_pooling (`str`, *optional*, defaults to `"attention"`):
            How the prompt's hidden states become one vector. `"mean"`: the mean over all tokens; `"modality_mean"`:
            one mean over text tokens and one over vision tokens, side by side; `"attention"`: four learned queries
            that weigh the tokens, and on frozen parts find details of the image that means miss (`docs/evidence.md`).
            Every token is normalised first.
        router_hidden_size (`int`, *optional*, defaults to 256):
            Width of the router's hidden layer.
        thinking_threshold (`float`, *optional*, defaults to 0.5):
            A query goes to the thinking branch where the router's probability is at least this, in [0, 1].
        calibration (`dict`, *optional*):
            How `thinking_threshold` was chosen, as `metis-home calibrate` writes it: target, value, held-out figures,
            hashes of outcomes and weights. Nothing in the model reads it; training drops it. None: not calibrated.
        only_branch (`str`, *optional*):
            `"thinking"` or `"non_thinking"`: build and load only that branch, in the memory of the dense model, as in
            `from_pretrained(folder, only_branch="thinking")`. It then answers every query; `route()` still works. None:
            both.
        answer_format (`dict`, *optional*):
            The tags that the model writes: `{"thinking_tags": [open, close], "answer_tags": [open, close]}`, where
            `answer_tags` is None for plain text after the thought. Read with `AnswerFormat.of(config)`. None: the
            paper's, `<think>…</think><answer>…</answer>`.
        assistant_header_ids (`list[int]`, *optional*, defaults to `[]`):
            Tokens that open an assistant turn. What follows an assistant header that is still open (a prefill, a
            forced opening) is not read by the router, nor is the header.
        end_of_turn_id (`int`, *optional*):
            The token that ends a turn.
        thinking_opening_ids (`list[int]`, *optional*, defaults to `[]`):
            First tokens that every thinking answer shares. A prompt that ends with them after the assistant header is
            answered by the thinking branch, without asking the router.
        non_thinking_opening_ids (`list[int]`, *optional*, defaults to `[]`):
            The same for the non-thinking branch.
        thinking_closing_ids (`list[int]`, *optional*, defaults to `[]`):
            Tokens that close a thought and open the answer, as far as neither thought nor answer changes them. Written
            where a thought has used up its budget.
    """

    branch_kind: str = "ffn"
    branch_rank: int = 16
    branch_alpha: float = 32.0
    branch_projections: list[str] | tuple[str, ...] = FFN_PROJECTIONS
    router_layer: int = 1
    router_pooling: str = "attention"
    router_hidden_size: int = 256
    thinking_threshold: float = 0.5
    calibration: dict | None = None
    only_branch: str | None = None
    answer_format: dict | None = None
    assistant_header_ids: list[int] | tuple[int, ...] = ()
    end_of_turn_id: int | None = None
    thinking_opening_ids: list[int] | tuple[int, ...] = ()
    non_thinking_opening_ids: list[int] | tuple[int, ...] = ()
    thinking_closing_ids: list[int] | tuple[int, ...] = ()

    def __post_init__(self, **kwargs):
        text = getattr(self, "text_config", None) or {}
        if "router_layer" in (text if isinstance(text, dict) else vars(text)):
            raise ValueError(
                "`text_config` holds the fields of the hybrid (`router_layer`, ...), which belong in the top level: "
                "if the folder comes from an earlier version, make it again from its dense model with `metis-home "
                "upcycle`."
            )
        super().__post_init__(**kwargs)
        if getattr(self, "auto_map", None) is None:
            self.auto_map = self.default_auto_map()
        self._check_branches()
        check_threshold(self.thinking_threshold)
        check_only_branch(self.only_branch)
        tags = self.answer_format
        if tags is not None and not (
            set(tags) == {"thinking_tags", "answer_tags"}
            and _is_pair(tags["thinking_tags"])
            and (tags["answer_tags"] is None or _is_pair(tags["answer_tags"]))
        ):
            raise ValueError(
                f"`answer_format` is {tags!r}, but must be "
                '{"thinking_tags": [open, close], "answer_tags": [open, close] or None}, with texts as tags.'
            )

    @property
    def loaded_branches(self) -> tuple[str, ...]:
        return BRANCHES if self.only_branch is None else (self.only_branch,)

    @property
    def text_model(self) -> str:
        """Where the language model is in a model with a head, as a prefix of names of tensors."""
        return "model." if self.get_text_config() is self else "model.language_model."

    @property
    def is_router_only(self) -> bool:
        """Whether no layer is left for branches: a model that can `route()` and `decide()`, but not answer."""
        return self.router_layer == self.get_text_config().num_hidden_layers

    def prepare_text_config(self) -> None:
        """Tell the text configuration how tensor parallelism splits the branches. Called before a model is built."""
        check_only_branch(self.only_branch)  # `from_pretrained` may have set it since
        text, lora = self.get_text_config(), self.branch_kind == "lora"
        text.base_model_tp_plan = {}
        if text.num_hidden_layers > 0:  # else a router that reads the embeddings
            text.base_model_tp_plan = tensor_parallel_plan(
                type(text).base_model_tp_plan or {},
                shared_ffn=lora or self.router_layer > 0,
                branches=() if self.is_router_only else self.loaded_branches,
                deltas=self.branch_projections if lora else None,
            )

    def default_auto_map(self) -> dict[str, str]:
        """Where remote code finds the classes. `save_pretrained` adds one model, but engines ask for `AutoModel`."""
        config = f"{type(self).__module__.rpartition('.')[2]}.{type(self).__name__}"
        model = config.replace("configuration_", "modeling_").removesuffix("Config")
        auto, head = ("AutoModelForImageTextToText", "ForConditionalGeneration")
        if self.get_text_config() is self:
            auto, head = ("AutoModelForCausalLM", "ForCausalLM")
        return {"AutoConfig": config, "AutoModel": f"{model}Model", auto: f"{model}{head}"}

    def _check_branches(self) -> None:
        errors = []
        if self.branch_kind not in BRANCH_KINDS:
            errors.append(f"`branch_kind` is {self.branch_kind!r}, but must be one of {list(BRANCH_KINDS)}.")
        if self.branch_rank < 1:
            errors.append(f"`branch_rank` is {self.branch_rank}, but must be at least 1.")
        if self.branch_alpha <= 0:
            errors.append(f"`branch_alpha` is {self.branch_alpha}, but must be above 0, or branches change nothing.")
        known = (*FFN_PROJECTIONS, *ATTENTION_PROJECTIONS)
        self.branch_projections = list(self.branch_projections)
        if not self.branch_projections or not set(self.branch_projections) <= set(known):
            errors.append(f"`branch_projections` is {self.branch_projections}, but must be some of {list(known)}.")
        layers = self.get_text_config().num_hidden_layers
        if not 0 <= self.router_layer <= layers:
            errors.append(
                f"`router_layer` is {self.router_layer}, but must be at least 0 and below the number of decoder "
                f"layers ({layers}), so that at least one layer has two branches; equal to it, the "
                "model is only a router."
            )
        if self.router_pooling not in ROUTER_POOLINGS:
            errors.append(f"`router_pooling` is {self.router_pooling!r}, but must be one of {list(ROUTER_POOLINGS)}.")
        if self.router_hidden_size < 1:
            errors.append(f"`router_hidden_size` is {self.router_hidden_size}, but must be at least 1.")
        if errors:
            raise ValueError("\n".join(errors))


class MetisHomeConfig(MetisHomeConfigMixin, Qwen2_5_VLConfig):
    r"""
    Configuration of [`MetisHomeForConditionalGeneration`]: the fields of [`~transformers.Qwen2_5_VLConfig`] and those
    of [`MetisHomeConfigMixin`].

    Example:

    ```python
    >>> from hf_metis_home import MetisHomeConfig

    >>> config = MetisHomeConfig(router_layer=0)
    >>> config.router_layer, config.thinking_threshold
    (0, 0.5)
    ```
    """

    model_type = "metis_home"


def _is_pair(tags) -> bool:
    return isinstance(tags, (list, tuple)) and len(tags) == 2 and all(isinstance(tag, str) and tag for tag in tags)


def check_threshold(thinking_threshold: float) -> float:
    """`thinking_threshold`, if it is a number in [0, 1]."""
    is_number = isinstance(thinking_threshold, (int, float)) and not isinstance(thinking_threshold, bool)
    if not is_number or not 0.0 <= thinking_threshold <= 1.0:
        raise ValueError(
            f"`thinking_threshold` is {thinking_threshold!r}, but must be a number in [0, 1]: a query goes to the "
            "thinking branch where the router's probability is at least this. To force a branch, pass `thinking=True` "
            "or `False`."
        )
    return float(thinking_threshold)


def check_only_branch(only_branch: str | None) -> str | None:
    """`only_branch`, if it is known. `from_pretrained` sets fields after the configuration's own checks."""
    if only_branch not in (None, *BRANCHES):
        raise ValueError(
            f"`only_branch` is {only_branch!r}, but must be 'thinking' or 'non_thinking', to load only that branch, "
            "or None for both."
        )
    return only_branch


MetisHomeConfig.register_for_auto_class()

__all__ = ["MetisHomeConfig", "MetisHomeConfigMixin"]
