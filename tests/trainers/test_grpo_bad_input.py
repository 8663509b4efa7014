"""Wrong input is refused before the first step, with a name, the value, the reason and what to do."""

import functools

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from trl import GRPOConfig
from trl.import_utils import is_vllm_available

from hf_metis_home.trainers import MetisHomeGRPOTrainer
from tests.fixtures_text import tiny_dense

from .grpo_common import make_dense, make_grpo, make_hybrid, make_prompts, parity


CONFIGS = [
    ({"rollout_branch": "left"}, "`rollout_branch` is 'left', but must be one of"),
    ({"trainable": "experts"}, "`trainable` is 'experts', but must be one of"),
    ({"advantage_group": "batch"}, "`advantage_group` is 'batch', but must be one of"),
    ({"router_objective": "ppo"}, "`router_objective` is 'ppo', but must be one of"),
    ({"rollout_branch": "x", "trainable": "y"}, "(?s)`rollout_branch` is 'x'.*`trainable` is 'y'"),
    ({"rollout_branch": "thinking", "trainable": "non_thinking"}, "`trainable='non_thinking'` .* leaves nothing to"),
    (
        {"rollout_branch": "both", "trainable": "router"},
        "`trainable='router'` with `rollout_branch='both'` leaves noth",
    ),
    ({"trainable": "thinking"}, "`trainable='thinking'` with `rollout_branch=None` leaves nothing to train"),
    ({"trainable": "branches"}, "Leave `trainable` unset, or choose the `rollout_branch` that trains it"),
    ({"rollout_branch": "both", "num_generations": 3, "per_device_train_batch_size": 3}, "`num_generations` is 3, but"),
    (
        {"rollout_branch": "router", "num_generations_eval": 1},
        "`num_generations_eval` is 1, but must be even, half",
    ),
    ({"rollout_branch": "thinking", "advantage_group": "branch"}, "needs answers of both branches: set"),
    (
        {"rollout_branch": "both", "advantage_group": "branch", "num_generations": 2},
        "`num_generations` is 2, but .* at least 4",
    ),
    (
        {"rollout_branch": "both", "advantage_group": "branch", "multi_objective_aggregation": "normalize_then_sum"},
        "`advantage_group='branch'` needs `multi_objective_aggregation='sum_then_normalize'`",
    ),
    ({"router_aux_loss_coef": 0.1}, "Use `router_loss_coef`"),
    ({"rollout_branch": "both", "token_cost": 0.1}, "`token_cost` is 0.1, but only the router pays it"),
    ({"rollout_branch": "router", "token_cost": -1.0}, "`token_cost` is -1.0, but must not be negative"),
    ({"router_loss_coef": -1.0}, "`router_loss_coef` is -1.0, but must not be negative"),
    ({"dynamic_sampling_rounds": -1}, "`dynamic_sampling_rounds` is -1, but must not be negative"),
    ({"router_learning_rate": 0.0}, "`router_learning_rate` is 0.0, but must be positive, or None"),
    (
        {"branch_learning_rate": -1.0, "router_loss_coef": -2.0},
        "(?s)`router_loss_coef` is -2.*`branch_learning_rate` is",
    ),
]
OFF_POLICY = [
    {"num_iterations": 2}, {"steps_per_generation": 2},
    {"steps_per_generation": 2, "gradient_accumulation_steps": 3, "per_device_train_batch_size": 4},
]  # fmt: skip


@pytest.mark.parametrize(("options", "message"), CONFIGS)
def test_configuration(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        make_grpo(tmp_path, **options)


@pytest.mark.parametrize("options", OFF_POLICY)
def test_policy_gradient_off_policy(tmp_path, options):
    with pytest.raises(
        ValueError, match="`router_objective='policy_gradient'` learns .* just drawn, but .*or use 'regret'"
    ):
        make_grpo(tmp_path, rollout_branch="router", router_objective="policy_gradient", **options)
    make_grpo(tmp_path, rollout_branch="router", router_objective="regret", **options)


def test_policy_gradient_on_policy(tmp_path):
    # Rollouts that are used up within one step of the optimizer are on policy, also when there are several of them.
    options = {"steps_per_generation": 2, "gradient_accumulation_steps": 4, "per_device_train_batch_size": 4}
    make_grpo(tmp_path, rollout_branch="router", router_objective="policy_gradient", **options)


@pytest.mark.parametrize("as_folder", [False, True])
@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (
            make_hybrid,
            {},
            "`rollout_branch` is not given, but the model has two branches. Train one",
        ),
        (
            make_dense,
            {"rollout_branch": "both"},
            "`rollout_branch` is 'both', but the model is dense.* `metis-home up",
        ),
        (make_hybrid, {"rollout_branch": "both", "use_vllm": True}, "`use_vllm=True` cannot choose a branch per compl"),
    ],
)
def test_model_and_options_that_do_not_fit(tmp_path, make, options, message, as_folder):
    model, processor = make()
    if as_folder:
        model.save_pretrained(tmp_path / "model")
        model = str(tmp_path / "model")
    with pytest.raises(ValueError, match=message):
        make_grpo(tmp_path, (model, processor), **options)


