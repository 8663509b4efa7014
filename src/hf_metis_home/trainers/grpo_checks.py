"""Checks before a GRPO run starts, and of every reward."""

import functools
import inspect
import logging
import math

import torch
from datasets import Dataset, IterableDataset
from torch import nn
from trl.import_utils import is_vllm_available
from trl.trainer.utils import get_callable_name, is_async_callable

from ..conversion.checkpoint import read_config, resolve_folder
from ..modeling.configuration_metis_home import BRANCHES
from .grpo_config import MetisHomeGRPOConfig
from .mixin import config_of, named_datasets
from .parameter_groups import group_of


logger = logging.getLogger(__name__)

# What TRL itself passes to a reward function.
GIVEN = {"prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric", "environments"}


def check_options(args: MetisHomeGRPOConfig, kwargs: dict) -> None:
    if kwargs.get("peft_config") is not None and args.trainable is not None:
        raise ValueError(
            f"`trainable` is {args.trainable!r}, but with a `peft_config` its `target_modules` decide. Leave it unset."
        )
    for name in ("tools", "rollout_func", "environment_factory"):
        if kwargs.get(name) and args.rollout_branch is not None:
            raise ValueError(
                f"`{name}` is given with `rollout_branch={args.rollout_branch!r}`, but branches answer in one turn. "
                "Leave it out, or train a dense model."
            )
        if kwargs.get(name) and args.dynamic_sampling_rounds:
            raise ValueError(
                f"`{name}` is given with `dynamic_sampling_rounds={args.dynamic_sampling_rounds}`, which only keeps "
                "answers, not whole conversations. Leave it out, or set the rounds to 0."
            )


def check_model(model, args: MetisHomeGRPOConfig, two_branch: bool) -> None:
    if two_branch and args.rollout_branch is None:
        raise ValueError(
            "`rollout_branch` is not given, but the model has two branches. Train one ('thinking' or 'non_thinking'), "
            "both on the same prompts ('both'), or the router ('router')."
        )
    if not two_branch and args.rollout_branch is not None:
        raise ValueError(
            f"`rollout_branch` is {args.rollout_branch!r}, but the model is dense. Run `metis-home upcycle` or drop it."
        )


def check_vllm(model, args: MetisHomeGRPOConfig, two_branch: bool, adapted: bool) -> None:
    """Raise an error if vLLM cannot roll out. `adapted`: with PEFT adapters. Loads no weights."""
    if not args.use_vllm:
        return
    if two_branch and args.rollout_branch not in BRANCHES:
        raise ValueError(
            f"`use_vllm=True` cannot choose a branch per completion, which `rollout_branch={args.rollout_branch!r}` "
            "needs. Set `use_vllm=False`, or roll out one branch ('thinking' or 'non_thinking')."
        )
    if two_branch:
        _check_branch_on_vllm(config_of(model, args), args, adapted)
    if not is_vllm_available():
        raise ImportError("vLLM is not installed. Run `pip install 'trl[vllm]'`, or set `use_vllm=False`.")


def _check_branch_on_vllm(config, args: MetisHomeGRPOConfig, adapted: bool) -> None:
    if adapted and config.branch_kind == "lora":
        raise ValueError(
            "`use_vllm=True` with PEFT adapters needs `branch_kind='ffn'`: TRL would take 'lora' branches for adapters "
            "and leave them out. Train the branch without adapters, or set `use_vllm=False`."
        )
    given = (args.model_init_kwargs or {}).get("quantization_config")
    if given is not None or getattr(config, "quantization_config", None) is not None:
        raise ValueError("`use_vllm=True`, but the model is quantised. Load it unquantised, or set `use_vllm=False`.")
    command = f"metis-home export --format dense --branch {args.rollout_branch}"
    if args.vllm_mode == "colocate" and args.vllm_dense_model is None:
        raise ValueError(f"`vllm_dense_model` is not given. vLLM needs a dense export of the branch: run `{command}`.")
    if args.vllm_dense_model is None:
        return
    if args.vllm_mode != "colocate":
        raise ValueError(
            f"`vllm_dense_model` has no effect with `vllm_mode={args.vllm_mode!r}`: the server has its model. Start it "
            f"on what `{command}` writes, and leave `vllm_dense_model` unset."
        )
    dense = read_config(resolve_folder(args.vllm_dense_model, "vllm_dense_model"), "vllm_dense_model")
    for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"):
        found, needed = getattr(dense.text_config, name), getattr(config.text_config, name)
        if found != needed:
            raise ValueError(
                f"`vllm_dense_model` is {str(args.vllm_dense_model)!r}, with `{name}` {found}, but the model's is "
                f"{needed}. Write it with `{command}`."
            )


