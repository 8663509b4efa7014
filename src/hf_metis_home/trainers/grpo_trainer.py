"""
Stage-RL: GRPO for a dense model, for one branch, for both, or for the router (arXiv 2510.20519).

Over TRL's [`~trl.GRPOTrainer`]. What is added, and the private parts of TRL 1.16 that it rests on:

- the branch of every rollout: chosen in `_generate_single_turn`, handed to rewards in `_calculate_rewards`, kept beside
  the rollouts that `_generate_and_score_completions` returns, and used again for their log-probabilities
  (`_get_per_token_logps_and_entropies`, whose model is wrapped for the length of the call);
- advantages per branch, and the router's objective (`advantages.py`, `router_losses.py`, `fused_forward.py`);
- dynamic sampling (`dynamic_sampling.py`);
- one branch, and prompts with images, rolled out by vLLM (`branch_rollouts.py`; `VLLMGeneration`, by name in TRL's
  module);
- prompts with and without images on any rank and in any part of a batch, tokens of vision and padding kept out of the
  answers, checks before training;
- exact resume: the rollouts that a checkpoint interrupts are saved with it (`rollout_buffer.py`), and later epochs take
  up the order that the sampler has reached (`_init_training_state`, of transformers).

Not here: rollouts of both branches by vLLM, which cannot choose a branch per row; tools.
"""

from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate.utils import gather_object
from peft import PeftModel
from torch.distributed.fsdp import register_fsdp_forward_method
from trl import GRPOTrainer
from trl.models import unwrap_model_for_generation
from trl.trainer.utils import pad

from ..modeling import MetisHomeConfig
from ..modeling.router_metis_home import is_thinking
from .advantages import alternating, branch_advantages, router_advantages, router_gain
from .branch_rollouts import one_token_per_image, rollouts_of
from .completions_log import add_images
from .dynamic_sampling import replace_groups_without_signal, with_images
from .fused_forward import add_router_loss
from .grpo_checks import (
    check_model,
    check_options,
    check_prompts,
    check_rewards,
    check_vllm,
    checked_reward,
    warn_of_frozen_adapters,
)
from .grpo_config import MetisHomeGRPOConfig
from .mixin import MetisHomeTrainerMixin, model_type_of
from .parameter_groups import count_trainable, freeze
from .rollout_buffer import load_buffer, save_buffer
from .router_losses import policy_gradient_loss, regret_loss