VLLM = {"use_vllm": True, "rollout_branch": "thinking"}


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ({}, {"rollout_branch": "router"}, "`use_vllm=True` cannot choose a branch per completion, which .*'router'"),
        ({}, {}, "`vllm_dense_model` is not given. .* `metis-home export --format dense --branch thinking`"),
        ({}, {"vllm_dense_model": "hybrid"}, "`vllm_dense_model` is '.*hybrid', of model_type 'metis_home', not"),
        ({}, {"vllm_dense_model": "other"}, "'.*other', with `num_hidden_layers` 3, but the model's is 2."),
        ({}, {"vllm_dense_model": "dense", "vllm_mode": "server"}, "has no effect with `vllm_mode='server'`: the serv"),
        ({}, {"vllm_dense_model": "dense", "use_vllm": False}, "has no effect without `use_vllm=True` and a"),
        (
            {"branch_kind": "lora", "branch_rank": 2}, {"vllm_dense_model": "dense", "peft": True},
            "`use_vllm=True` with PEFT adapters needs `branch_kind='ffn'`: TRL would take",
        ),
        (
            {}, {"vllm_dense_model": "dense", "model_init_kwargs": {"quantization_config": {"load_in_4bit": True}}},
            "but the model is quantised. Load it unquantised, or set `use_vllm=False`",
        ),
    ],
)  # fmt: skip
def test_rollouts_by_vllm_that_cannot_be(tmp_path, given, options, message):
    model, processor = make_hybrid(**given)
    model.save_pretrained(tmp_path / "hybrid")
    make_dense()[0].save_pretrained(tmp_path / "dense")
    tiny_dense(processor, num_layers=3).save_pretrained(tmp_path / "other")
    options = {**VLLM, **options}
    if "vllm_dense_model" in options:
        options["vllm_dense_model"] = str(tmp_path / options["vllm_dense_model"])
    adapter = {"peft_config": LoraConfig(target_modules=["q_proj"])} if options.pop("peft", False) else {}
    with pytest.raises(ValueError, match=message):
        make_grpo(tmp_path, (str(tmp_path / "hybrid"), processor), trainer_options=adapter, **options)


@pytest.mark.skipif(is_vllm_available(), reason="tests the error where vLLM is missing; here it is installed")
def test_without_vllm(tmp_path):
    make_dense()[0].save_pretrained(tmp_path / "dense")
    for options in ({"use_vllm": True}, {**VLLM, "vllm_dense_model": str(tmp_path / "dense")}):
        with pytest.raises(ImportError, match="vLLM is not installed. .*trl.vllm"):
            make_grpo(tmp_path, **options)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ({"tools": [len]}, {"rollout_branch": "both"}, "`tools` is given with `rollout_branch='both'`, but bran"),
        ({"rollout_func": print}, {"rollout_branch": "router"}, "`rollout_func` is given with `rollout_branch=.router"),
        ({"environment_factory": dict}, {"rollout_branch": "thinking"}, "`environment_factory` is given with"),
        ({"tools": [len]}, {"dynamic_sampling_rounds": 3}, "`tools` is given with `dynamic_sampling_rounds=3`, which"),
        (
            {"peft_config": LoraConfig(target_modules=["q_proj"])}, {"rollout_branch": "both", "trainable": "all"},
            "`trainable` is 'all', but with a `peft_config` its `target_modules` decide. Leave",
        ),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit(tmp_path, given, options, message):
    with pytest.raises(ValueError, match=message):
        make_grpo(tmp_path, trainer_options=given, **options)


def test_a_plain_grpo_config(tmp_path):
    model, processor = make_dense()
    with pytest.raises(ValueError, match="`args` is a GRPOConfig, but must be a MetisHomeGRPOConfig"):
        MetisHomeGRPOTrainer(
            model,
            parity,
            GRPOConfig(str(tmp_path), use_cpu=True, bf16=False),
            make_prompts(),
            processing_class=processor,
        )


def reads_gold(completions, gold, **kwargs):
    return [0.0] * len(completions)


