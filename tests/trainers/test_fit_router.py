"""The router alone: it learns what rows say, everything else stays, and the figures are those of its decisions."""

import sys
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from PIL import Image

from hf_metis_home.data import prompt_inputs
from hf_metis_home.trainers import router_training
from hf_metis_home.trainers.fit_router import fit_router
from hf_metis_home.trainers.router_preferences import (
    Preferences,
    preferences_from_labels,
    preferences_from_outcomes,
    split_questions,
)
from hf_metis_home.trainers.router_report import best_threshold, calibration_scale, compare_policies, score_router
from tests.modeling.tiny import KINDS

from .common import make_hybrid


HARD = ("calculate the sum of the squares", "calculate the chain +*-")
EASY = ("what color is the shape?", "is there a circle in the image?")


def query(index: int, hard: bool) -> dict:
    text = (HARD if hard else EASY)[index % 2]
    images = [Image.new("RGB", (56, 56), (index * 37 % 256, 80, 60))] * (index % 3 > 0)
    return {"prompt": [{"role": "user", "content": text}], "images": images}


def labelled(count: int = 40, hard=True, easy=False) -> list[dict]:
    return [{**query(index, index % 4 < 2), "thinking": hard if index % 4 < 2 else easy} for index in range(count)]


ROWS = labelled()
# With the queries, on tokens, and without, on one vector per prompt.
BOTH_WAYS_OF_TRAINING = pytest.mark.parametrize("pooling", ["attention", "modality_mean"])


def outcome(identity, correct, tokens, sample=0, task="test") -> dict:
    (correct_thinking, correct_non_thinking), (tokens_thinking, tokens_non_thinking) = correct, tokens
    return {
        "task": task, "id": str(identity), "sample": sample,
        "correct_thinking": correct_thinking, "correct_non_thinking": correct_non_thinking,
        "tokens_thinking": tokens_thinking, "tokens_non_thinking": tokens_non_thinking,
    }  # fmt: skip


def with_task(rows) -> list[dict]:
    return [{**row, "task": "test"} for row in rows]


def probabilities(model, processor, rows=ROWS) -> torch.Tensor:
    return model.route(**prompt_inputs(processor, rows)).thinking_probability


def is_hard(rows=ROWS) -> torch.Tensor:
    return torch.tensor([index % 4 < 2 for index in range(len(rows))])


def router_of(model) -> dict:
    return {name: tensor.clone() for name, tensor in model.model.language_model.router.state_dict().items()}


def saturate(model, processor, rows) -> None:
    """Make the router certain of the branch that each row does not want."""
    fit_router(model, processor, [{**row, "thinking": not row["thinking"]} for row in rows])
    score = model.model.language_model.router.score
    for parameter in (score.weight, score.bias):
        parameter.data *= 25


