"""Outcomes: both branches' answers to every question, equal to those of forced calls, through parquet and back."""

import pytest
import torch
from datasets import Dataset, Features, Image, List, Value

from hf_metis_home.answers import judge
from hf_metis_home.data.work_file import WorkFile
from hf_metis_home.evaluation.batches import plan_batches
from hf_metis_home.evaluation.generation import GeneratedAnswer
from hf_metis_home.evaluation.outcomes import (
    COLUMNS,
    collect_outcomes,
    read_outcomes,
    write_outcomes,
)
from hf_metis_home.evaluation.row_checks import Question, questions_of
from tests.evaluation import test_generation
from tests.evaluation.test_generation import ROWS, answers, row
from tests.fixtures_text import tiny_word_level


hybrid = test_generation.hybrid  # the fixture
OPTIONS = {"max_new_tokens": 5, "batch_size": 3}
MODES = {"thinking": True, "non_thinking": False}


@pytest.fixture(scope="module")
def outcomes(hybrid):
    return collect_outcomes(*hybrid, ROWS, **OPTIONS)


def test_both_branches_answer_every_question(hybrid, outcomes):
    assert tuple(outcomes.column_names) == COLUMNS
    assert outcomes["id"] == ["0", "1", "2", "3"] and set(outcomes["task"]) == {"test"}
    assert set(outcomes["sample"]) == {0} and set(outcomes["error"]) == {None}
    for mode, thinking in MODES.items():
        found = answers(*hybrid, thinking=thinking, max_new_tokens=5)
        assert outcomes[f"text_{mode}"] == [answer.text for answer in found]
        assert outcomes[f"tokens_{mode}"] == [answer.tokens for answer in found]
        assert outcomes[f"correct_{mode}"] == [judge(answer.text, "4").correct for answer in found]
    routed = [answer.thinking_probability for answer in answers(*hybrid, max_new_tokens=1)]
    assert outcomes["thinking_probability"] == pytest.approx(routed, abs=1e-5)
    assert list(outcomes["text_thinking"]) != list(outcomes["text_non_thinking"])


def test_router_is_asked_once_and_each_branch_once(hybrid, monkeypatch):
    model, calls = hybrid[0], []
    read, generate = type(model.model).forward, type(model).generate

    def noted(self, **options):
        calls.append((options["thinking"], options["thinking_threshold"]))
        return generate(self, **options)

    def counted(self, *inputs, **options):
        calls.extend(["router"] * bool(options.get("route_only")))
        return read(self, *inputs, **options)

    monkeypatch.setattr(type(model), "generate", noted)
    monkeypatch.setattr(type(model.model), "forward", counted)
    counts = []
    collect_outcomes(*hybrid, ROWS, **{**OPTIONS, "batch_size": 4}, progress=counts.append)
    assert calls == [(None, 0.0), "router", (False, None)] and counts == [4]


def test_samples(hybrid):
    options = {**OPTIONS, "samples": 3, "temperature": 1.0}
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


def written(monkeypatch, *texts: str) -> None:
    """Have the model write these texts, first with the thinking branch."""
    left = iter(texts * 2)
    monkeypatch.setattr(
        "hf_metis_home.evaluation.outcomes.generate_answers",
        lambda model, processor, inputs, *, thinking=True, **options: [
            GeneratedAnswer(next(left), 3, thinking, 0.5 if thinking else None) for _ in inputs["input_ids"]
        ],
    )


def test_answers_are_judged_by_the_one_judge(hybrid, monkeypatch):
    texts = {
        "<think>a</think><answer> 4 </answer>": True,
        "<think></think><answer>4.0</answer>": True,
        "<answer>5</answer>": False,
        "<think>4": False,
        "4": False,
        "<answer>5</answer><answer>4</answer>": False,
        "<answer>4</answer>, I think": False,
    }
    written(monkeypatch, *texts)
    rows = [row("is it")] * len(texts)  # of one length, so that they are asked in their order
    found = collect_outcomes(*hybrid, rows, **{**OPTIONS, "batch_size": len(texts)})
    assert found["correct_thinking"] == found["correct_non_thinking"] == list(texts.values())