@pytest.mark.parametrize("where", ["training dataset", "evaluation dataset", "evaluation dataset 'hard'"])
@pytest.mark.parametrize(
    ("change", "rewards", "message"),
    [
        (lambda rows: rows.remove_columns("prompt"), [parity], "has no column 'prompt'; it has .'images', 'solution'."),
        (
            lambda rows: rows,
            [reads_gold],
            "The reward 'reads_gold' reads 'gold', but the {} has no such column; it has",
        ),
        (lambda rows: rows, [functools.partial(reads_gold)], "The reward 'reads_gold' reads 'gold'"),
        (lambda rows: rows.select([]), [parity], "The {} is empty. Check the filters"),
        (list, [parity], "The {} is a list, not a `Dataset`"),
    ],
)
def test_datasets(tmp_path, where, change, rewards, message):
    good = make_prompts()
    if rewards != [parity] and where != "training dataset":
        good = good.add_column("gold", ["1"] * 8)
    datasets = {"dataset": good, "eval_dataset": good}
    bad = change(make_prompts())
    datasets["dataset" if where == "training dataset" else "eval_dataset"] = {"hard": bad} if "hard" in where else bad
    with pytest.raises(ValueError, match=message.format(where)):
        make_grpo(tmp_path, rewards=rewards, **datasets)


def test_a_dataset_that_is_too_small(tmp_path):
    with pytest.raises(ValueError, match=r"has 3 prompts, but one generation batch takes 4 .*=16.*=4.*Add prompts, or"):
        make_grpo(tmp_path, dataset=make_prompts(3), per_device_train_batch_size=16)
    make_grpo(tmp_path, dataset=make_prompts(4), per_device_train_batch_size=16)


def test_a_stream(tmp_path):
    streamed = make_prompts().to_iterable_dataset()
    with pytest.raises(ValueError, match="`dynamic_sampling_rounds` is 2, .* but it is streamed. Load it without"):
        make_grpo(tmp_path, dataset=streamed, dynamic_sampling_rounds=2)
    make_grpo(tmp_path, dataset=streamed).train()


def test_no_dataset_and_no_reward(tmp_path):
    model, processor = make_dense()
    arguments = {"args": make_grpo(tmp_path).args, "processing_class": processor}
    with pytest.raises(ValueError, match="`train_dataset` is required"):
        MetisHomeGRPOTrainer(model, parity, **arguments)
    with pytest.raises(ValueError, match="Pass `reward_funcs`"):
        MetisHomeGRPOTrainer(model, None, train_dataset=make_prompts(), **arguments)


def test_the_branch_column_is_there_for_two_branches_only(tmp_path):
    def reads_branch(completions, thinking, **kwargs):
        return [float(value) for value in thinking]

    with pytest.raises(
        ValueError, match="'reads_branch' reads 'thinking', but the training dataset has no such column"
    ):
        make_grpo(tmp_path, rewards=[reads_branch])
    make_grpo(tmp_path, rewards=[reads_branch], rollout_branch="both").train()


def reward_of(values):
    def strange(completions, **kwargs):
        return values(completions)

    return strange


async def later(completions, **kwargs):
    return [float("nan")] * len(completions)


class Callable:
    def __call__(self, completions, **kwargs):
        return [0.0, float("inf")] * (len(completions) // 2)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (reward_of(lambda rows: [0.0] * 3 + [float("nan")] * 5), "'strange' returned nan for completion 3: "),
        (
            reward_of(lambda rows: [float("-inf")] * 8),
            "'strange' returned -inf for completion 0: .*Return a number, or",
        ),
        (reward_of(lambda rows: ["good"] * 8), "'strange' returned 'good' for completion 0: "),
        (reward_of(lambda rows: [0.0] * 7), "'strange' returned 7 values for 8 completions, not a list"),
        (reward_of(lambda rows: 1.0), "'strange' returned 1.0 for 8 completions"),
        (reward_of(torch.zeros), "TypeError"),
        (later, "'later' returned nan for completion 0"),
        (Callable(), "'Callable' returned inf for completion 1"),
        (functools.partial(Callable()), "'Callable' returned inf for completion 1"),
        (reward_of(lambda rows: [None] * 8), r"Every reward \(strange\) returned None for completion 0 .*Add a reward"),
    ],
)
def test_rewards(tmp_path, reward, message):
    trainer = make_grpo(tmp_path, rewards=[reward])
    if message == "TypeError":  # a reward's own error stays its own
        with pytest.raises(TypeError):
            trainer.train()
        return
    with pytest.raises(ValueError, match=message):
        trainer.train()


def test_a_reward_that_does_not_always_apply(tmp_path):
    def sometimes(completions, **kwargs):
        return [None if row % 2 else float(row) for row in range(len(completions))]

    trainer = make_grpo(tmp_path, rewards=[sometimes, parity])
    trainer.train()
    assert trainer.state.log_history[0]["rewards/sometimes/mean"] == 3.0
    with pytest.raises(ValueError, match=r"\(sometimes\) returned None for completion 1"):
        make_grpo(tmp_path, rewards=[sometimes]).train()


def test_rows_that_are_not_a_dataset(tmp_path):
    with pytest.raises(ValueError, match=r"is a list, not a `Dataset`. Use `Dataset.from_list`"):
        make_grpo(tmp_path, dataset=list(make_prompts()))
    make_grpo(tmp_path, dataset=Dataset.from_list(list(make_prompts())))
