"""Wrong input is refused before the first step, with a name, the value, the reason and what to do."""

import pytest
from transformers import AutoConfig
from trl import SFTConfig, SFTTrainer

from hf_metis_home.trainers import MetisHomeSFTConfig, MetisHomeSFTTrainer
from hf_metis_home.trainers.mixin import config_of
from tests.fixtures_text import tiny_word_level

from .common import make_config, make_dataset, make_hybrid, make_rows, make_trainer


CONFIGS = [
    ({"trainable": "experts"}, "`trainable` is 'experts', but must be one of"),
    ({"trainable": "router", "train_router": False}, "leaves nothing to train"),
    ({"router_loss_coef": -1.0}, "`router_loss_coef` is -1.0, but must not be negative"),
    ({"router_learning_rate": 0.0}, "`router_learning_rate` is 0.0, but must be positive, or None"),
    ({"completion_only_loss": False}, "`completion_only_loss=False` would train on prompts"),
    ({"packing": True}, "`packing` and `padding_free` put several queries into one row"),
    ({"padding_free": True}, "`packing` and `padding_free` put several queries into one row"),
    ({"assistant_only_loss": True}, "`assistant_only_loss` is for rows without a separate prompt"),
    ({"label_smoothing_factor": 0.1}, "`label_smoothing_factor` makes TRL drop the router's loss"),
    ({"router_aux_loss_coef": 0.01}, "Use `router_loss_coef`"),
]