@pytest.mark.parametrize(
    "options", [*KINDS.values(), *({"router_pooling": pooling} for pooling in ("mean", "modality_mean"))], ids=str
)
def test_labels_are_learned_and_nothing_else_moves(options):
    model, processor = make_hybrid(**options)
    model.model.visual.requires_grad_(False)
    model.config.calibration = {"threshold": 0.5}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    counts, state = [], torch.random.get_rng_state()
    fit = fit_router(model, processor, ROWS, progress=counts.append)
    assert torch.equal(torch.random.get_rng_state(), state) and sum(counts) == len(ROWS)
    found = probabilities(model, processor)
    assert torch.equal(found > 0.5, is_hard()) and (found - 0.5).abs().min() > 0.1
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    router = "model.language_model.router."
    names = ["up_proj.weight", "up_proj.bias", "score.weight", "score.bias"]
    names += ["query.weight"] * ("router_pooling" not in options)  # learned queries are the default
    assert changed == {router + name for name in names}
    assert flags == {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.config.calibration is None  # of a threshold for the router that was
    assert fit.calibrated.accuracy == 1.0 and fit.calibrated.loss < fit.before.loss and fit.step > 0
    assert (fit.fitted_rows, fit.held_out_rows, fit.skipped_rows) == (32, 8, 0)


def test_figures_are_those_of_the_model():
    model, processor = make_hybrid()
    model.config.thinking_threshold = 0.95
    _, held_out = split_questions(preferences_from_labels(ROWS), 0.2, 0)
    rows = [ROWS[number] for number in held_out.rows]
    before = model.route(**prompt_inputs(processor, rows)).logits
    fit = fit_router(model, processor, Dataset.from_list(ROWS))  # the same rows as a Dataset
    after = model.route(**prompt_inputs(processor, rows)).logits
    for found, logits in ((fit.before, before), (fit.calibrated, after)):
        expected = score_router(logits, held_out, 0.95)
        for name in ("accuracy", "loss", "ece", "thinking_ratio"):
            assert getattr(found, name) == pytest.approx(getattr(expected, name), abs=1e-4)
    thinking = after.softmax(dim=-1)[:, 1] >= 0.95
    assert fit.policies["router"]["thinking_ratio"] == thinking.float().mean()
    assert fit.policies["router"]["accuracy"] == (thinking == (held_out.gain > 0)).float().mean()
    assert not torch.equal(thinking, after.softmax(dim=-1)[:, 1] >= 0.5)  # else the threshold could be any
    assert fit.threshold == model.config.thinking_threshold == 0.95
    assert fit.calibrated.thinking_ratio == fit.policies["random"]["thinking_ratio"]


def test_tokens_are_read_as_the_model_reads_them():
    model, processor = make_hybrid()
    router = model.model.language_model.router
    torch.nn.init.normal_(router.query.weight)
    torch.nn.init.normal_(router.score.weight)
    tokens = router_training.read_prompts(model, processor, ROWS, range(len(ROWS)))
    weights = dict(router.named_parameters())
    logits = router_training.token_logits(router, weights, [tokens[number] for number in range(len(ROWS))])
    expected = model.route(**prompt_inputs(processor, ROWS)).logits
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


def test_more_tokens_than_memory_holds_are_refused(monkeypatch):
    """After the first prompts, by what they took and what is free."""
    free = SimpleNamespace(available=0)
    monkeypatch.setattr(router_training.psutil, "virtual_memory", lambda: free)
    model, processor = make_hybrid()
    counts: list[int] = []
    tokens = router_training.read_prompts(model, processor, ROWS[:8], range(8))  # nothing is left to be read
    free.available = needed = 4 * sum(prompt.nbytes for prompt in tokens.values())
    fit_router(model, processor, ROWS[:8] * 5, steps=1)
    free.available -= 1
    with pytest.raises(ValueError, match=r"`rows` has 40 prompts; their tokens need about .* GB, but after 8 of them"):
        fit_router(model, processor, ROWS[:8] * 5, progress=counts.append)
    assert needed > 1000 and counts == []
    assert not model.model.language_model.router._forward_pre_hooks


def test_features_that_hardly_vary_are_not_blown_up():
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(40) % 2
    features = torch.randn(40, 4, generator=generator) * torch.tensor([1.0, 1.0, 1e-6, 0.0]) + 5
    features[:, 0] += 2 * target
    features[:, 2] += 1e-6 * target  # tells as much, but only here
    given = preferences((2.0 * target - 1).tolist())
    layers = [
        torch.randn(6, 4, generator=generator),
        torch.zeros(6),
        torch.randn(2, 6, generator=generator),
        torch.zeros(2),
    ]
    training = router_training.Training(steps=300, learning_rate=3e-3, batch_size=64, seed=0)
    trained, step = router_training.train_layers(layers, features, given, features, given, training)
    assert step > 0 and all(layer.isfinite().all() for layer in trained)
    moved = features + torch.tensor([0.0, 0.0, 0.1, 0.1])
    change = router_training.layer_logits(trained, moved) - router_training.layer_logits(trained, features)
    assert change.abs().max() < 20


def test_same_seed_same_router():
    routers = []
    for seed in (3, 3, 4):
        model, processor = make_hybrid()
        torch.manual_seed(len(routers))
        fit_router(model, processor, ROWS, seed=seed, steps=5)
        routers.append(router_of(model))
    assert all(torch.equal(routers[0][name], routers[1][name]) for name in routers[0])
    assert not torch.equal(routers[0]["score.weight"], routers[2]["score.weight"])


def test_soft_labels_are_probabilities():
    model, processor = make_hybrid()
    rows = labelled(hard=0.8, easy=0.3)
    fit = fit_router(model, processor, rows)
    found = probabilities(model, processor)
    assert (found[is_hard()] - 0.8).abs().max() < 0.1 and (found[~is_hard()] - 0.3).abs().max() < 0.1
    assert fit.calibrated.accuracy == 1.0 and fit.calibrated.ece < 0.1


def test_labels_may_be_repeated_and_contradict():
    """Of one question in both modes the router learns the share."""
    model, processor = make_hybrid()
    shares = torch.where(is_hard(), 3, 1).tolist()
    rows = [
        {**row, "id": number, "thinking": copy < shares[number]} for number, row in enumerate(ROWS) for copy in range(4)
    ]
    fit_router(model, processor, rows)
    found = probabilities(model, processor)
    assert (found[is_hard()] - 0.75).abs().max() < 0.15 and (found[~is_hard()] - 0.25).abs().max() < 0.15


def test_token_cost_moves_decisions():
    """Thinking helps every second hard question, for a hundred tokens; on easy ones it errs."""
    outcomes = Dataset.from_list(
        [
            outcome(number, (True, sample == 0) if hard else (False, True), (110, 10) if hard else (20, 10), sample)
            for number, hard in enumerate(is_hard().tolist())
            for sample in range(2)
        ]
        + [outcome("unused", (True, True), (1, 1)), outcome("0", (False, True), (1, 1), task="other")]
    )
    rows = [{**row, "id": number} for number, row in enumerate(with_task(ROWS))]
    for row in rows:
        del row["thinking"]
    preferences = preferences_from_outcomes(rows, outcomes, 0.002)
    assert preferences.gain[:4].tolist() == pytest.approx([0.3, 0.3, -1.02, -1.02])
    assert preferences.target.equal(is_hard().float()) and preferences.stake.equal(preferences.gain.abs())
    model, processor = make_hybrid()
    fit = fit_router(model, processor, rows, outcomes=outcomes, token_cost=0.002)
    assert torch.equal(probabilities(model, processor) > 0.5, is_hard())
    assert fit.policies["router"] == fit.policies["oracle"]
    assert fit.policies["oracle"]["accuracy"] == 1.0 and fit.policies["oracle"]["tokens"] == pytest.approx(60)
    assert fit.policies["oracle"]["utility"] == pytest.approx(1.0 - 0.12)
    with pytest.raises(ValueError, match="The thinking branch is better for 0 of 40 questions"):
        fit_router(model, processor, rows, outcomes=outcomes, token_cost=0.01)
    easy_pays = [
        outcome(number, (True, sample == 0) if hard else (True, False), (110, 10) if hard else (20, 10), sample)
        for number, hard in enumerate(is_hard().tolist())
        for sample in range(2)
    ]
    fit_router(model, processor, rows, outcomes=Dataset.from_list(easy_pays), token_cost=0.01)
    assert torch.equal(probabilities(model, processor) > 0.5, ~is_hard())


def expected_regret(branch_logits, target, weight=None):
    """What `regret_loss` is not: convex nowhere, and flat where the router is sure."""
    p = branch_logits.softmax(dim=-1)[:, 1]
    return ((target * (1 - p) + (1 - target) * p) * (1 if weight is None else weight)).mean()


@BOTH_WAYS_OF_TRAINING
@pytest.mark.parametrize("loss", ["regret_loss", "expected_regret"])
def test_a_router_that_is_sure_and_wrong_recovers(loss, pooling, monkeypatch):
    model, processor = make_hybrid(router_pooling=pooling)
    saturate(model, processor, ROWS)
    wrong = probabilities(model, processor)
    assert torch.equal(wrong < 0.5, is_hard()) and torch.minimum(wrong, 1 - wrong).max() < 1e-15
    if loss == "expected_regret":
        monkeypatch.setattr(router_training, "weighted_cross_entropy", expected_regret)
    outcomes = Dataset.from_list(
        [outcome(number, (hard, not hard), (20, 10)) for number, hard in enumerate(is_hard().tolist())]
    )
    fit = fit_router(model, processor, with_task(ROWS), outcomes=outcomes, learning_rate=1e-2)
    right = (probabilities(model, processor) > 0.5) == is_hard()
    assert fit.before.accuracy == 0.0
    assert right.all() if loss == "regret_loss" else not right.any()


def test_outcomes_without_both_branches_are_skipped():
    model, processor = make_hybrid()
    table = [outcome(number, (hard, not hard), (20, 10)) for number, hard in enumerate(is_hard().tolist())]
    table[3]["correct_non_thinking"], table[5]["tokens_thinking"] = None, None
    fit = fit_router(model, processor, with_task(ROWS), outcomes=Dataset.from_list(table[:36]), steps=1)
    assert (fit.fitted_rows + fit.held_out_rows, fit.skipped_rows) == (34, 6)


def preferences(gains, ids=None) -> Preferences:
    gain = torch.tensor(gains)
    return Preferences(
        list(range(len(gains))), ids or [str(n) for n in range(len(gains))], (gain > 0).float(), gain.abs(), gain,
        torch.stack([torch.zeros_like(gain), gain], dim=1), None,
    )  # fmt: skip


def test_questions_of_different_tasks_may_share_an_id():
    keys = [(task, number) for task in ("hard", "easy") for number in range(5)]
    right = {"hard": (1, 0), "easy": (0, 1)}
    table = Dataset.from_list([outcome(number, right[task], (5, 5), task=task) for task, number in keys])
    rows = [{"task": task, "id": number, "thinking": task == "hard"} for task, number in keys]
    for preferences in (preferences_from_outcomes(rows, table, 0.0), preferences_from_labels(rows)):
        assert preferences.gain.tolist() == [1.0] * 5 + [-1.0] * 5
        fit, held_out = split_questions(preferences, 0.2, 0)
        assert sorted(held_out.gain.tolist()) == [-1.0, 1.0] and len(fit.rows) == 8


def test_split_keeps_questions_together():
    ids = [f"q{number // 3}" for number in range(90)]
    given = preferences([1.0 if number // 3 < 10 else -1.0 if number // 3 < 25 else 0.0 for number in range(90)], ids)
    fit, held_out = split_questions(given, 0.2, seed=0)
    assert not set(fit.ids) & set(held_out.ids) and sorted(fit.rows + held_out.rows) == given.rows
    assert [sum(held_out.gain.sign() == sign) for sign in (1, -1, 0)] == [6, 9, 3]
    assert held_out.rows == split_questions(given, 0.2, seed=0)[1].rows != split_questions(given, 0.2, seed=1)[1].rows
    for fraction in (0.001, 0.999):  # a question of each kind on each side, whatever the fraction
        for side in split_questions(preferences([1.0, 1.0, -1.0, -1.0]), fraction, seed=0):
            assert sorted(side.gain.tolist()) == [-1.0, 1.0]


def test_calibration():
    generator = torch.Generator().manual_seed(0)
    logits = torch.stack([torch.zeros(20_000), 2 * torch.randn(20_000, generator=generator)], dim=1)
    drawn = torch.rand(20_000, generator=generator) < logits.softmax(dim=-1)[:, 1]
    given = preferences(torch.where(drawn, 1.0, -1.0).tolist())
    assert calibration_scale(3 * logits, given) == pytest.approx(1 / 3, rel=0.03)
    assert score_router(3 * logits, given, 0.5).ece > 0.1 and score_router(logits, given, 0.5).ece < 0.02
    # Ten rows without a mistake are no reason to be certain.
    perfect = torch.stack([torch.zeros(10), torch.tensor([5.0, -5.0] * 5)], dim=1)
    scale = calibration_scale(perfect, preferences([1.0, -1.0] * 5))
    assert (scale * perfect).softmax(dim=-1)[0, 1].item() == pytest.approx(11 / 12, abs=1e-4)
    # Of stakes, the share: three quarters of what is at stake here is on the thinking side.
    same = torch.tensor([[0.0, 1.0]]).expand(200, 2)
    scale = calibration_scale(same, preferences([3.0, -1.0] * 100))
    assert (scale * same).softmax(dim=-1)[0, 1].item() == pytest.approx(0.75, abs=0.01)


def test_best_threshold():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        probability = torch.randint(1, 8, (12,), generator=generator) / 8
        logits = torch.stack([torch.zeros(12), probability.logit()], dim=1)
        gain = torch.randint(-3, 4, (12,), generator=generator).float()
        threshold = best_threshold(logits, preferences(gain.tolist()))
        value = gain[probability >= threshold].sum()
        assert 0 <= threshold <= 1
        assert value == max(gain[probability >= cut].sum() for cut in (*probability.unique(), torch.tensor(1.0)))


def test_policies_by_hand():
    correct = torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0], [0.5, 1.0]])
    tokens = torch.tensor([[10.0, 50.0], [10.0, 30.0], [10.0, 100.0], [10.0, 20.0]])
    gain = correct[:, 1] - correct[:, 0] - 0.01 * (tokens[:, 1] - tokens[:, 0])
    given = Preferences([], [], (gain > 0).float(), gain.abs(), gain, correct, tokens)
    policies = compare_policies({"router": torch.tensor([True, True, True, False])}, given, 0.01)

    def found(name):
        return tuple(policies[name][figure] for figure in ("accuracy", "tokens", "thinking_ratio", "utility"))

    assert found("router") == pytest.approx((0.625, 47.5, 0.75, 0.15))
    assert found("thinking") == pytest.approx((0.75, 50.0, 1.0, 0.25))
    assert found("non_thinking") == pytest.approx((0.625, 10.0, 0.0, 0.525))
    assert found("random") == pytest.approx((0.71875, 40.0, 0.75, 0.31875))
    assert found("oracle") == pytest.approx((1.0, 22.5, 0.5, 0.775))
    score = score_router(torch.tensor([[0.0, 2.0]] * 3 + [[2.0, 0.0]]), given, 0.5)
    assert score.accuracy == pytest.approx(0.6 / (0.6 + 0.2 + 1.9 + 0.4))