def warn_of_frozen_adapters(model: nn.Module, args: MetisHomeGRPOConfig) -> None:
    """Log which adapters will not train. Called before they are frozen."""
    frozen = [n for n, p in model.named_parameters() if p.requires_grad and group_of(n) not in args.groups]
    if frozen:
        groups = sorted({group_of(name) for name in frozen})
        logger.warning(
            "%d parameters of adapters (of %s; the first is %s) stay frozen: `rollout_branch=%r` only trains %s. Leave "
            "them out of `target_modules`, or choose a `rollout_branch` that trains them ('both' for shared parts).",
            len(frozen), " and ".join(groups), frozen[0], args.rollout_branch, " and ".join(sorted(args.groups)),
        )  # fmt: skip


def check_prompts(train_dataset, eval_dataset, reward_funcs, args: MetisHomeGRPOConfig, two_branch: bool) -> None:
    """Raise an error for datasets with missing columns or too few prompts."""
    for where, dataset in named_datasets(train_dataset, eval_dataset).items():
        if not isinstance(dataset, (Dataset, IterableDataset)):
            raise ValueError(f"The {where} is a {type(dataset).__name__}, not a `Dataset`. Use `Dataset.from_list`.")
        if (columns := dataset.column_names) is None:  # a stream's are unknown before it is read
            continue
        if "prompt" not in columns:
            raise ValueError(f"The {where} has no column 'prompt'; it has {columns}. Add it, with chat messages.")
        for function in reward_funcs:
            if missing := sorted(_columns_of(function) - set(columns) - ({"thinking"} if two_branch else set())):
                raise ValueError(
                    f"The reward {get_callable_name(function)!r} reads {', '.join(map(repr, missing))}, but the {where}"
                    f" has no such column; it has {columns}. Add it, or leave the reward out."
                )
        if isinstance(dataset, Dataset) and len(dataset) == 0:
            raise ValueError(f"The {where} is empty. Check the filters that made it.")
    if isinstance(train_dataset, Dataset):
        needed = args.generation_batch_size // args.num_generations
        if len(train_dataset) < needed:
            raise ValueError(
                f"The training dataset has {len(train_dataset)} prompts, but one generation batch takes {needed} "
                f"(`generation_batch_size={args.generation_batch_size}` / `num_generations={args.num_generations}`), "
                "so no step would be taken. Add prompts, or lower the batch size."
            )
    elif train_dataset is not None and args.dynamic_sampling_rounds:
        raise ValueError(
            f"`dynamic_sampling_rounds` is {args.dynamic_sampling_rounds}, which draws from the whole training dataset,"
            " but it is streamed. Load it without streaming, or set the rounds to 0."
        )


def _columns_of(function) -> set[str]:
    """The columns that a reward function requires."""
    if isinstance(function, (str, nn.Module)) or not callable(function):
        return set()
    parameters = inspect.signature(function).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    required = {p.name for p in parameters if p.kind in kinds and p.default is inspect.Parameter.empty}
    return (required | set(getattr(function, "needs", ()))) - GIVEN


def checked_reward(function):
    """
    The reward function, but raising an error that names it for values that would silently spoil a run.

    None is allowed: TRL leaves the function out for that completion, but it would treat NaN the same way.
    """
    if isinstance(function, (str, nn.Module)) or not callable(function):
        return function
    name = get_callable_name(function)

    def check(rewards, completions):
        if not isinstance(rewards, (list, tuple)) or len(rewards) != len(completions):
            found = f"{len(rewards)} values" if isinstance(rewards, (list, tuple)) else repr(rewards)
            raise ValueError(
                f"The reward {name!r} returned {found} for {len(completions)} completions, not a list with one each."
            )
        for row, reward in enumerate(rewards):
            if reward is not None and not _is_finite(reward):
                raise ValueError(
                    f"The reward {name!r} returned {reward!r} for completion {row}: {completions[row]!r}. Return a "
                    "number, or None where the reward does not apply."
                )
        return rewards

    if is_async_callable(function):

        @functools.wraps(function)
        async def checked(*args, completions, **kwargs):
            return check(await function(*args, completions=completions, **kwargs), completions)

    else:

        @functools.wraps(function)
        def checked(*args, completions, **kwargs):
            return check(function(*args, completions=completions, **kwargs), completions)

    checked.__name__ = name
    return checked


def _is_finite(reward) -> bool:
    try:
        return math.isfinite(reward)
    except TypeError:
        return False


def check_rewards(rewards: torch.Tensor, names: list[str]) -> None:
    """Raise an error for a completion without a reward. `rewards` `(N, functions)` of all ranks, so all ranks fail."""
    nothing = rewards.isnan().all(dim=1)
    if nothing.any():
        raise ValueError(
            f"Every reward ({', '.join(names)}) returned None for completion {int(nothing.nonzero()[0])} of the "
            "generation batch. Add a reward that applies to all rows, or drop those rows."
        )