class MetisHomeGRPOTrainer(MetisHomeTrainerMixin, GRPOTrainer):
    """
    Trains a dense Qwen2.5-VL before it is upcycled, as published, or parts of a two-branch model, on rewards.

    Arguments are [`~trl.GRPOTrainer`]'s. The dataset has `prompt` (chat messages), `images` (a list, empty for text)
    and what the rewards read, as a rule `solution`. Rewards are called with `thinking`, a list with the branch of every
    completion, where the model has branches.

    Logged beside TRL's metrics: `reward_thinking` and `reward_non_thinking`, `length_thinking` and
    `length_non_thinking` (means over completions of the branch, in reward and in tokens); with
    `rollout_branch="router"` `router_loss`, `thinking_ratio` (share of prompts that the router would send to the
    thinking branch) and `router_gain` (mean advantage of thinking in reward less cost); with dynamic sampling
    `dynamic_sampling/replaced` and `dynamic_sampling/without_signal`, shares of the prompts of a step.

    Raises:
        ValueError: options that do not fit the model, a dataset without what the rewards read or too small for one
            step, nothing to train; all before the first step. A reward that is not a finite number, or none for a
            completion, when it comes.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from hf_metis_home import MetisHomeGRPOConfig, MetisHomeGRPOTrainer
    >>> from hf_metis_home.rewards import accuracy_reward, format_reward

    >>> trainer = MetisHomeGRPOTrainer(
    ...     model="runs/hybrid",
    ...     reward_funcs=[accuracy_reward, format_reward],
    ...     args=MetisHomeGRPOConfig(output_dir="runs/grpo", rollout_branch="thinking"),
    ...     train_dataset=Dataset.from_list(rows),
    ... )
    >>> trainer.train()
    ```
    """

    _tag_names = ["trl", "grpo", "metis-home"]
    _stage = "grpo"

    def __init__(
        self, model, reward_funcs=None, args: MetisHomeGRPOConfig | None = None, train_dataset=None, eval_dataset=None,
        **kwargs,
    ):  # fmt: skip
        args = MetisHomeGRPOConfig("metis-home-grpo") if args is None else args
        check_options(args, kwargs)
        two_branch = model_type_of(model, args) == MetisHomeConfig.model_type
        check_model(model, args, two_branch)
        adapted = kwargs.get("peft_config") is not None or isinstance(model, PeftModel)
        check_vllm(model, args, two_branch, adapted)
        if not isinstance(reward_funcs, list):
            reward_funcs = [] if reward_funcs is None else [reward_funcs]
        check_prompts(train_dataset, eval_dataset, reward_funcs, args, two_branch)
        # What `_generate_and_score_completions` and `compute_loss` tell the methods that they call through TRL.
        self._thinking = self._router_target = self._completions = None
        self._rewards: torch.Tensor = None
        self._lengths: torch.Tensor = None
        self._images = self._sampler = None
        reward_funcs = [checked_reward(function) for function in reward_funcs]
        by_vllm = two_branch and args.use_vllm
        with rollouts_of(args.rollout_branch, args.vllm_dense_model) if by_vllm else nullcontext():
            super().__init__(model, reward_funcs, args, train_dataset, eval_dataset, **kwargs)
        # TRL pads prompts on the left, but leaves the token types, which number the places of images, to the processor.
        self._tokenizer.padding_side = "left"
        plain = self.plain_model
        if isinstance(plain, PeftModel):
            warn_of_frozen_adapters(plain, args)
        freeze(plain, args.groups, unfreeze=not isinstance(plain, PeftModel))
        trained = [group for group, (count, _) in count_trainable(plain).items() if count]
        if not trained:
            raise ValueError(
                f"`rollout_branch={args.rollout_branch!r}` trains {sorted(args.groups)}, in which no parameter is left "
                "to train. With a `peft_config`, let `target_modules` name modules of it."
            )
        self._suppress_tokens(plain.config)
        if args.rollout_branch == "router":
            add_router_loss(plain.get_base_model() if isinstance(plain, PeftModel) else plain, self._router_loss)
            self.aux_loss_enabled = True
            self.router_aux_loss_coef = args.router_loss_coef

    def _suppress_tokens(self, config) -> None:
        """An answer with tokens that stand for vision cannot be read again, and one with padding is cut there."""
        names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
        tokens = {getattr(config, name, None) for name in names} | {self._tokenizer.pad_token_id}
        if self.use_vllm:
            given = self.vllm_generation.generation_kwargs
            bias = {token: -100.0 for token in sorted(tokens - {None, *self.eos_token_ids})}
            self.vllm_generation.generation_kwargs = {**given, "logit_bias": bias | (given.get("logit_bias") or {})}
            return
        tokens |= set(self.generation_kwargs.get("suppress_tokens") or ())
        suppressed = sorted(tokens - {None, *self.eos_token_ids})
        self.generation_kwargs["suppress_tokens"] = suppressed
        self.generation_config.suppress_tokens = suppressed

    def _tokenize_prompts(self, prompts: list):
        prompt_ids, images, multimodal_fields = super()._tokenize_prompts(prompts)
        # None for prompts without images, which the processor does not take among others that have some.
        return prompt_ids, None if images is None else [found or [] for found in images], multimodal_fields

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        if self._completions is not None:  # chosen by dynamic sampling, with their branches
            return self._completions
        if self.two_branch:
            self._thinking = self._choose_branches(prompt_ids, multimodal_fields, num_generations)
            multimodal_fields = {**multimodal_fields, "thinking": self._thinking}
        if self.use_vllm and images is not None:
            images = [found or None for found in images]  # an empty list would be taken for an image
            if self.vllm_mode == "colocate":
                image_token = self.plain_model.config.image_token_id
                prompt_ids = [one_token_per_image(ids, image_token) for ids in prompt_ids]
        return super()._generate_single_turn(prompt_ids, images, multimodal_fields, num_generations, has_tool_images)

    def _generate(self, prompts: list):
        seen = self.state.num_input_tokens_seen
        generated = super()._generate(prompts)
        self._images = generated[6]
        if self._completions is not None:  # counted when they were generated
            self.state.num_input_tokens_seen = seen
            self._metrics["train"]["num_tokens"] = [seen]
        return generated

    def _choose_branches(self, prompt_ids, multimodal_fields: dict, num_generations: int) -> torch.BoolTensor:
        """The branch of each of this rank's rollouts."""
        count = len(prompt_ids)
        if self.args.both_branches:
            chosen = alternating(count, self.accelerator.process_index * count, num_generations)
        elif self.args.rollout_branch == "router":
            return torch.bernoulli(self._thinking_probability(prompt_ids, multimodal_fields)).bool()
        else:
            chosen = torch.full((count,), self.args.rollout_branch == "thinking")
        return chosen.to(self.accelerator.device)

    @torch.no_grad()
    def _thinking_probability(self, prompt_ids, multimodal_fields: dict) -> torch.Tensor:
        rows = [torch.tensor(ids) for ids in prompt_ids]
        vision = {
            name: multimodal_fields[name] for name in ("pixel_values", "image_grid_thw") if name in multimodal_fields
        }
        inputs = {
            "input_ids": pad(rows, padding_value=self._tokenizer.pad_token_id, padding_side="left"),
            "attention_mask": pad([torch.ones_like(row) for row in rows], padding_value=0, padding_side="left"),
            **{name: torch.as_tensor(value) for name, value in vision.items()},
        }
        inputs = {name: tensor.to(self.accelerator.device) for name, tensor in inputs.items()}
        with (
            unwrap_model_for_generation(
                self.model_wrapped, self.accelerator, gather_deepspeed3_params=self.args.ds3_gather_for_generation
            ) as model,
            self._dist.summon_full_params(self.model_wrapped, recurse=False),
        ):
            if "route" not in vars(model):  # under FSDP2, which by itself gathers parameters for `forward` alone
                register_fsdp_forward_method(model, "route")
            return model.route(**inputs).thinking_probability

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        if self.two_branch:
            inputs = [{**row, "thinking": bool(t)} for row, t in zip(inputs, self._thinking.tolist(), strict=True)]
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        check_rewards(rewards, self.reward_func_names)
        lengths = torch.tensor([float(len(ids)) for ids in completion_ids_list], device=rewards.device)
        self._rewards = (rewards * self.reward_weights.to(rewards.device)).nansum(dim=1)  # [N] of all ranks
        self._lengths = self.accelerator.gather(lengths)
        return rewards

    def _generate_and_score_completions(self, inputs):
        inputs = [with_images(row) for row in inputs]
        mode = "train" if self.model.training else "eval"
        self._thinking = None
        if mode == "train" and self.args.dynamic_sampling_rounds:
            inputs, self._completions, self._thinking = replace_groups_without_signal(self, inputs)
        # TRL gathers images for its log on ranks whose prompts have some, and waits for the others for ever.
        log_images, self.log_multimodal = self.log_multimodal, False
        try:
            output = super()._generate_and_score_completions(inputs)
        finally:
            self._completions, self.log_multimodal = None, log_images
        if log_images:
            images = gather_object(self._images or [[] for _ in inputs])
            if any(images) or self._logs["images"]:
                self._logs["images"].extend(images)
        if self.two_branch:
            output["thinking"] = self._thinking
            self._keep_branch_metrics(mode)
            self._logs["extra"]["thinking"].extend(self.accelerator.gather(self._thinking).tolist())
            local = slice(self.accelerator.process_index * len(inputs), None)
            count = self.num_generations if mode == "train" else self.num_generations_eval
            if self.args.advantage_group == "branch":
                advantages = branch_advantages(self._rewards, count, self.scale_rewards)
                logged = self._logs["advantages"]  # ends with those over whole prompts
                for _ in range(min(len(advantages), len(logged))):
                    logged.pop()
                logged.extend(advantages.tolist())
                output["advantages"] = advantages[local][: len(inputs)]
            if self.args.rollout_branch == "router":
                output["router_target"] = self.router_signal(count)[local][: len(inputs)]
        return output

    def router_signal(self, num_generations: int) -> torch.Tensor:
        """What the router is told about each completion of the generation batch last scored, of shape `(N,)`."""
        utilities = self._rewards - self.args.token_cost * self._lengths
        target = router_gain if self.args.router_objective == "regret" else router_advantages
        return target(utilities, num_generations)

    def _keep_branch_metrics(self, mode: str) -> None:
        thinking = self.accelerator.gather(self._thinking)
        metrics = self._metrics[mode]
        for name, rows in (("thinking", thinking), ("non_thinking", ~thinking)):
            if rows.any():
                metrics[f"reward_{name}"].append(self._rewards[rows].mean().item())
                metrics[f"length_{name}"].append(self._lengths[rows].mean().item())
        if self.args.rollout_branch == "router" and self.args.router_objective == "regret":
            count = self.num_generations if mode == "train" else self.num_generations_eval
            metrics["router_gain"].append(self.router_signal(count).mean().item())

    def _compute_loss(self, model, inputs):
        self._thinking, self._router_target = inputs.get("thinking"), inputs.get("router_target")
        loss = super()._compute_loss(model, inputs)
        self._router_target = None
        if self.args.rollout_branch == "router":
            metrics = self._metrics["train" if self.model.training else "eval"]
            metrics["router_loss"].extend(metrics.pop("aux_loss", ()))  # under the name of another loss
            metrics["thinking_ratio"].append(self.accelerator.gather(self._routed).mean().item())
        return loss

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs):
        rows = {}
        if self.two_branch:
            rows["thinking"] = self._thinking
        if self._router_target is not None:  # else the router need not run
            prompt_mask = attention_mask.bool()
            prompt_mask[:, -logits_to_keep:] = False
            rows |= {"prompt_mask": prompt_mask, "router_target": self._router_target}
        return super()._get_per_token_logps_and_entropies(
            _WithRows(model, rows), input_ids, attention_mask, logits_to_keep, *args, **kwargs
        )

    def _router_loss(self, outputs, branch_logits: torch.Tensor, thinking: torch.BoolTensor, router_target):
        threshold = self.model.config.thinking_threshold
        self._routed = is_thinking(branch_logits.detach().softmax(dim=-1)[:, 1], threshold).float()
        if self.args.router_objective == "regret":
            return regret_loss(branch_logits, router_target)
        return policy_gradient_loss(branch_logits, thinking, router_target)

    def _get_train_sampler(self, dataset=None):
        self._sampler = super()._get_train_sampler(dataset)
        return self._sampler

    def _init_training_state(self, *args, **kwargs):
        epochs, steps = super()._init_training_state(*args, **kwargs)
        for _ in range(epochs if self._sampler is not None else 0):
            # Each epoch draws its order after that of the last, which a run that is resumed has to draw as well.
            next(iter(self._sampler))
        return epochs, steps

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)
        images = self._logs["images"]
        if self.accelerator.is_main_process and self.log_completions and len(images) == len(self._logs["prompt"]) > 0:
            file = f"completions_{self.state.global_step:05d}.parquet"
            add_images(Path(self.args.output_dir) / "completions" / file, list(images))

    def _save_checkpoint(self, model, trial):
        super()._save_checkpoint(model, trial)
        save_buffer(self, trial)

    def _load_optimizer_and_scheduler(self, checkpoint):
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            load_buffer(self, checkpoint)


class _WithRows:
    """A model whose calls, on consecutive rows of a batch, get what belongs to those rows."""

    def __init__(self, model, rows: dict[str, torch.Tensor]):
        self.model, self.rows, self.done = model, rows, 0

    def __call__(self, input_ids, **inputs):
        rows = slice(self.done, self.done + input_ids.shape[0])
        self.done = rows.stop
        if "pixel_values" in inputs and not len(inputs["pixel_values"]):
            # Rows without images of a batch that has some: the vision tower does not take zero images.
            del inputs["pixel_values"], inputs["image_grid_thw"]
        return self.model(input_ids=input_ids, **{name: v[rows] for name, v in self.rows.items()}, **inputs)
