"""Outcomes: both branches' answers to every question, equal to those of forced calls, through parquet and back."""

import pytest
import torch
from datasets import Dataset

from hf_metis_home.evaluation import answer_rows
from hf_metis_home.evaluation.accuracy import is_correct
from hf_metis_home.evaluation.outcomes import COLUMNS, collect_outcomes, read_outcomes, write_outcomes
from tests.evaluation import test_accuracy
from tests.evaluation.test_accuracy import ROWS, row
from tests.fixtures_text import tiny_word_level


hybrid = test_accuracy.hybrid  # the fixture
OPTIONS = {"max_new_tokens": 5, "batch_size": 3}
MODES = {"thinking": True, "non_thinking": False}


@pytest.fixture(scope="module")
def outcomes(hybrid):
    return collect_outcomes(*hybrid, ROWS, **OPTIONS)


def first_letter(answer: str, solution: str) -> bool:
    return answer[:1] == solution[:1]


def test_both_branches_answer_every_question(hybrid, outcomes):
    assert tuple(outcomes.column_names) == COLUMNS
    assert outcomes["id"] == ["0", "1", "2", "3"] and set(outcomes["task"]) == {"test"}
    assert set(outcomes["sample"]) == {0} and set(outcomes["error"]) == {None}
    for mode, thinking in MODES.items():
        records = answer_rows(*hybrid, ROWS, thinking=thinking, max_new_tokens=5)
        assert outcomes[f"text_{mode}"] == [record.text for record in records]
        assert outcomes[f"tokens_{mode}"] == [record.tokens for record in records]
        assert outcomes[f"correct_{mode}"] == [record.correct for record in records]
    routed = [record.thinking_probability for record in answer_rows(*hybrid, ROWS, max_new_tokens=1)]
    assert outcomes["thinking_probability"] == pytest.approx(routed, abs=1e-5)
    assert list(outcomes["text_thinking"]) != list(outcomes["text_non_thinking"])


def test_router_is_asked_once_and_each_branch_once(hybrid, monkeypatch):
    model, calls = hybrid[0], []
    route, generate = type(model).route, type(model).generate
    monkeypatch.setattr(type(model), "route", lambda self, **kw: calls.append("route") or route(self, **kw))
    monkeypatch.setattr(
        type(model), "generate", lambda self, **kw: calls.append(kw["thinking"]) or generate(self, **kw)
    )
    counts = []
    collect_outcomes(*hybrid, ROWS, **{**OPTIONS, "batch_size": 4}, progress=counts.append)
    assert calls == ["route", True, False] and counts == [4]


def test_samples(hybrid):
    options = {**OPTIONS, "samples": 3, "temperature": 1.0, "match": first_letter}
    state = torch.random.get_rng_state()
    found = collect_outcomes(*hybrid, ROWS, seed=1, **options)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert found["id"] == [str(number) for number in range(4) for _ in range(3)]
    assert found["sample"] == [0, 1, 2] * 4
    assert len(set(found["text_thinking"][:3])) > 1
    assert [found["thinking_probability"][3 * n] for n in range(4)] == found["thinking_probability"][::3]
    again, clocks = collect_outcomes(*hybrid, ROWS, seed=1, **options), ["seconds_thinking", "seconds_non_thinking"]
    assert found.remove_columns(clocks).to_dict() == again.remove_columns(clocks).to_dict()
    assert all(seconds > 0 for clock in clocks for seconds in found[clock])
    assert list(found["text_thinking"]) != list(collect_outcomes(*hybrid, ROWS, seed=2, **options)["text_thinking"])


def test_match_is_asked_with_answer_and_solution(hybrid, monkeypatch):
    from hf_metis_home.evaluation import accuracy

    texts = iter(["<think>a</think><answer> 4 </answer>", "<answer>5</answer>", "no answer", "<answer>4</answer>"] * 2)
    answer = accuracy.GeneratedAnswer
    monkeypatch.setattr(
        "hf_metis_home.evaluation.outcomes.generate_answers",
        lambda model, processor, inputs, *, thinking, **kw: [
            answer(next(texts), 3, thinking, None) for _ in inputs["input_ids"]
        ],
    )
    asked = []

    def match(given, solution):
        asked.append((given, solution))
        return given == solution

    found = collect_outcomes(*hybrid, ROWS, **{**OPTIONS, "batch_size": 4}, match=match)
    assert found["correct_thinking"] == found["correct_non_thinking"] == [True, False, False, True]
    assert asked == [("4", "4"), ("5", "4"), ("4", "4")] * 2


@pytest.mark.parametrize(
    ("text", "solution", "right"),
    [
        ("<think></think><answer> 4 </answer>", "4\n", True),
        ("<think>4</think><answer>14</answer>", "4", False),
        ("<think></think><answer>Yes</answer>", "yes", False),
        ("<think>4", "4", False),
        ("4", "4", False),
        ("<answer></answer>", "", True),
    ],
)
def test_the_default_match_is_equality_to_the_letter(text, solution, right):
    assert is_correct(text, solution) is right


