"""Configuration of [`MetisHomeSFTTrainer`]."""

from dataclasses import dataclass, field

from trl import SFTConfig

from .mode_sampler import CURRICULA
from .parameter_groups import TRAINABLE
from .shared_config import RouterTrainingConfig, wrong_choices, wrong_router_options


@dataclass
class MetisHomeSFTConfig(RouterTrainingConfig, SFTConfig):
    r"""
    Stage-SFT: language-model loss and router loss on rows of both modes (arXiv 2510.20519, 1:1).

    The fields of [`~trl.SFTConfig`] and these. `max_length` differs: it is None by default, and a longer row is an
    error. Nothing is truncated, because that can remove image tokens or the end of the answer.

    Parameters:
        trainable (`str`, *optional*, defaults to `"all"`):
            `"all"`; `"branches"` (both, and the router); `"router"`; `"thinking"` or `"non_thinking"`: only that
            branch, with everything else unchanged to the last bit. The paper does not say what it froze.
        train_router (`bool`, *optional*):
            Whether the router trains too. By default it does with `"all"`, `"branches"` and `"router"`.
        router_loss_coef (`float`, *optional*, defaults to 1.0):
            Weight of the router's cross-entropy relative to the language-model loss.
        router_learning_rate (`float`, *optional*, defaults to 1e-3):
            Learning rate of the router, which is untrained while the rest is not. None: the run's `learning_rate`. Our
            choice; the paper gives none.
        branch_learning_rate (`float`, *optional*):
            Learning rate of the two branches. None: the run's `learning_rate`, as for the shared parts.
        router_class_balance (`bool`, *optional*, defaults to `False`):
            Weight the router's loss so that both modes count the same, however many rows each has.
        curriculum (`str`, *optional*, defaults to `"joint"`):
            `"joint"`: rows of both modes mixed, as published; `"thinking_first"`: every epoch starts with the thinking
            rows, followed by the others.
        replay_share (`float`, *optional*, defaults to 0.0):
            With `"thinking_first"`: share of replayed thinking rows in the second part, in [0, 1).
        one_mode_batches (`bool`, *optional*, defaults to `False`):
            Put rows of one mode into each device's batch. Keeping long thoughts and short answers apart saves padding,
            but a step only sees the modes in its batches, so accumulate gradients over several.
    """

    max_length: int | None = field(
        default=None, metadata={"help": "Most tokens of a row; a longer one is an error, nothing is truncated."}
    )
    trainable: str = field(default="all", metadata={"help": "Which parameters train.", "choices": list(TRAINABLE)})
    train_router: bool | None = field(
        default=None, metadata={"help": "Whether the router trains too; by default unless only one branch trains."}
    )
    router_class_balance: bool = field(
        default=False, metadata={"help": "Whether both modes count the same in the router's loss."}
    )
    curriculum: str = field(default="joint", metadata={"help": "Order of the modes.", "choices": list(CURRICULA)})
    replay_share: float = field(
        default=0.0, metadata={"help": "Share of replayed thinking rows in the second part of `thinking_first`."}
    )
    one_mode_batches: bool = field(default=False, metadata={"help": "Whether every batch has rows of one mode."})

    def __post_init__(self):
        super().__post_init__()
        errors = wrong_choices(self) + wrong_router_options(self)
        if not 0 <= self.replay_share < 1:
            errors.append(f"`replay_share` is {self.replay_share}, but must be in [0, 1).")
        elif self.replay_share and self.curriculum != "thinking_first":
            errors.append(f"`replay_share={self.replay_share}` needs `curriculum='thinking_first'`. Set it, or use 0.")
        if self.train_sampling_strategy != "random" and (self.one_mode_batches or self.curriculum == "thinking_first"):
            errors.append(
                f"`train_sampling_strategy={self.train_sampling_strategy!r}` has no effect with `one_mode_batches` or "
                "`curriculum`. Leave it at 'random'."
            )
        if self.trainable == "router" and self.train_router is False:
            errors.append("`trainable='router'` with `train_router=False` leaves nothing to train.")
        if self.completion_only_loss is False:
            errors.append("`completion_only_loss=False` would train on prompts, and hide their ends. Leave it unset.")
        if self.packing or self.padding_free:
            errors.append("`packing` and `padding_free` put several queries into one row, but a row takes one branch.")
        if self.assistant_only_loss:
            errors.append("`assistant_only_loss` is for rows without a separate prompt. Leave it unset.")
        if self.label_smoothing_factor:
            errors.append("`label_smoothing_factor` makes TRL drop the router's loss. Leave it at 0.")
        if errors:
            raise ValueError("\n".join(errors))