def test_a_dense_model_fills_the_mode_it_used():
    model, processor = tiny_word_level()
    found = collect_outcomes(model, processor, ROWS, **OPTIONS)
    alone = answers(model, processor, max_new_tokens=5)
    assert set(found["thinking_probability"]) == {None}
    for mode, thinking in MODES.items():
        texts = [answer.text if answer.thinking is thinking else None for answer in alone]
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


def test_only_the_routed_branch_answers(hybrid, outcomes):
    found = collect_outcomes(*hybrid, ROWS, routed_only=True, **OPTIONS)
    assert found["thinking_probability"] == pytest.approx(outcomes["thinking_probability"], abs=1e-5)
    answered = set()
    for line, both in zip(found, outcomes, strict=True):
        thinks = both["thinking_probability"] >= hybrid[0].config.thinking_threshold
        mode, other = ("thinking", "non_thinking") if thinks else ("non_thinking", "thinking")
        for name in ("text", "tokens", "correct"):
            assert line[f"{name}_{mode}"] == both[f"{name}_{mode}"] and line[f"{name}_{other}"] is None
        answered.add(mode)
    assert answered == set(MODES)


def answers_alone(hybrid, number: int) -> dict:
    return collect_outcomes(*hybrid, [ROWS[number]], **OPTIONS)[0]


def same_but_for(record: dict, other: dict, *names: str) -> bool:
    names = {"id", "seconds_thinking", "seconds_non_thinking", "thinking_probability", *names}
    return {k: v for k, v in record.items() if k not in names} == {k: v for k, v in other.items() if k not in names}


def test_rows_that_fail_leave_the_others_alone(hybrid, tmp_path, monkeypatch):
    monkeypatch.setattr(hybrid[0].config.get_text_config(), "max_position_embeddings", 100)
    image = ROWS[0]["images"][0]
    image.save(tmp_path / "good.png")
    good = {"bytes": (tmp_path / "good.png").read_bytes(), "path": None}
    bad = {"bytes": good["bytes"][:60], "path": None}
    features = Features(
        {
            "prompt": List({"role": Value("string"), "content": Value("string")}),
            "images": List(Image()),
            "solution": Value("string"),
            "task": Value("string"),
        }
    )
    rows = Dataset.from_list(
        [
            {**ROWS[0], "images": [good]},
            {**ROWS[0], "images": [bad]},
            row("is it red?"),
            row("is it " * 300),
            {**row("is <|image_pad|> it"), "images": [good]},
        ],
        features=features,
    )
    found = collect_outcomes(*hybrid, rows, max_new_tokens=5, batch_size=8)
    assert [error is None for error in found["error"]] == [True, False, True, False, False]
    assert "cannot be read (" in found["error"][1]
    assert "the prompt has" in found["error"][3] and "`max_position_embeddings`" in found["error"][3]
    assert "<|image_pad|>" in found["error"][4]
    for number in (1, 3, 4):
        kept = {name for name, value in found[number].items() if value is not None}
        assert kept == {"task", "id", "sample", "error"}
    assert same_but_for(found[0], answers_alone(hybrid, 0)) and same_but_for(found[2], answers_alone(hybrid, 1))
    with pytest.raises(ValueError, match="None of the 2 questions could be answered. The first: cannot be read"):
        collect_outcomes(*hybrid, rows.select([1, 3]), **OPTIONS)


def test_a_row_that_runs_out_of_memory_alone_fails_alone(hybrid, outcomes, monkeypatch):
    from hf_metis_home.evaluation import outcomes as module

    generate, sizes = module.generate_answers, []

    def short_of_memory(model, processor, inputs, *, thinking=True, **options):
        sizes.append(len(inputs["input_ids"]))
        if thinking and len(inputs["image_grid_thw"]) >= 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return generate(model, processor, inputs, **({} if thinking else {"thinking": False}), **options)

    monkeypatch.setattr(module, "generate_answers", short_of_memory)
    found = collect_outcomes(*hybrid, ROWS[2:], max_new_tokens=5, batch_size=2)
    assert sizes == [2, 1, 1, 2]  # halved only where there was too little
    assert found["error"][1] is None and found["error"][0].startswith("thinking: out of memory (OutOfMemoryError: CUDA")
    assert found["text_thinking"][0] is found["tokens_thinking"][0] is found["correct_thinking"][0] is None
    assert found["text_non_thinking"] == outcomes["text_non_thinking"][2:]
    assert found["text_thinking"][1] == outcomes["text_thinking"][3]


