"""The experiments of `benchmarks.evidence`: their arithmetic by hand, and every command for a few steps."""

import json
import re

import numpy as np
import pytest
import torch

from benchmarks.evidence import capacity, facts, joint, probes, story, summary
from benchmarks.evidence.common import Results, answers, in_convention, load_base, questions, taught
from benchmarks.evidence.paired import at_equal_tokens, difference
from hf_metis_home.answers import AnswerFormat
from hf_metis_home.miniature.model import build_miniature
from hf_metis_home.miniature.tasks import TASKS, make_dataset

from .pages import ROOT, commands


# Of weights that are gone; the page says so.
EARLIER_RUN = {"10.9 (-12.9 to -8.8", "-0.9 (-1.6 to -0.3"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    model, processor = build_miniature(0)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("task", "solution", "taught_solution"),
    [
        ("corner", "7", "h"),
        ("digits", "0429", "a e c j"),
        ("words", "q w e r", "r e w q"),
        ("shapes", "yes", "yes"),
        ("chain", "3", "d"),
    ],
)
def test_second_convention(task, solution, taught_solution):
    assert in_convention(task, solution) == taught_solution


def test_convention_changes_direct_answers_alone():
    rows = make_dataset({"digits": 2, "located_hard": 2}, "train", seed=0)
    for before, after in zip(rows, taught(rows), strict=True):
        text, old = after["completion"][0]["content"], before["completion"][0]["content"]
        if before["thinking"]:
            assert text == old
        else:
            assert AnswerFormat().parse(text).answer == in_convention("digits", before["solution"])
        assert after["solution"] == before["solution"]


def test_difference_is_paired_and_per_seed():
    same = np.tile([1.0, 0.0], 50)
    zero = difference([same, same], [same, same])
    assert (zero.mean, zero.low, zero.high, zero.seeds) == (0.0, 0.0, 0.0, (0.0, 0.0)) and not zero.differs
    better = difference([np.ones(100), np.ones(100)], [same, np.zeros(100)])
    assert better.seeds == (50.0, 100.0) and better.mean == 75.0 and better.differs
    assert 65 < better.low < 75 < better.high < 85
    opposed = difference([np.ones(100), np.zeros(100)], [np.zeros(100), np.ones(100)])
    assert opposed.mean == 0.0 and not opposed.differs
    with pytest.raises(ValueError, match="same questions"):
        difference([np.ones(3)], [np.ones(4)])


def test_equal_tokens():
    # As in the outcome router's test: thinking is right and takes 10 tokens; direct takes 2, the first two are right.
    correct, tokens = np.array([[1.0, 1.0], [1.0, 1.0], [1.0, 0.0], [1.0, 0.0]]), np.array([[10.0, 2.0]] * 4)
    good, bad = np.array([0.1, 0.2, 0.8, 0.9]), np.array([0.9, 0.8, 0.2, 0.1])
    reference = (good, correct, tokens)
    assert at_equal_tokens(reference, (bad, correct, tokens), reference)(np.arange(4)) == pytest.approx(0.5)
    assert at_equal_tokens(reference, reference, reference)(np.arange(4)) == pytest.approx(0)


def test_results_go_on_where_they_stopped(tmp_path):
    results = Results(tmp_path / "story_0.json")
    model = torch.nn.Linear(2, 2)
    results.save("first", model)
    results.add("first", {"seconds": 1})
    again = Results(tmp_path / "story_0.json")
    assert "first" in again and "second" not in again
    assert torch.equal(again.load("first", torch.nn.Linear(2, 2)).weight, model.weight)


def test_answers_begin_as_forced(base):
    model, processor = load_base(base)
    rows = questions(("chain", "corner"), 2, "dev", 0)
    found = answers(model, processor, rows, ("chain", "corner"), forced=False)
    assert all(cells["thought"] == "00" for cells in found.values())  # closed by the opening
    assert {len(cells["texts"]) for cells in found.values()} == {12}


def test_changed_texts_are_counted():
    texts = {"before": "000001000002", "after": "000001000003"}
    run = {arm: {"thinking": {"chain": {"texts": text}}} for arm, text in texts.items()}
    assert summary.changed(run, "after", "before", "thinking", ("chain",)) == "1/2"
    assert summary.changed(run, "before", "before", "thinking", ("chain",)) == "0/2"


