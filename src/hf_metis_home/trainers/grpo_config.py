"""Configuration of [`MetisHomeGRPOTrainer`]."""

from dataclasses import dataclass, field

from trl import GRPOConfig

from .parameter_groups import TRAINABLE, trained_groups


# Per value of `rollout_branch`: what trains by default, and what the objective can reach at all.
ROLLOUTS = {
    None: ("all", {"shared"}),  # a dense model, which has no other groups
    "thinking": ("thinking", {"shared", "thinking"}),
    "non_thinking": ("non_thinking", {"shared", "non_thinking"}),
    "both": ("all", {"shared", "thinking", "non_thinking"}),
    "router": ("router", {"shared", "thinking", "non_thinking", "router"}),
}
ADVANTAGE_GROUPS = ("prompt", "branch")
ROUTER_OBJECTIVES = ("regret", "policy_gradient")


@dataclass
class MetisHomeGRPOConfig(GRPOConfig):
    r"""
    Stage-RL: GRPO with a higher upper clip, no KL term and a mean over sequences (arXiv 2510.20519).

    The fields of [`~trl.GRPOConfig`] and these. Other defaults than TRL's: `loss_type="grpo"`, `beta=0.0` and
    `epsilon_high` as published in form (0.28 is the value of DAPO, arXiv 2503.14476; the paper gives none), and
    `mask_truncated_completions=True`, which is our choice.

    Parameters:
        rollout_branch (`str`, *optional*):
            None for a dense model, as published. For a two-branch model `"thinking"` or `"non_thinking"`: that branch
            alone answers and trains, and the other one and the router stay as they are to the last bit; `"both"`: half
            of every prompt's completions come from each branch (as in R-4B, arXiv 2508.21113); `"router"`: the router
            trains, on what both branches gain (`router_objective`).
        trainable (`str`, *optional*):
            As in [`MetisHomeSFTConfig`]; of what it names, only what the rollouts can teach anything trains. By
            default the branch of `rollout_branch`; with `"both"` everything but the router; with `"router"` the router.
        advantage_group (`str`, *optional*, defaults to `"prompt"`):
            Whose mean reward a completion is compared with: `"prompt"`: all completions of its prompt; `"branch"`:
            those of its branch, so that a branch is never pushed down for being the weaker one. For `"branch"`, both
            branches answer every prompt.
        router_objective (`str`, *optional*, defaults to `"regret"`):
            With `rollout_branch="router"`. `"regret"`: both branches answer, and the router learns to name the better
            one, weighted by what the other loses; `"policy_gradient"`: the router draws the branch of every completion
            and learns from its reward.
        token_cost (`float`, *optional*, defaults to 0.0):
            What one generated token costs the router, in units of reward: it maximises reward - `token_cost` * tokens.
        router_loss_coef (`float`, *optional*, defaults to 1.0):
            Weight of the router's loss.
        router_learning_rate (`float`, *optional*, defaults to 1e-3):
            Learning rate of the router. None: the run's `learning_rate`.
        branch_learning_rate (`float`, *optional*):
            Learning rate of the branches. None: the run's `learning_rate`.
        dynamic_sampling_rounds (`int`, *optional*, defaults to 0):
            How often prompts that teach nothing, because all their completions have the same reward, are replaced by
            others before a step (dynamic sampling of DAPO, bounded). 0: never.
        vllm_dense_model (`str`, *optional*):
            With `use_vllm` and `vllm_mode="colocate"`, for a two-branch model: the folder or repository of a dense
            export of `rollout_branch`, which vLLM starts from. Before rollouts it gets the weights of the branch as
            they are then.
    """

    loss_type: str = field(default="grpo", metadata={"help": "Mean over sequences, as published."})
    beta: float = field(default=0.0, metadata={"help": "Weight of the KL term; none, as published."})
    epsilon_high: float | None = field(
        default=0.28, metadata={"help": "Upper clip, above `epsilon` as published; the value is DAPO's."}
    )
    mask_truncated_completions: bool = field(
        default=True, metadata={"help": "Whether completions that were cut off are left out of the loss."}
    )
    rollout_branch: str | None = field(
        default=None,
        metadata={
            "help": "Which branch answers: thinking, non_thinking, both or router; None for a dense model.",
            "choices": [None, "thinking", "non_thinking", "both", "router"],
        },
    )
    trainable: str | None = field(
        default=None,
        metadata={"help": "Which parameters train; by default what `rollout_branch` is about.",
                  "choices": [None, *TRAINABLE]},
    )  # fmt: skip
    advantage_group: str = field(
        default="prompt",
        metadata={"help": "Whose mean a completion is compared with.", "choices": list(ADVANTAGE_GROUPS)},
    )
    router_objective: str = field(
        default="regret", metadata={"help": "How the router learns.", "choices": list(ROUTER_OBJECTIVES)}
    )
    token_cost: float = field(default=0.0, metadata={"help": "What a generated token costs the router, in reward."})
    router_loss_coef: float = field(default=1.0, metadata={"help": "Weight of the router's loss."})
    router_learning_rate: float | None = field(
        default=1e-3, metadata={"help": "Learning rate of the router; None for the run's `learning_rate`."}
    )
    branch_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate of the branches; None for the run's `learning_rate`."}
    )
    dynamic_sampling_rounds: int = field(
        default=0, metadata={"help": "How often prompts whose rewards do not vary are replaced; 0 for never."}
    )

    vllm_dense_model: str | None = field(
        default=None, metadata={"help": "A dense export of the branch that is rolled out, which vLLM starts from."}
    )

    @property
    def both_branches(self) -> bool:
        """Whether both branches answer every prompt, by turns: even positions of its group are thinking."""
        return self.rollout_branch == "both" or (self.rollout_branch == "router" and self.router_objective == "regret")

    @property
    def groups(self) -> set[str]:
        """The groups of parameters that train."""
        default, reachable = ROLLOUTS[self.rollout_branch]
        return trained_groups(self.trainable or default, None) & reachable

    def __post_init__(self):
        super().__post_init__()
        errors = []
        for name, choices in (
            ("rollout_branch", tuple(ROLLOUTS)),
            ("trainable", (None, *TRAINABLE)),
            ("advantage_group", ADVANTAGE_GROUPS),
            ("router_objective", ROUTER_OBJECTIVES),
        ):
            if getattr(self, name) not in choices:
                errors.append(f"`{name}` is {getattr(self, name)!r}, but must be one of {list(choices)}.")
        if errors:
            raise ValueError("\n".join(errors))
        if not self.groups or (self.rollout_branch is None and self.trainable not in (None, "all")):
            errors.append(
                f"`trainable={self.trainable!r}` with `rollout_branch={self.rollout_branch!r}` leaves nothing to "
                "train: the rollouts teach nothing to the parameters that it names. Leave `trainable` unset, or choose "
                "the `rollout_branch` of what is to train."
            )
        errors += self._errors_of_groups() + self._errors_of_numbers()
        if errors:
            raise ValueError("\n".join(errors))

    def _errors_of_groups(self) -> list[str]:
        errors = []
        odd = [name for name in ("num_generations", "num_generations_eval") if (getattr(self, name) or 0) % 2]
        if self.both_branches and odd:
            errors.append(
                f"`{odd[0]}` is {getattr(self, odd[0])}, but must be even: half of a prompt's completions come from "
                "each branch."
            )
        if self.advantage_group == "branch" and not self.both_branches:
            errors.append(
                "`advantage_group='branch'` compares a branch with itself, which needs both branches to answer every "
                "prompt: set `rollout_branch='both'`, or leave `advantage_group` at 'prompt'."
            )
        if self.advantage_group == "branch" and self.both_branches and self.num_generations < 4:
            errors.append(
                f"`num_generations` is {self.num_generations}, which with `advantage_group='branch'` leaves one "
                "completion to compare with itself. Make it 4 or more."
            )
        if self.advantage_group == "branch" and self.multi_objective_aggregation != "sum_then_normalize":
            errors.append("`advantage_group='branch'` needs `multi_objective_aggregation='sum_then_normalize'`.")
        if self.router_aux_loss_coef is not None:
            errors.append(
                "`router_aux_loss_coef` balances the load of mixture-of-experts models. The weight of this router's "
                "loss is `router_loss_coef`."
            )
        return errors

    def _errors_of_numbers(self) -> list[str]:
        errors = []
        if self.token_cost and self.rollout_branch != "router":
            errors.append(
                f"`token_cost` is {self.token_cost}, but only the router pays it (`rollout_branch='router'`). To "
                "shorten answers, add a reward such as TRL's `get_soft_overlong_punishment`."
            )
        if self.vllm_dense_model is not None and not (self.use_vllm and self.rollout_branch):
            errors.append(
                f"`vllm_dense_model` is {self.vllm_dense_model!r}, which has no effect without `use_vllm=True` and a "
                "`rollout_branch`. Leave it unset."
            )
        for name in ("token_cost", "router_loss_coef", "dynamic_sampling_rounds"):
            if getattr(self, name) < 0:
                errors.append(f"`{name}` is {getattr(self, name)}, but must not be negative.")
        for name in ("router_learning_rate", "branch_learning_rate"):
            if (rate := getattr(self, name)) is not None and rate <= 0:
                errors.append(f"`{name}` is {rate}, but must be positive, or None.")
        on_policy = self.gradient_accumulation_steps % (self.steps_per_generation * self.num_iterations) == 0
        if self.rollout_branch == "router" and self.router_objective == "policy_gradient" and not on_policy:
            errors.append(
                f"`router_objective='policy_gradient'` learns from branches that the router itself has just drawn, but "
                f"`num_iterations={self.num_iterations}` and `steps_per_generation={self.steps_per_generation}` with "
                f"`gradient_accumulation_steps={self.gradient_accumulation_steps}` use rollouts after it has changed. "
                "Set `num_iterations=1` and leave `steps_per_generation` unset, or use 'regret', which may."
            )
        return errors
