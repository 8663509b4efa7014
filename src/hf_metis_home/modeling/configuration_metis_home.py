"""Configuration of a Metis-HOME model. Ships to the Hub with the weights (`trust_remote_code`)."""

from collections.abc import Iterable

from transformers import Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig, Qwen2_5_VLVisionConfig


BRANCH_KINDS = ("ffn", "lora")
BRANCHES = ("thinking", "non_thinking")
ATTENTION_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
FFN_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
ROUTER_POOLINGS = ("mean", "modality_mean", "attention")

# `save_pretrained` adds one model class on its own; both are needed, since `AutoModel` is what serving engines ask for.
AUTO_MAP = {
    "AutoConfig": "configuration_metis_home.MetisHomeConfig",
    "AutoModel": "modeling_metis_home.MetisHomeModel",
    "AutoModelForImageTextToText": "modeling_metis_home.MetisHomeForConditionalGeneration",
}


def tensor_parallel_plan(shared_ffn: bool, branches: Iterable[str], deltas: Iterable[str] | None) -> dict[str, str]:
    """
    How tensor parallelism splits the linear layers of the decoder.

    Args:
        shared_ffn (`bool`):
            Whether any layer has a feed-forward network outside its branches.
        branches (`Iterable[str]`):
            The branches that are loaded; none in a router-only model.
        deltas (`Iterable[str]`, *optional*):
            The projections with a LoRA delta per branch. None where a branch is a feed-forward network of its own.
    """
    plan = {}
    for projection in (*ATTENTION_PROJECTIONS, *FFN_PROJECTIONS):
        kind = "rowwise" if projection in ("o_proj", "down_proj") else "colwise"
        module = "mlp" if projection in FFN_PROJECTIONS else "self_attn"
        if module == "self_attn" or shared_ffn:
            plan[f"layers.*.{module}.{projection}"] = kind
        for branch in branches:
            name = f"layers.*.{module}.{branch}.{projection}"
            if deltas is None and module == "mlp":
                plan[name] = kind
            elif deltas is not None and projection in deltas:
                # The matrix that meets what is split; the other is whole on every device.
                plan[f"{name}.{'lora_B' if kind == 'colwise' else 'lora_A'}"] = kind
    return plan


class MetisHomeTextConfig(Qwen2_5_VLTextConfig):
    r"""
    Language-model part of a [`MetisHomeConfig`]: the fields of
    [`~transformers.models.qwen2_5_vl.configuration_qwen2_5_vl.Qwen2_5_VLTextConfig`] and these.

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
        only_branch (`str`, *optional*):
            Taken from [`MetisHomeConfig`] when a model is built.
    """

    model_type = "metis_home_text"
    base_config_key = "text_config"
    branch_kind: str = "ffn"
    branch_rank: int = 16
    branch_alpha: float = 32.0
    branch_projections: list[str] | tuple[str, ...] = FFN_PROJECTIONS
    router_layer: int = 1
    router_pooling: str = "attention"
    router_hidden_size: int = 256
    only_branch: str | None = None

    @property
    def loaded_branches(self) -> tuple[str, ...]:
        return BRANCHES if self.only_branch is None else (self.only_branch,)

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
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
        if not 0 <= self.router_layer <= self.num_hidden_layers:
            errors.append(
                f"`router_layer` is {self.router_layer}, but must be at least 0 and below the number of decoder "
                f"layers ({self.num_hidden_layers}), so that at least one layer has two branches; equal to it, the "
                "model is only a router."
            )
        if self.router_pooling not in ROUTER_POOLINGS:
            errors.append(f"`router_pooling` is {self.router_pooling!r}, but must be one of {list(ROUTER_POOLINGS)}.")
        if self.router_hidden_size < 1:
            errors.append(f"`router_hidden_size` is {self.router_hidden_size}, but must be at least 1.")
        if errors:
            raise ValueError("\n".join(errors))


class MetisHomeConfig(Qwen2_5_VLConfig):
    r"""
    Configuration of [`MetisHomeForConditionalGeneration`]: the fields of [`~transformers.Qwen2_5_VLConfig`] and these.

    The token-id sequences are written by the conversion from the processor of the source model, because a model has
    no tokenizer of its own. They are empty in a configuration made by hand; the router then reads the whole prompt and
    no forced opening is recognised.

    Args:
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

    Example:

    ```python
    >>> from hf_metis_home import MetisHomeConfig

    >>> config = MetisHomeConfig(text_config={"router_layer": 0})
    >>> config.text_config.router_layer, config.thinking_threshold
    (0, 0.5)
    ```
    """

    model_type = "metis_home"
    sub_configs = {"vision_config": Qwen2_5_VLVisionConfig, "text_config": MetisHomeTextConfig}
    sub_configs_defaults = sub_configs

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
        super().__post_init__(**kwargs)
        if getattr(self, "auto_map", None) is None:
            self.auto_map = dict(AUTO_MAP)
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

__all__ = ["MetisHomeConfig", "MetisHomeTextConfig"]