def right(correct, tokens=(20, 10), ids=range(40)) -> dict:
    return {"outcomes": [outcome(number, correct, tokens) for number in ids]}


RIGHT, HALF = (True, False), (True, None)
NUMBERS = {"token_cost": float("nan"), "steps": 0, "learning_rate": 0.0, "batch_size": 0, "validation_fraction": 1.0}
BAD = {
    "no rows": ([], {}, "`rows` is empty"),
    "no label": ([{**ROWS[0], "thinking": None}], {}, "Row 0 of `rows` has `thinking` None"),
    "nan label": ([*ROWS, {**ROWS[0], "thinking": float("nan")}], {}, "Row 40 of `rows` has `thinking` nan"),
    "label out of range": ([{**ROWS[0], "thinking": 2}], {}, "has `thinking` 2. It must be true, false or in"),
    "one class": (labelled(easy=True), {}, "The non-thinking branch is better for 0 of 40 questions"),
    "one question of a class": (ROWS[:3], {}, "The non-thinking branch is better for 1 of 3 questions"),
    "undecided": (labelled(hard=0.5, easy=0.5), {}, "Both branches are equally good for all 40 questions"),
    "no prompt": ([{**row, "prompt": None} for row in ROWS], {}, "Row 0 of `rows` has no `prompt`"),
    "all right": (ROWS, right((True, True)), "questions: nothing to learn"),
    "one class of outcomes": (ROWS, right(RIGHT), "The non-thinking branch is better for 0 of 40 questions"),
    "other ids": (ROWS, right(RIGHT, ids="xy"), r"no question of `rows`: .*'0'.* the outcomes .*'x'.*'y'"),
    "other task": ([{**row, "task": "no"} for row in ROWS], right(RIGHT), "`outcomes` has no question of `rows`"),
    "another order": (
        [{**row, "task": "a" if number % 3 else "test"} for number, row in enumerate(ROWS)],
        right(RIGHT),
        r"`outcomes` has 26 questions that are not in `rows`, .*'1'.* Without a column `id`",
    ),
    "dense outcomes": (ROWS, right(HALF, (2, None)), "has no row with answers of both branches"),
    "nan outcomes": (ROWS, right(RIGHT, (float("nan"), 1.0)), "has no row with answers of both branches"),
    "no such columns": (ROWS, {"outcomes": [{"id": "0"}]}, "`outcomes` has no column 'task', 'correct_non_thinking'"),
    "cost of labels": (ROWS, {"token_cost": 0.1}, "`token_cost` is 0.1, which only applies to `outcomes`"),
    "numbers": (
        ROWS,
        NUMBERS,
        "`token_cost` is nan.*\n`steps` is 0.*\n`batch_size` is 0.*\n`learning_rate` is 0.0.*\n`validation_fraction`",
    ),
}