def test_command_of_the_page(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    [[_, _, module, *words]] = commands("docs/evidence.md")
    assert module == "benchmarks.evidence.summary"
    summary.main(words)
    printed = capsys.readouterr().out
    page = " ".join((ROOT / "docs" / "evidence.md").read_text().split())
    number = r"[+-]?\d+\.\d"
    of_seeds = re.findall(rf"{number} \({number}, {number}, {number}\)", page)
    differences = set(re.findall(rf"{number} \({number} to {number}", page)) - EARLIER_RUN
    assert len(of_seeds) > 60 and len(differences) > 15
    assert [figure for figure in (*of_seeds, *differences) if figure not in printed] == []


def test_raw_reads_are_not_normalised():
    states = 5 * torch.randn(2, 3, 4)
    tokens = {"states": states, "mask": torch.ones(2, 3).bool(), "vision": torch.zeros(2, 3).bool()}
    torch.testing.assert_close(probes.pooled(tokens, "mean", raw=True), states.mean(dim=1))
    normalised = torch.nn.functional.layer_norm(states, (4,))
    torch.testing.assert_close(probes.pooled(tokens, "mean", raw=False), normalised.mean(dim=1))


def test_raw_routers_read_what_is_there(base, tmp_path, monkeypatch):
    seen = []

    def train(model, *args):
        states = torch.randn(1, 2, model.config.text_config.hidden_size)
        seen.append(torch.equal(model.model.language_model.router.normalise(states), states))
        return model

    monkeypatch.setattr(joint, "train", train)
    arms = ["hybrid, depth 1", "hybrid, depth 1, raw", "hybrid, depth 1, attention, raw"]
    joint.main(["--base", str(base), "--output", str(tmp_path / "joint_0.json"), "--smoke", "--arms", *arms])
    assert seen == [False, True, True]


@pytest.mark.parametrize("kind", ["different", "same"])
def test_facts(kind):
    learned = facts.Facts(kind, 50, seed=0)
    rows = [learned.batch(torch.full((50,), mode), torch.arange(50)) for mode in (0, 1)]
    assert all(row.shape == (50, facts.GIVEN + 3) and row.max() < facts.SIZES.vocab for row in rows)
    assert torch.equal(rows[0][:, 1:3], rows[1][:, 1:3]) and len({tuple(key) for key in rows[0][:, 1:3].tolist()}) == 50
    assert torch.equal(rows[0][:, facts.GIVEN :], rows[1][:, facts.GIVEN :]) == (kind == "same")
    assert (rows[0][:, 0] != rows[1][:, 0]).all()  # the question tells the mode


@pytest.mark.parametrize("two_branch", [True, False])
def test_facts_are_learned_by_heart(monkeypatch, two_branch):
    monkeypatch.setattr(facts, "BATCH", 32)
    learned = facts.Facts("different", 8, seed=0)
    model = facts.build(two_branch, 1, seed=0)
    assert set(facts.recalled(model, learned)["direct"]["correct"]) == {"0"}
    facts.learn(model, learned, steps=250, rate=3e-3)
    found = facts.recalled(model, learned)
    assert all(found[mode]["correct"] == "1" * 8 for mode in ("direct", "thinking"))
    assert not two_branch or found["direct"]["routed"] == found["thinking"]["routed"] == 1


@pytest.mark.slow
def test_commands(base, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(story, "DENSE", story.DENSE[:3])
    monkeypatch.setattr(story, "MORE_DENSE", [])
    for command in (story, joint, probes, capacity, facts):
        output = tmp_path / f"{command.__name__.split('.')[-1]}_0.json"
        flags = [
            "--output",
            str(output),
            "--smoke",
            *(["--base", str(base)] if command not in (capacity, facts) else []),
        ]
        command.main(flags)
        written = output.read_bytes()
        command.main(flags)  # everything is there
        assert output.read_bytes() == written
    arms = json.loads((tmp_path / "story_0.json").read_text())
    assert {"shipped", "hybrid ffn", "hybrid ffn, rl", "hybrid lora with attention, rl"} <= arms.keys()
    # What no smoke can spoil: the branch that did not train answers as before.
    assert summary.changed(arms, "hybrid ffn", "shipped", "thinking", story.THINKING).startswith("0/")
    assert summary.changed(arms, "hybrid ffn, rl", "hybrid ffn", "direct", story.DIRECT).startswith("0/")
    assert set(json.loads((tmp_path / "joint_0.json").read_text())["dense"]["free"]) == set(TASKS)
    capsys.readouterr()
    summary.main(["--folder", str(tmp_path)])
    printed = capsys.readouterr().out
    for rule in ("2  ", "3  ", "4  ", "5  ", "6  ", "8  ", "9  ", "10 ", "11 ", "12 ", "15 ", "16 "):
        assert f"\n{rule}" in printed