def test_too_little_memory_for_anything_stops_at_once(hybrid, monkeypatch):
    from hf_metis_home.evaluation import outcomes as module

    def short_of_memory(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(module, "generate_answers", short_of_memory)
    with pytest.raises(ValueError, match="Not one question of the first batch fits into memory"):
        collect_outcomes(*hybrid, ROWS, **OPTIONS)


def test_other_errors_of_the_model_are_not_hidden(hybrid, monkeypatch):
    from hf_metis_home.evaluation import outcomes as module

    def broken(*arguments, **options):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(module, "generate_answers", broken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        collect_outcomes(*hybrid, ROWS, **OPTIONS)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("options", [{}, {"samples": 2, "temperature": 1.0}], ids=["greedy", "sampled"])
@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_a_stopped_collection_goes_on_to_the_same_table(hybrid, tmp_path, monkeypatch, options, stop_after):
    from hf_metis_home.evaluation import outcomes as module

    options = {"max_new_tokens": 5, "batch_size": 1, **options}
    whole = collect_outcomes(*hybrid, ROWS, **options)
    counts = []

    def stop(count):
        counts.append(count)
        if len(counts) == stop_after:
            raise Killed

    work = WorkFile(tmp_path / "work.jsonl", {})
    with pytest.raises(Killed):
        collect_outcomes(*hybrid, ROWS, work=work, progress=stop, **options)
    work.close()
    with (tmp_path / "work.jsonl").open("a") as file:
        file.write('{"group": "batch", "index": ')
    asked, answer_batch = [], module._answer_batch
    monkeypatch.setattr(module, "_answer_batch", lambda *given: asked.append(given[2]) or answer_batch(*given))
    work = WorkFile(tmp_path / "work.jsonl", {})
    found = collect_outcomes(*hybrid, ROWS, work=work, progress=counts.append, **options)
    assert len(asked) == 4 - stop_after and sum(counts) == stop_after + 4
    seconds = ["seconds_thinking", "seconds_non_thinking"]
    assert found.remove_columns(seconds).to_dict() == whole.remove_columns(seconds).to_dict()


def test_a_row_judges_by_its_solutions_or_its_verifier(hybrid, monkeypatch):
    def judged(**changes):
        written(monkeypatch, "<think></think><answer>4</answer>")
        return collect_outcomes(*hybrid, [row("is it red?", **changes)], **OPTIONS)["correct_thinking"][0]

    assert judged() and not judged(solution="5")
    assert not judged(solutions=["5"]) and judged(solution="5", solutions=["6", "4"])
    assert judged(verifier=lambda answer: answer == "4") and not judged(verifier=lambda answer: answer == "5")


def test_a_row_that_says_why_it_fails_is_not_asked(hybrid, outcomes):
    found = collect_outcomes(*hybrid, [ROWS[0], row("a", error="the gold answer is missing")], **OPTIONS)
    assert found["error"] == [None, "the gold answer is missing"] and found["text_thinking"][1] is None
    assert found["text_thinking"][0] == outcomes["text_thinking"][0]


@pytest.mark.parametrize("gold", [".", "", " ", "...", '"', 4])
def test_a_gold_that_cannot_be_compared_fails_its_row_alone(hybrid, outcomes, gold, monkeypatch):
    from hf_metis_home.evaluation import outcomes as module

    prepare, sizes = module.prepare_batch, []

    def counted(processor, rows, longest):
        kept, inputs, errors = prepare(processor, rows, longest)
        sizes.append(len(kept))
        return kept, inputs, errors

    monkeypatch.setattr(module, "prepare_batch", counted)
    rows = [ROWS[0], row("a", solution=gold), row("b", solutions=["4", gold])]
    found = collect_outcomes(*hybrid, rows, **OPTIONS)
    assert sizes == [1] and found["error"][0] is None
    assert found["text_thinking"] == [outcomes["text_thinking"][0], None, None]
    assert all(f"the gold answer {gold!r} cannot be compared (ValueError: " in error for error in found["error"][1:])
    judged = collect_outcomes(*hybrid, [row("a", solution=gold, verifier=bool)], **OPTIONS)
    assert judged["error"] == [None]


def test_batches_have_rows_of_one_task_and_length(hybrid):
    rows = [row("is it red?" * n, task=task) for n, task in ((3, "a"), (1, "b"), (1, "a"), (2, "b"), (2, "a"))]
    questions = questions_of(rows, hybrid[1])
    assert questions[2] == Question("a", "2", None, questions[1].length) and questions[0].length > questions[4].length
    assert plan_batches(questions, 2) == [[2, 4], [0, 1], [3]]
    found = collect_outcomes(*hybrid, rows, max_new_tokens=5, batch_size=2)
    assert found["id"] == ["0", "1", "2", "3", "4"] and found["task"] == ["a", "b", "a", "b", "a"]
    texts = [collect_outcomes(*hybrid, [one], **OPTIONS)["text_thinking"][0] for one in rows]
    assert found["text_thinking"] == texts


@pytest.mark.parametrize("threshold", [0.0, 0.36, 0.4, 1.0])
def test_arithmetic_is_a_real_run_of_the_router(hybrid, outcomes, threshold):
    model, processor = hybrid
    before, model.config.thinking_threshold = model.config.thinking_threshold, threshold
    try:
        found = answers(model, processor, max_new_tokens=5)
    finally:
        model.config.thinking_threshold = before
    for answer, line in zip(found, outcomes, strict=True):
        mode = "thinking" if line["thinking_probability"] >= threshold else "non_thinking"
        assert answer.thinking is (mode == "thinking")
        assert (answer.text, answer.tokens) == (line[f"text_{mode}"], line[f"tokens_{mode}"])


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], {}, "`rows` is empty"),
        ([ROWS[0], {**ROWS[1], "solution": None}], {}, "Row 1 of `rows` has no 'solution'"),
        ([{"prompt": [], "solution": "4"}], {}, "Row 0 of `rows` has no 'task'"),
        (
            [ROWS[0], {**ROWS[1], "prompt": "is it?"}],
            {},
            r"Row 1 of `rows` has the `prompt` 'is it\?', which is not a list of messages. Write \[\{'role': 'user'",
        ),
        ([{**ROWS[1], "prompt": []}], {}, r"Row 0 of `rows` has the `prompt` \[\]"),
        ([{**ROWS[1], "prompt": [{"role": "user", "content": 4}]}], {}, "Row 0 of `rows` has the `prompt` "),
        ([row("a", task="all")], {}, "Row 0 of `rows` has the task 'all'"),
        (
            [row("a", id="x", task=1), row("b", id="x", task="1")],
            {},
            "Rows 0 and 1 of `rows` both have id 'x' in task '1'",
        ),
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
    with pytest.raises(FileNotFoundError, match="`outcomes` is '.*gone.parquet', which is not a file"):
        read_outcomes(tmp_path / "gone.parquet")
    (tmp_path / "text.parquet").write_text("not a table at all")
    with pytest.raises(ValueError, match="which is not a Parquet file"):
        read_outcomes(tmp_path / "text.parquet")
    cut = outcomes.remove_columns(["id", "tokens_thinking"])
    with pytest.raises(ValueError, match="`outcomes` has no column 'id', 'tokens_thinking'; it has"):
        write_outcomes(cut, tmp_path / "cut.parquet")
    assert not (tmp_path / "cut.parquet").exists()
    cut.to_parquet(tmp_path / "cut.parquet")
    with pytest.raises(ValueError, match="cut.parquet'\\) has no column 'id', 'tokens_thinking'"):
        read_outcomes(tmp_path / "cut.parquet")
    words = outcomes.remove_columns("correct_thinking").add_column("correct_thinking", ["perhaps"] * len(outcomes))
    with pytest.raises(ValueError, match="a column of the wrong type"):
        write_outcomes(words, tmp_path / "words.parquet")