@pytest.fixture(scope="module")
def pair():
    return make_hybrid()


@pytest.mark.parametrize("name", BAD)
def test_bad_input(pair, name):
    rows, options, message = BAD[name]
    model, processor = pair
    before = router_of(model)
    if "outcomes" in options:
        options = {**options, "outcomes": Dataset.from_list(options["outcomes"])}
        rows = [{"task": "test", **row} for row in rows]
    with pytest.raises(ValueError, match=message):
        fit_router(model, processor, rows, **options)
    assert all(torch.equal(before[name], tensor) for name, tensor in router_of(model).items())
    assert not model.model.language_model.router.up_proj._forward_pre_hooks


def test_prompts_that_become_nan():
    model, processor = make_hybrid()
    model.model.visual.merger.mlp[0].weight.data.fill_(float("nan"))
    first = next(number for number, row in enumerate(ROWS) if row["images"])
    with pytest.raises(ValueError, match=f"into NaN or infinity, first row {first}"):
        fit_router(model, processor, ROWS)


def test_a_dense_model_has_no_router():
    from tests.fixtures_text import tiny_word_level

    with pytest.raises(ValueError, match=r"`model` is dense \(qwen2_5_vl\) and has no router"):
        fit_router(*tiny_word_level(), ROWS)


@BOTH_WAYS_OF_TRAINING
def test_a_fit_that_helps_nothing_keeps_the_router(pooling):
    """The held-out rows say the opposite of the others, so that every step makes it worse on them."""
    model, processor = make_hybrid(router_pooling=pooling)
    fit_router(model, processor, ROWS)
    before = router_of(model)
    _, held_out = split_questions(preferences_from_labels(ROWS), 0.2, 0)
    rows = [{**row, "thinking": 0.4 if row["thinking"] else 0.6} for row in ROWS]
    for number in held_out.rows:
        rows[number]["thinking"] = ROWS[number]["thinking"]
    module = sys.modules["hf_metis_home.trainers.fit_router"]
    with pytest.MonkeyPatch.context() as patch:  # the split that goes by the old labels
        others = [number for number in range(len(rows)) if number not in held_out.rows]
        patch.setattr(module, "split_questions", lambda found, *_: (found.select(others), found.select(held_out.rows)))
        fit = fit_router(model, processor, rows)
    after = router_of(model)
    assert fit.step == 0
    assert torch.equal(after["up_proj.weight"], before["up_proj.weight"])
    torch.testing.assert_close(after["score.weight"], fit.scale * before["score.weight"])