def test_a_dense_model_fills_the_mode_it_used():
    model, processor = tiny_word_level()
    found = collect_outcomes(model, processor, ROWS, **OPTIONS)
    records = answer_rows(model, processor, ROWS, max_new_tokens=5)
    assert set(found["thinking_probability"]) == {None}
    for mode, thinking in MODES.items():
        texts = [record.text if record.thinking is thinking else None for record in records]
        assert found[f"text_{mode}"] == texts
        assert [value is None for value in found[f"correct_{mode}"]] == [text is None for text in texts]


def test_one_loaded_branch_fills_its_columns(hybrid, tmp_path):
    model, processor = hybrid
    model.save_pretrained(tmp_path)
    alone = type(model).from_pretrained(tmp_path, only_branch="non_thinking").eval()
    found = collect_outcomes(alone, processor, ROWS, **OPTIONS)
    assert set(found["text_thinking"]) == {None} and None not in found["text_non_thinking"]


def test_ids_come_from_the_rows(hybrid):
    rows = [row("is it red?", id=7), row("is it", id=None), row("read", id="c", images=None)]
    assert collect_outcomes(*hybrid, rows, **OPTIONS)["id"] == ["7", "1", "c"]
    dataset = Dataset.from_list([{**ROWS[0], "id": "x"}, {**ROWS[3], "id": "y"}])
    assert collect_outcomes(*hybrid, dataset, **OPTIONS)["id"] == ["x", "y"]


def test_a_batch_without_memory_is_an_error_of_its_rows(hybrid, monkeypatch):
    from hf_metis_home.evaluation import outcomes as module

    generate, calls = module.generate_answers, []

    def short_of_memory(*arguments, thinking, **options):
        calls.append(thinking)
        if len(calls) in fail:
            raise torch.OutOfMemoryError("tried to allocate")
        return generate(*arguments, thinking=thinking, **options)

    monkeypatch.setattr(module, "generate_answers", short_of_memory)
    fail = {3}
    found = collect_outcomes(*hybrid, ROWS, **OPTIONS)
    assert found["error"] == [None, None, None, "thinking: out of memory (tried to allocate)"]
    assert found["text_thinking"][3] is None and found["text_non_thinking"][3] is not None
    calls.clear()
    fail = {1}
    with pytest.raises(torch.OutOfMemoryError):
        collect_outcomes(*hybrid, ROWS, **OPTIONS)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], {}, "`rows` is empty"),
        ([ROWS[0], {**ROWS[1], "solution": None}], {}, "Row 1 of `rows` has no 'solution'"),
        ([{"prompt": [], "solution": "4"}], {}, "Row 0 of `rows` has no 'task'"),
        ([row("a", id="x"), row("b"), row("c", id="x")], {}, "Rows 0 and 2 of `rows` both have id 'x' in task 'test'"),
        (ROWS, {"samples": 2}, "`samples` is 2, but at `temperature` 0"),
        (ROWS, {"samples": 0, "batch_size": 0}, "`batch_size` is 0, .*\n`samples` is 0"),
        (ROWS, {"temperature": float("nan")}, "`temperature` is nan"),
        (ROWS, {"temperature": -1.0}, "`temperature` is -1.0"),
    ],
)
def test_wrong_calls(hybrid, rows, options, message):
    with pytest.raises(ValueError, match=message):
        collect_outcomes(*hybrid, rows, **{**OPTIONS, **options})


def test_same_id_in_two_tasks_is_two_questions(hybrid):
    rows = [row("is it red?", id="1"), row("is it", id="1", task="other")]
    assert collect_outcomes(*hybrid, rows, **OPTIONS)["task"] == ["test", "other"]


def test_parquet(outcomes, tmp_path):
    path = write_outcomes(outcomes, tmp_path / "new" / "outcomes.parquet")
    again = read_outcomes(path)
    assert again.features == outcomes.features and again.to_dict() == outcomes.to_dict()
    write_outcomes(outcomes.select([2, 0]), path)
    assert read_outcomes(path)["id"] == ["2", "0"]
    write_outcomes(outcomes.add_column("mine", [1, 2, 3, 4]), path)
    assert read_outcomes(path).column_names == list(COLUMNS)
    assert [file.name for file in path.parent.iterdir()] == ["outcomes.parquet"]


def test_bad_tables(outcomes, tmp_path):
    with pytest.raises(FileNotFoundError, match="`outcomes` is '.*gone.parquet', which is no file"):
        read_outcomes(tmp_path / "gone.parquet")
    (tmp_path / "text.parquet").write_text("not a table at all")
    with pytest.raises(ValueError, match="which is no parquet file"):
        read_outcomes(tmp_path / "text.parquet")
    cut = outcomes.remove_columns(["id", "tokens_thinking"])
    with pytest.raises(ValueError, match="`outcomes` has no column 'id', 'tokens_thinking'; it has"):
        write_outcomes(cut, tmp_path / "cut.parquet")
    assert not (tmp_path / "cut.parquet").exists()
    cut.to_parquet(tmp_path / "cut.parquet")
    with pytest.raises(ValueError, match="cut.parquet'\\) has no column 'id', 'tokens_thinking'"):
        read_outcomes(tmp_path / "cut.parquet")
    words = outcomes.remove_columns("correct_thinking").add_column("correct_thinking", ["perhaps"] * len(outcomes))
    with pytest.raises(ValueError, match="another type than outcomes have"):
        write_outcomes(words, tmp_path / "words.parquet")
