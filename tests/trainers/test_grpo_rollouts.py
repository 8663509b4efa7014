"""Every completion comes from the branch that is said to have given it, and rewards are told which."""

import pytest
import torch
from datasets import Dataset

from .common import LOW_RANK, make_hybrid, parameters
from .grpo_common import first_batch, inputs_of, likes_thinking, make_dense, make_grpo, make_prompts, rows_of


NEARLY_GREEDY = {"temperature": 1e-5, "max_completion_length": 8}


def greedy(trainer, prompt, vision, **choice) -> list[int]:
    """A completion of one prompt alone, up to and with its end."""
    model = trainer.plain_model.eval()
    suppressed = trainer.generation_config.suppress_tokens
    inputs = inputs_of(model, prompt, vision)
    output = model.generate(**inputs, **choice, do_sample=False, suppress_tokens=suppressed, max_new_tokens=8)
    model.train()
    return output[0, prompt.shape[1] :].tolist()


@pytest.mark.parametrize("kind", [{}, {"router_layer": 0}, LOW_RANK])
@pytest.mark.parametrize("branch", ["thinking", "non_thinking", "both", "router"])
def test_completions_come_from_the_branch_that_is_named(tmp_path, branch, kind):
    model = make_hybrid(**kind)
    with torch.no_grad():
        for name, parameter in model[0].named_parameters():
            if any(f".{branch}." in name for branch in ("mlp.thinking", "mlp.non_thinking")):
                parameter.mul_(20 if ".lora_B." in name else 2)  # so that the branches answer unlike each other
    trainer = make_grpo(tmp_path, model, per_device_train_batch_size=12, rollout_branch=branch, **NEARLY_GREEDY)
    batch = first_batch(trainer)
    other_would_differ = 0
    for thinking, (prompt, completion, vision) in zip(batch["thinking"].tolist(), rows_of(batch), strict=True):
        assert completion[0].tolist() == greedy(trainer, prompt, vision, thinking=thinking)
        other_would_differ += completion[0].tolist() != greedy(trainer, prompt, vision, thinking=not thinking)
    assert other_would_differ > 6
    shares = {"thinking": 12, "non_thinking": 0}
    assert batch["thinking"].sum() == shares.get(branch, 6)


def test_completions_of_a_dense_model(tmp_path):
    trainer = make_grpo(tmp_path, per_device_train_batch_size=12, **NEARLY_GREEDY)
    batch = first_batch(trainer)
    assert "thinking" not in batch
    for prompt, completion, vision in rows_of(batch):
        assert completion[0].tolist() == greedy(trainer, prompt, vision)


def test_rewards_are_told_the_branch(tmp_path):
    seen = []

    def reward(completions, thinking, prompts, **kwargs):
        seen.extend(zip([prompt[0]["content"] for prompt in prompts], thinking, strict=True))
        return [float(value) for value in thinking]

    trainer = make_grpo(tmp_path, None, make_prompts(3, images=(0,)), [reward], rollout_branch="both")
    batch = first_batch(trainer)
    assert [value for _, value in seen] == [True, False] * 4 and {type(value) for _, value in seen} == {bool}
    assert seen[0][0] == seen[3][0] != seen[4][0] == seen[7][0]
    # What a row says of itself is still true after TRL has shuffled the rows.
    assert ((batch["advantages"] > 0) == batch["thinking"]).all() and batch["thinking"].sum() == 4


def test_tokens_that_stand_for_something_else_are_not_sampled(tmp_path):
    model, processor = make_dense()
    tokenizer = processor.tokenizer
    own = tokenizer.convert_tokens_to_ids("yes")
    options = {"temperature": 1e6, "max_completion_length": 100, "per_device_train_batch_size": 32}
    trainer = make_grpo(
        tmp_path, (model, processor), generation_kwargs={"suppress_tokens": [own]}, num_generations=32, **options
    )
    batch = first_batch(trainer)
    found = set(batch["completion_ids"][batch["completion_mask"].bool()].tolist())
    names = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|endoftext|>")
    suppressed = {*tokenizer.convert_tokens_to_ids(names), own}
    assert tokenizer.pad_token_id in suppressed
    assert found == set(range(len(tokenizer))) - suppressed
    assert tokenizer.eos_token_id in found


def prompts_with(images: str) -> Dataset:
    rows = list(make_prompts(6, images=(0,) if images == "none at all" else (1, 0, 2)))
    if images == "all missing":
        rows = [{**row, "images": None} for row in rows]
    elif images == "missing":
        rows = [{**row, "images": row["images"] or None} for row in rows]
    elif images == "one":
        rows = [{**row, "image": row["images"][0] if row["images"] else None} for row in rows]
        rows = [{name: row[name] for name in ("prompt", "solution", "image")} for row in rows]
    elif images == "no column":
        rows = [{name: row[name] for name in ("prompt", "solution")} for row in rows]
    return Dataset.from_list(rows)


@pytest.mark.parametrize("rounds", [0, 2])
@pytest.mark.parametrize(
    ("images", "numbers"),
    [
        ("mixed", {0, 1, 2}), ("missing", {0, 1, 2}), ("one", {0, 1}), ("none at all", {0}), ("no column", {0}),
        ("all missing", {0}),
    ],
)  # fmt: skip
def test_prompts_with_and_without_images(tmp_path, images, numbers, rounds):
    # Whole batches, and batches of single rows, of which some have no image among others that do.
    options = {"rollout_branch": "both", "dynamic_sampling_rounds": rounds}
    trainer = make_grpo(
        tmp_path, dataset=prompts_with(images), per_device_train_batch_size=24, **NEARLY_GREEDY, **options
    )
    batch = first_batch(trainer)
    assert set(batch.get("num_images", [0])) == numbers or rounds  # which draw other prompts
    tokens = (batch["prompt_ids"] == trainer.model.config.image_token_id).sum(dim=1).tolist()
    assert tokens == [4 * number for number in batch.get("num_images", [0] * 24)]
    for thinking, (prompt, completion, vision) in zip(batch["thinking"].tolist(), rows_of(batch), strict=True):
        assert completion[0].tolist() == greedy(trainer, prompt, vision, thinking=thinking)

    options |= {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 24, "max_steps": 2}
    trainer = make_grpo(tmp_path, dataset=prompts_with(images), **options)
    before = parameters(trainer.model)
    trainer.train()
    assert any(not tensor.equal(before[name]) for name, tensor in parameters(trainer.model).items())


def test_evaluation(tmp_path):
    # 5 prompts of 2 completions, 8 at a time: the last batch is smaller.
    datasets = {"mixed": make_prompts(5), "text": make_prompts(4, images=(0,))}
    options = {"rollout_branch": "both", "eval_strategy": "steps", "eval_steps": 1, "num_generations_eval": 2}
    trainer = make_grpo(tmp_path, rewards=[likes_thinking], eval_dataset=datasets, max_steps=2, **options)
    trainer.train()
    evaluated = [logs for logs in trainer.state.log_history if "eval_reward" in logs]
    assert len(evaluated) == 4
    for logs in evaluated:
        assert {"eval_mixed_loss"} <= logs.keys() or {"eval_text_loss"} <= logs.keys()
        assert (logs["eval_reward_thinking"], logs["eval_reward_non_thinking"], logs["eval_reward"]) == (1, 0, 0.5)
        assert {"eval_length_thinking", "eval_length_non_thinking", "eval_entropy"} <= logs.keys()
    assert [logs["reward"] for logs in trainer.state.log_history if "reward" in logs] == [0.5, 0.5]
