"""
Stage-RL: GRPO for a dense model, for one branch, for both, or for the router (arXiv 2510.20519).

On top of TRL's [`~trl.GRPOTrainer`]. What is added, with the private parts of TRL 1.16 that it relies on:

- the branch of every rollout: chosen in `_generate_single_turn`, passed to rewards in `_calculate_rewards`, kept with
  the rollouts that `_generate_and_score_completions` returns, and used again for their log-probabilities
  (`_get_per_token_logps_and_entropies`, which gets a wrapped model);
- advantages per branch, and the router's objective (`advantages.py`, `router_losses.py`, `fused_forward.py`);
- dynamic sampling (`dynamic_sampling.py`);
- vLLM rollouts of one branch, and of prompts with images (`branch_rollouts.py`; replaces `VLLMGeneration` in TRL's
  module);
- prompts with and without images on any rank and in any part of a batch, no vision or padding tokens in answers, checks
  before training;
- exact resume: rollouts that a checkpoint interrupts are saved with it (`rollout_buffer.py`), and the sampler continues
  its sequence of random orders (`_init_training_state`, of transformers).

Left out: vLLM rollouts of both branches, because vLLM cannot choose a branch per row; tools.
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
from . import grpo_checks as checks
from .advantages import alternating, branch_advantages, router_advantages, router_gain
from .branch_rollouts import one_token_per_image, rollouts_of
from .completions_log import add_images
from .dynamic_sampling import replace_groups_without_signal, with_images
from .grpo_config import MetisHomeGRPOConfig
from .mixin import MetisHomeTrainerMixin, check_config, config_of
from .parameter_groups import count_trainable, freeze
from .rollout_buffer import load_buffer, save_buffer
from .router_losses import policy_gradient_loss, regret_loss


class MetisHomeGRPOTrainer(MetisHomeTrainerMixin, GRPOTrainer):
    """
    Trains a dense Qwen2.5-VL before it is upcycled, as published, or parts of a two-branch model, on rewards.

    Arguments are [`~trl.GRPOTrainer`]'s. The dataset has `prompt` (chat messages), `images` (a list, empty for text)
    and the columns that the rewards read, usually `solution`. If the model has branches, rewards also get `thinking`, a
    list with the branch of every completion.

    Logged besides TRL's metrics: `reward_thinking`, `reward_non_thinking`, `length_thinking` and `length_non_thinking`
    (mean reward and tokens of a branch's completions); with `rollout_branch="router"` `router_loss`, `thinking_ratio`
    (share of prompts that the router would send to the thinking branch) and `router_gain` (mean advantage of thinking
    in reward minus cost); with dynamic sampling `dynamic_sampling/replaced` and `dynamic_sampling/without_signal`,
    shares of the prompts of a step.

    Raises:
        ValueError: before the first step if options do not fit the model, a dataset is too small or lacks columns, or
            nothing would train; during training if a reward is not a finite number, or a completion has no reward.

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
        # Check everything that can be checked before the model is loaded.
        args = MetisHomeGRPOConfig("metis-home-grpo") if args is None else args
        check_config(args, MetisHomeGRPOConfig)
        checks.check_options(args, kwargs)
        two_branch = config_of(model, args).model_type == MetisHomeConfig.model_type
        checks.check_model(model, args, two_branch)
        adapted = kwargs.get("peft_config") is not None or isinstance(model, PeftModel)
        checks.check_vllm(model, args, two_branch, adapted)
        if not isinstance(reward_funcs, list):
            reward_funcs = [] if reward_funcs is None else [reward_funcs]
        checks.check_prompts(train_dataset, eval_dataset, reward_funcs, args, two_branch)
        reward_funcs = [checks.checked_reward(function) for function in reward_funcs]

        # State that methods of ours share across calls that go through TRL.
        self._thinking = self._router_target = self._completions = None
        self._rewards: torch.Tensor = None
        self._lengths: torch.Tensor = None
        self._images = self._sampler = None
        by_vllm = two_branch and args.use_vllm
        with rollouts_of(args.rollout_branch, args.vllm_dense_model) if by_vllm else nullcontext():
            super().__init__(model, reward_funcs, args, train_dataset, eval_dataset, **kwargs)
        # TRL pads prompts on the left; the processor must pad the token types, which mark images, on the same side.
        self._tokenizer.padding_side = "left"

        # Freeze what the rollouts do not train. What PEFT has frozen stays frozen.
        plain = self.plain_model
        if isinstance(plain, PeftModel):
            checks.warn_of_frozen_adapters(plain, args)
        freeze(plain, args.groups, unfreeze=not isinstance(plain, PeftModel))
        if not any(trained for trained, _ in count_trainable(plain).values()):
            raise ValueError(
                f"`rollout_branch={args.rollout_branch!r}` trains {sorted(args.groups)}, in which no parameter is left "
                "to train. With a `peft_config`, add modules of it to `target_modules`."
            )
        self._suppress_tokens(plain.config)
        if args.rollout_branch == "router":
            self._add_router_loss()

    def _suppress_tokens(self, config) -> None:
        """Keep vision tokens out of answers, which could not be read again, and padding, which would cut them."""
        names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
        tokens = {getattr(config, name, None) for name in names} | {self._tokenizer.pad_token_id}
        given = self.vllm_generation.generation_kwargs if self.use_vllm else self.generation_kwargs
        tokens |= set(given.get("suppress_tokens") or ())
        suppressed = sorted(tokens - {None, *self.eos_token_ids})
        if self.use_vllm:
            bias = dict.fromkeys(suppressed, -100.0) | (given.get("logit_bias") or {})
            self.vllm_generation.generation_kwargs = {**given, "logit_bias": bias}
        else:
            given["suppress_tokens"] = self.generation_config.suppress_tokens = suppressed

    def _tokenize_prompts(self, prompts: list):
        prompt_ids, images, multimodal_fields = super()._tokenize_prompts(prompts)
        # TRL's None for a prompt without images is not accepted next to prompts with some.
        return prompt_ids, None if images is None else [found or [] for found in images], multimodal_fields

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        # Dynamic sampling has generated already, and set the branches.
        if self._completions is not None:
            return self._completions
        # Which branch answers each prompt; `generate` gets it with the vision inputs.
        if self.two_branch:
            self._thinking = self._choose_branches(prompt_ids, multimodal_fields, num_generations)
            multimodal_fields = {**multimodal_fields, "thinking": self._thinking}
        # vLLM takes None for no images, and in this process expands image tokens itself.
        if self.use_vllm and images is not None:
            images = [found or None for found in images]
            if self.vllm_mode == "colocate":
                image_token = self.plain_model.config.image_token_id
                prompt_ids = [one_token_per_image(ids, image_token) for ids in prompt_ids]
        return super()._generate_single_turn(prompt_ids, images, multimodal_fields, num_generations, has_tool_images)

    def _generate(self, prompts: list):
        seen = self.state.num_input_tokens_seen
        generated = super()._generate(prompts)
        self._images = generated[6]
        if self._completions is not None:  # dynamic sampling has counted these tokens already
            self.state.num_input_tokens_seen = seen
            self._metrics["train"]["num_tokens"] = [seen]
        return generated

    def _choose_branches(self, prompt_ids, multimodal_fields: dict, num_generations: int) -> torch.BoolTensor:
        """The branch of each of this rank's rollouts: `[B]`."""
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
        """What the router says about this rank's prompts: `[B]`."""
        rows = [torch.tensor(ids) for ids in prompt_ids]
        vision = [name for name in ("pixel_values", "image_grid_thw") if name in multimodal_fields]
        inputs = {
            "input_ids": pad(rows, padding_value=self._tokenizer.pad_token_id, padding_side="left"),  # [B, T]
            "attention_mask": pad([torch.ones_like(row) for row in rows], padding_value=0, padding_side="left"),
            **{name: torch.as_tensor(multimodal_fields[name]) for name in vision},
        }
        inputs = {name: tensor.to(self.accelerator.device) for name, tensor in inputs.items()}
        with (
            unwrap_model_for_generation(
                self.model_wrapped, self.accelerator, gather_deepspeed3_params=self.args.ds3_gather_for_generation
            ) as model,
            self._dist.summon_full_params(self.model_wrapped, recurse=False),
        ):
            if "route" not in vars(model):  # FSDP2 would gather parameters only for `forward`
                register_fsdp_forward_method(model, "route")
            return model.route(**inputs).thinking_probability

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        # Rewards see the branch as a column.
        if self.two_branch:
            inputs = [{**row, "thinking": bool(t)} for row, t in zip(inputs, self._thinking.tolist(), strict=True)]
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)  # [N, functions]
        checks.check_rewards(rewards, self.reward_func_names)
        # N is the generation batch, over all ranks.
        lengths = torch.tensor([float(len(ids)) for ids in completion_ids_list], device=rewards.device)  # [B]
        self._rewards = (rewards * self.reward_weights.to(rewards.device)).nansum(dim=1)  # [N]
        self._lengths = self.accelerator.gather(lengths)  # [N]
        return rewards

    def _generate_and_score_completions(self, inputs):
        # Roll out first if prompts without a learning signal are to be replaced; TRL then scores what is left.
        inputs = [with_images(row) for row in inputs]
        mode = self._mode
        self._thinking = None
        if mode == "train" and self.args.dynamic_sampling_rounds:
            inputs, self._completions, self._thinking = replace_groups_without_signal(self, inputs)

        # TRL only gathers images for its log on ranks that have some, and would wait for the others forever.
        log_images, self.log_multimodal = self.log_multimodal, False
        try:
            output = super()._generate_and_score_completions(inputs)
        finally:
            self._completions, self.log_multimodal = None, log_images
        if log_images:
            images = gather_object(self._images or [[] for _ in inputs])
            if any(images) or self._logs["images"]:
                self._logs["images"].extend(images)
        if not self.two_branch:
            return output

        # The branch of every rollout goes with it, into the log and into the loss.
        count = self.num_generations if mode == "train" else self.num_generations_eval
        local = slice(self.accelerator.process_index * len(inputs), (self.accelerator.process_index + 1) * len(inputs))
        thinking = self.accelerator.gather(self._thinking)  # [N] of all ranks; this one's are `local`
        output["thinking"] = self._thinking  # [B]
        self._logs["extra"]["thinking"].extend(thinking.tolist())
        self._log_branches(mode, thinking)
        if self.args.advantage_group == "branch":
            # In place of TRL's advantages over whole prompts, which its log ends with.
            advantages = branch_advantages(self._rewards, count, self.scale_rewards)  # [N]
            logged = self._logs["advantages"]
            for _ in range(min(len(advantages), len(logged))):
                logged.pop()
            logged.extend(advantages.tolist())
            output["advantages"] = advantages[local]
        if self.args.rollout_branch == "router":
            target = self.router_signal(count)  # [N]
            output["router_target"] = target[local]
            if self.args.router_objective == "regret":
                self._metrics[mode]["router_gain"].append(target.mean().item())
        return output

    def router_signal(self, num_generations: int) -> torch.Tensor:
        """What each completion of the last generation batch tells the router: `(N,)`."""
        utilities = self._rewards - self.args.token_cost * self._lengths
        signal = router_gain if self.args.router_objective == "regret" else router_advantages
        return signal(utilities, num_generations)

    def _log_branches(self, mode: str, thinking: torch.BoolTensor) -> None:
        for name, rows in (("thinking", thinking), ("non_thinking", ~thinking)):
            if rows.any():
                self._metrics[mode][f"reward_{name}"].append(self._rewards[rows].mean().item())
                self._metrics[mode][f"length_{name}"].append(self._lengths[rows].mean().item())

    def _compute_loss(self, model, inputs):
        # The forward below needs the branches, and the router's target to compute its loss.
        self._thinking, self._router_target = inputs.get("thinking"), inputs.get("router_target")
        loss = super()._compute_loss(model, inputs)
        self._router_target = None
        if self.args.rollout_branch == "router":
            metrics = self._metrics[self._mode]
            metrics["router_loss"].extend(metrics.pop("aux_loss", ()))  # the router's loss by its own name
            metrics["thinking_ratio"].append(self.accelerator.gather(self._routed).mean().item())
        return loss

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, *args, **kwargs):
        rows = {}
        if self.two_branch:
            rows["thinking"] = self._thinking
        if self._router_target is not None:  # otherwise the router does not run
            prompt_mask = attention_mask.bool()  # [B, T]
            prompt_mask[:, -logits_to_keep:] = False
            rows |= {"prompt_mask": prompt_mask, "router_target": self._router_target}
        return super()._get_per_token_logps_and_entropies(
            _WithRows(model, rows), input_ids, attention_mask, logits_to_keep, *args, **kwargs
        )

    def _router_loss(self, outputs, branch_logits: torch.Tensor, thinking: torch.BoolTensor, router_target):
        probability = branch_logits.detach().softmax(dim=-1)[:, 1]  # [B]
        self._routed = is_thinking(probability, self.model.config.thinking_threshold).float()
        if self.args.router_objective == "regret":
            return regret_loss(branch_logits, router_target)
        return policy_gradient_loss(branch_logits, thinking, router_target)

    def _get_train_sampler(self, dataset=None):
        self._sampler = super()._get_train_sampler(dataset)
        return self._sampler

    def _init_training_state(self, *args, **kwargs):
        epochs, steps = super()._init_training_state(*args, **kwargs)
        for _ in range(epochs if self._sampler is not None else 0):
            # The orders of the epochs are drawn one after another, so a resumed run draws those of the past ones.
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
    """A model that adds to each call, on consecutive rows of a batch, what belongs to those rows."""

    def __init__(self, model, rows: dict[str, torch.Tensor]):
        self.model, self.rows, self.done = model, rows, 0

    def __call__(self, input_ids, **inputs):
        rows = slice(self.done, self.done + input_ids.shape[0])
        self.done = rows.stop
        if "pixel_values" in inputs and not len(inputs["pixel_values"]):
            # These rows of the batch have no images, and the vision tower does not accept zero.
            del inputs["pixel_values"], inputs["image_grid_thw"]
        return self.model(input_ids=input_ids, **{name: v[rows] for name, v in self.rows.items()}, **inputs)
