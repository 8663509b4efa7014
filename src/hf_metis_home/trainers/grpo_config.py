"""Configuration of [`MetisHomeGRPOTrainer`]."""

from dataclasses import dataclass, field

from trl import GRPOConfig

from .parameter_groups import TRAINABLE, trained_groups
from .shared_config import RouterTrainingConfig, wrong_choices, wrong_router_options


# By `rollout_branch`: what trains by default, and all that the objective can train.
ROLLOUTS = {
    None: ("all", {"shared"}),  # a dense model, which has no other groups
    "thinking": ("thinking", {"shared", "thinking"}),
    "non_thinking": ("non_thinking", {"shared", "non_thinking"}),
    "both": ("all", {"shared", "thinking", "non_thinking"}),
    "router": ("router", {"shared", "thinking", "non_thinking", "router"}),
}


@dataclass
class MetisHomeGRPOConfig(RouterTrainingConfig, GRPOConfig):
    r"""
    Stage-RL: GRPO with a higher upper clip, no KL term and a mean over sequences (arXiv 2510.20519).

    The fields of [`~trl.GRPOConfig`] and these. Defaults that differ from TRL's: `loss_type="grpo"`, `beta=0.0` and an
    `epsilon_high`, as published (the value 0.28 is DAPO's, arXiv 2503.14476; the paper gives none), and
    `mask_truncated_completions=True`, which is our choice.

    Parameters:
        rollout_branch (`str`, *optional*):
            None for a dense model, as published. For a two-branch model `"thinking"` or `"non_thinking"`: only that
            branch answers and trains, the other one and the router stay unchanged to the last bit; `"both"`: half of
            every prompt's completions come from each branch (as in R-4B, arXiv 2508.21113); `"router"`: the router
            trains on the difference between the branches (`router_objective`).
        trainable (`str`, *optional*):
            As in [`MetisHomeSFTConfig`], limited to what the rollouts can train. By default the branch of
            `rollout_branch`; with `"both"` everything but the router; with `"router"` the router.
        advantage_group (`str`, *optional*, defaults to `"prompt"`):
            Which completions a completion's reward is compared with: `"prompt"`: all of its prompt; `"branch"`: those
            of its branch, so that a branch is never penalised for being the weaker one (both branches must answer).
        router_objective (`str`, *optional*, defaults to `"regret"`):
            With `rollout_branch="router"`. `"regret"`: both branches answer, and the router learns to choose the better
            one, weighted by how much better it is; `"policy_gradient"`: the router samples the branch of every
            completion and learns from its reward.
        token_cost (`float`, *optional*, defaults to 0.0):
            Cost of a generated token in units of reward: the router maximises reward - `token_cost` * tokens.
        router_loss_coef (`float`, *optional*, defaults to 1.0):
            Weight of the router's loss.
        router_learning_rate (`float`, *optional*, defaults to 1e-3):
            Learning rate of the router. None: the run's `learning_rate`.
        branch_learning_rate (`float`, *optional*):
            Learning rate of the branches. None: the run's `learning_rate`.
        dynamic_sampling_rounds (`int`, *optional*, defaults to 0):
            Most rounds per step in which prompts without a learning signal (all their completions have the same reward)
            are replaced by others (DAPO's dynamic sampling, bounded). 0: never.
        vllm_dense_model (`str`, *optional*):
            With `use_vllm` and `vllm_mode="colocate"`, for a two-branch model: folder or repository of a dense export
            of `rollout_branch` that vLLM starts from. Before rollouts it gets the branch's current weights.
    """

    loss_type: str = field(default="grpo", metadata={"help": "Mean over sequences, as published."})
    beta: float = field(default=0.0, metadata={"help": "Weight of the KL term; none, as published."})
    epsilon_high: float | None = field(
        default=0.28, metadata={"help": "Upper clip, above `epsilon` as published; the value is DAPO's."}
    )
    mask_truncated_completions: bool = field(
        default=True, metadata={"help": "Whether to leave truncated completions out of the loss."}
    )
    rollout_branch: str | None = field(
        default=None,
        metadata={
            "help": "Which branch answers: thinking, non_thinking, both or router; None for a dense model.",
            "choices": list(ROLLOUTS),
        },
    )
    trainable: str | None = field(
        default=None,
        metadata={"help": "What trains; by default the branch of `rollout_branch`.", "choices": [None, *TRAINABLE]},
    )
    advantage_group: str = field(
        default="prompt", metadata={"help": "What a completion is compared with.", "choices": ["prompt", "branch"]}
    )
    router_objective: str = field(
        default="regret", metadata={"help": "How the router learns.", "choices": ["regret", "policy_gradient"]}
    )
    token_cost: float = field(default=0.0, metadata={"help": "Cost of a generated token for the router, in reward."})
    dynamic_sampling_rounds: int = field(
        default=0, metadata={"help": "Most rounds of replacing prompts whose rewards do not vary; 0 for none."}
    )
    vllm_dense_model: str | None = field(
        default=None, metadata={"help": "A dense export of the rollout branch, which vLLM starts from."}
    )

    @property
    def both_branches(self) -> bool:
        """Whether both branches answer every prompt in turns: even positions of its group are thinking."""
        return self.rollout_branch == "both" or (self.rollout_branch == "router" and self.router_objective == "regret")

    @property
    def groups(self) -> set[str]:
        """The groups of parameters that train."""
        default, reachable = ROLLOUTS[self.rollout_branch]
        return trained_groups(self.trainable or default, None) & reachable

    def __post_init__(self):
        super().__post_init__()
        if errors := wrong_choices(self):  # the other checks rely on them
            raise ValueError("\n".join(errors))
        if errors := self._wrong_groups() + wrong_router_options(self) + self._wrong_numbers():
            raise ValueError("\n".join(errors))

    def _wrong_groups(self) -> list[str]:
        errors = []
        if not self.groups or (self.rollout_branch is None and self.trainable not in (None, "all")):
            errors.append(
                f"`trainable={self.trainable!r}` with `rollout_branch={self.rollout_branch!r}` leaves nothing to train."
                " Leave `trainable` unset, or choose the `rollout_branch` that trains it."
            )
        odd = [name for name in ("num_generations", "num_generations_eval") if (getattr(self, name) or 0) % 2]
        if self.both_branches and odd:
            errors.append(f"`{odd[0]}` is {getattr(self, odd[0])}, but must be even, half for each branch.")
        if self.advantage_group == "branch":
            if not self.both_branches:
                errors.append("`advantage_group='branch'` needs answers of both branches: set `rollout_branch='both'`.")
            elif self.num_generations < 4:
                errors.append(
                    f"`num_generations` is {self.num_generations}, but `advantage_group='branch'` needs at least 4."
                )
            if self.multi_objective_aggregation != "sum_then_normalize":
                errors.append("`advantage_group='branch'` needs `multi_objective_aggregation='sum_then_normalize'`.")
        return errors

    def _wrong_numbers(self) -> list[str]:
        errors = []
        if self.token_cost and self.rollout_branch != "router":
            errors.append(
                f"`token_cost` is {self.token_cost}, but only the router pays it. To shorten answers, use a reward."
            )
        if self.vllm_dense_model is not None and not (self.use_vllm and self.rollout_branch):
            errors.append("`vllm_dense_model` has no effect without `use_vllm=True` and a `rollout_branch`. Drop it.")
        for name in ("token_cost", "dynamic_sampling_rounds"):
            if getattr(self, name) < 0:
                errors.append(f"`{name}` is {getattr(self, name)}, but must not be negative.")
        on_policy = self.gradient_accumulation_steps % (self.steps_per_generation * self.num_iterations) == 0
        if self.rollout_branch == "router" and self.router_objective == "policy_gradient" and not on_policy:
            errors.append(
                "`router_objective='policy_gradient'` learns from branches that the router has just drawn, but "
                f"`num_iterations={self.num_iterations}` and `steps_per_generation={self.steps_per_generation}` with "
                f"`gradient_accumulation_steps={self.gradient_accumulation_steps}` reuse rollouts after it has changed."
                " Set `num_iterations=1` and leave `steps_per_generation` unset, or use 'regret'."
            )
        return errors
