"""Configuration of [`MetisHomeSFTTrainer`]."""

from dataclasses import dataclass, field

from trl import SFTConfig

from .mode_sampler import CURRICULA
from .parameter_groups import TRAINABLE


@dataclass
class MetisHomeSFTConfig(SFTConfig):
    r"""
    Stage-SFT: language-model loss and router loss on rows of both modes (arXiv 2510.20519, 1:1).

    The fields of [`~trl.SFTConfig`] and these. `max_length` differs: None by default, and where it is given a longer
    row is an error. Nothing is cut, because a cut can take image tokens or the end of the answer.

    Parameters:
        trainable (`str`, *optional*, defaults to `"all"`):
            `"all"`; `"branches"` (both, and the router); `"router"`; `"thinking"` or `"non_thinking"`: that branch
            alone, while everything else stays as it is to the last bit. The paper does not say what it froze.
        train_router (`bool`, *optional*):
            Whether the router trains too. By default it does with `"all"`, `"branches"` and `"router"`.
        router_loss_coef (`float`, *optional*, defaults to 1.0):
            Weight of the router's cross-entropy beside the language-model loss.
        router_learning_rate (`float`, *optional*, defaults to 1e-3):
            Learning rate of the router, which starts from nothing while the rest is trained already. None: the run's
            `learning_rate`. Our choice; the paper gives none.
        branch_learning_rate (`float`, *optional*):
            Learning rate of the two branches. None: the run's `learning_rate`, which the shared parts have.
        router_class_balance (`bool`, *optional*, defaults to `False`):
            Weigh the router's loss so that both modes count the same, however many rows each has.
        curriculum (`str`, *optional*, defaults to `"joint"`):
            `"joint"`: rows of both modes together, as published; `"thinking_first"`: every epoch begins with the
            thinking rows, and the others follow.
        replay_share (`float`, *optional*, defaults to 0.0):
            With `"thinking_first"`: share of thinking rows that come again among the others, in [0, 1).
        one_mode_batches (`bool`, *optional*, defaults to `False`):
            Make every batch of a device of one mode. Long thoughts and short answers then do not share a batch, which
            saves padding; each step sees what its batches hold, so accumulate over several.
    """

    max_length: int | None = field(
        default=None, metadata={"help": "Most tokens of a row; a longer one is an error, and nothing is cut."}
    )
    trainable: str = field(default="all", metadata={"help": "Which parameters train.", "choices": list(TRAINABLE)})
    train_router: bool | None = field(
        default=None,
        metadata={"help": "Whether the router trains too; by default unless a single branch is trained."},
    )
    router_loss_coef: float = field(
        default=1.0, metadata={"help": "Weight of the router's cross-entropy beside the language-model loss."}
    )
    router_learning_rate: float | None = field(
        default=1e-3, metadata={"help": "Learning rate of the router; None for the run's `learning_rate`."}
    )
    branch_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the branches; None for the run's `learning_rate`."}
    )

    router_class_balance: bool = field(
        default=False, metadata={"help": "Whether both modes count the same in the router's loss."}
    )
    curriculum: str = field(
        default="joint", metadata={"help": "Which mode's rows come first.", "choices": list(CURRICULA)}
    )
    replay_share: float = field(
        default=0.0, metadata={"help": "Share of thinking rows in the second part of `thinking_first`."}
    )
    one_mode_batches: bool = field(default=False, metadata={"help": "Whether every batch is of one mode."})

    def __post_init__(self):
        super().__post_init__()
        errors = []
        if self.curriculum not in CURRICULA:
            errors.append(f"`curriculum` is {self.curriculum!r}, but must be one of {list(CURRICULA)}.")
        if not 0 <= self.replay_share < 1:
            errors.append(f"`replay_share` is {self.replay_share}, but must be a share of rows, in [0, 1).")
        elif self.replay_share and self.curriculum != "thinking_first":
            errors.append(
                f"`replay_share={self.replay_share}` has no effect with `curriculum={self.curriculum!r}`, in which all "
                "rows come together. Set `curriculum='thinking_first'`, or leave it at 0."
            )
        chosen = [n for n in ("one_mode_batches",) if getattr(self, n)]
        chosen += ["curriculum"] if self.curriculum == "thinking_first" else []
        if chosen and self.train_sampling_strategy != "random":
            errors.append(
                f"`{chosen[0]}` orders the rows, and so does `train_sampling_strategy="
                f"{self.train_sampling_strategy!r}`. Leave the latter at 'random'."
            )
        if self.trainable not in TRAINABLE:
            errors.append(f"`trainable` is {self.trainable!r}, but must be one of {list(TRAINABLE)}.")
        if self.trainable == "router" and self.train_router is False:
            errors.append("`trainable='router'` with `train_router=False` leaves nothing to train.")
        if self.router_loss_coef < 0:
            errors.append(f"`router_loss_coef` is {self.router_loss_coef}, but must not be negative.")
        for name in ("router_learning_rate", "branch_learning_rate"):
            if (rate := getattr(self, name)) is not None and rate <= 0:
                errors.append(f"`{name}` is {rate}, but must be positive, or None.")
        if self.completion_only_loss is False:
            errors.append(
                "`completion_only_loss=False` would train the model on its prompts, and hide from the router where "
                "they end. Leave it unset."
            )
        if self.packing or self.padding_free:
            errors.append("`packing` and `padding_free` put several queries into one row; a row takes one branch.")
        if self.assistant_only_loss:
            errors.append("`assistant_only_loss` is for rows without a prompt of their own. Leave it unset.")
        if self.label_smoothing_factor:
            errors.append(
                "`label_smoothing_factor` makes TRL leave out every loss but its own, the router's too. Leave it at 0."
            )
        if self.router_aux_loss_coef is not None:
            errors.append(
                "`router_aux_loss_coef` balances the load of mixture-of-experts models. The weight of this router's "
                "loss is `router_loss_coef`."
            )
        if errors:
            raise ValueError("\n".join(errors))