@pytest.mark.parametrize(("options", "message"), CONFIGS, ids=[next(iter(options)) for options, _ in CONFIGS])
def test_configuration(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        make_config(tmp_path, **options)


def test_all_errors_of_a_configuration_at_once(tmp_path):
    with pytest.raises(ValueError, match="(?s)`trainable` is 'x'.*`router_loss_coef` is -1.0"):
        make_config(tmp_path, trainable="x", router_loss_coef=-1.0)


@pytest.mark.parametrize("as_folder", [False, True])
def test_a_dense_model(tmp_path, as_folder):
    model, processor = tiny_word_level()
    if as_folder:
        model.save_pretrained(tmp_path / "dense")
        processor.save_pretrained(tmp_path / "dense")
        model = str(tmp_path / "dense")
    with pytest.raises(ValueError, match="`model` is a 'qwen2_5_vl' model without branches .*`metis-home upcycle`"):
        make_trainer(tmp_path, model=(model, processor))


def test_a_model_is_looked_for_where_it_will_be_loaded_from(tmp_path):
    model, processor = tiny_word_level()
    model.save_pretrained(tmp_path / "repository" / "dense")
    options = {"model_init_kwargs": {"subfolder": "dense", "attn_implementation": "sdpa"}}
    with pytest.raises(ValueError, match="`model` is a 'qwen2_5_vl' model without branches"):
        make_trainer(tmp_path, model=(str(tmp_path / "repository"), processor), **options)


def test_the_hub_is_asked_for_the_model_that_will_be_loaded(tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(AutoConfig, "from_pretrained", lambda name, **options: asked.update(options))
    where = {"revision": "v1", "token": "hf_secret", "cache_dir": "cache"}
    config_of("organisation/model", make_config(tmp_path, model_init_kwargs={**where, "dtype": "bfloat16"}))
    assert asked == where


ROWS = [
    ({"thinking": None}, "column 'thinking': None is not True or False"),
    ({"images": []}, "column 'images': 0 images for 1 image places"),
    ({"completion": [{"role": "assistant", "content": " "}]}, "column 'completion': empty, so there is nothing"),
    ({"completion": [{"role": "assistant", "content": "yes"}]}, "is not of the form <think>"),
    ({"completion": [{"role": "assistant", "content": "<think>7</think><answer>7</answer>"}]}, "has a thought, but"),
]


@pytest.mark.parametrize("where", ["training dataset", "evaluation dataset"])
@pytest.mark.parametrize(("change", "message"), ROWS)
def test_rows(tmp_path, where, change, message):
    rows = make_rows((True, False, False), images=(1,))
    for each in rows:
        each["prompt"][0]["content"] = [
            {"type": "image", "text": None}, {"type": "text", "text": each["prompt"][0]["content"]}
        ]  # fmt: skip
    bad = make_dataset_of([*rows[:1], {**rows[1], **change}, *rows[2:]])
    datasets = {"dataset": make_dataset_of(rows), "eval_dataset": make_dataset_of(rows)}
    datasets["dataset" if where == "training dataset" else "eval_dataset"] = bad
    make_trainer(tmp_path, make_dataset_of(rows), eval_dataset=make_dataset_of(rows))
    with pytest.raises(ValueError, match=f"Row 1 of the {where}.*{message}"):
        make_trainer(tmp_path, **datasets)


def make_dataset_of(rows):
    from datasets import Dataset

    return Dataset.from_list(rows)


def test_a_missing_column(tmp_path):
    with pytest.raises(ValueError, match="The training dataset has no column 'thinking'; it has"):
        make_trainer(tmp_path, make_dataset().remove_columns("thinking"))


def test_rows_given_to_evaluate(tmp_path):
    trainer = make_trainer(tmp_path)
    with pytest.raises(ValueError, match="The evaluation dataset has no column 'thinking'"):
        trainer.evaluate(make_dataset().remove_columns("thinking"))


def test_named_evaluation_dataset(tmp_path):
    datasets = {"good": make_dataset(), "bad": make_dataset().remove_columns("images")}
    with pytest.raises(ValueError, match="The evaluation dataset 'bad' has no column 'images'"):
        make_trainer(tmp_path, eval_dataset=datasets)


@pytest.mark.parametrize(("trainable", "mode"), [("thinking", False), ("non_thinking", True)])
def test_no_row_for_the_branch(tmp_path, trainable, mode):
    with pytest.raises(
        ValueError, match=f"`trainable` is '{trainable}', but no training row has `thinking={not mode}`"
    ):
        make_trainer(tmp_path, make_dataset((mode,) * 4), trainable=trainable)


def test_a_row_that_is_too_long(tmp_path):
    trainer = make_trainer(tmp_path, max_length=10)
    with pytest.raises(ValueError, match="tokens, but `max_length` is 10. Raise `max_length`"):
        trainer.train()


def test_a_loss_function_of_ones_own(tmp_path):
    with pytest.raises(ValueError, match="`compute_loss_func` makes TRL drop the router's loss"):
        make_trainer(tmp_path, trainer_options={"compute_loss_func": lambda *args, **kwargs: None})


def test_a_plain_sft_config(tmp_path):
    model, processor = make_hybrid()
    with pytest.raises((TypeError, ValueError), match="MetisHomeSFTConfig"):
        MetisHomeSFTTrainer(
            model, args=SFTConfig(str(tmp_path), use_cpu=True, bf16=False), train_dataset=make_dataset(),
            processing_class=processor,
        )  # fmt: skip


def test_plain_trl_trainer_refuses_to_route_on_answers(tmp_path):
    model, processor = make_hybrid()
    options = {"use_cpu": True, "bf16": False, "max_steps": 1, "max_length": None, "report_to": "none"}
    trainer = SFTTrainer(
        model,
        args=SFTConfig(str(tmp_path), save_strategy="no", **options),
        train_dataset=make_dataset().remove_columns("thinking"),
        processing_class=processor,
    )
    with pytest.raises(ValueError, match="`thinking` is not given while gradients are on.*`prompt_mask`"):
        trainer.train()


def test_defaults_are_the_papers_or_said_to_be_ours(tmp_path):
    config = MetisHomeSFTConfig(str(tmp_path), use_cpu=True, bf16=False)
    assert (config.router_loss_coef, config.trainable, config.max_length) == (1.0, "all", None)
