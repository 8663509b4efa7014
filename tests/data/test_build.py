"""From rollouts to rows: which prompts stay, with which trace, in which mode; and what the folder holds."""

import json
import random

import pytest
from datasets import Dataset, load_dataset

from hf_metis_home.answers import AnswerFormat
from hf_metis_home.data import check_row
from hf_metis_home.data.build import build_data
from hf_metis_home.data.dataset_folder import write_dataset_folder
from hf_metis_home.data.prompt_sets import PromptSet
from tests.data.prompts_common import WRONG, ScriptedModel, png, prompt_rows, prompt_set, right


def by_thirds(number):
    """Always, sometimes and never right, in turn."""
    if number % 3 == 0:
        return right(number)
    return [WRONG, right(number, "a long way"), right(number, "short"), f"{number + 4}"] if number % 3 == 1 else WRONG


def load(folder, tmp_path):
    return load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))["train"]


def number_of(row):
    return int(row["solution"]) - 4


def test_the_pass_rate_decides(tmp_path):
    experts = [right(number, "expert") if number % 2 else None for number in range(30)]
    prompts = prompt_set({"sums": 30}, expert_completion=experts)
    report = build_data(prompts, ScriptedModel(by_thirds), tmp_path / "out", n_rollouts=4, other_mode_share=0.0)
    rows = {number_of(row): row for row in load(tmp_path / "out", tmp_path)}
    assert sorted(rows) == [n for n in range(30) if n % 3 == 1 or (n % 3 == 2 and n % 2)]
    for number, row in rows.items():
        check_row(row, number)
        assert row["thinking"] is True and row["task"] == "sums" and row["solution"] == str(number + 4)
        thought = AnswerFormat().parse(row["completion"][0]["content"]).thought
        assert thought == ("short" if number % 3 == 1 else "expert")
        assert [image.getpixel((0, 0)) for image in row["images"]] == ([(number, 0, 0)] if number % 2 else [])
    counts = {"prompts": 30, "always": 10, "sometimes": 10, "never": 10, "own_traces": 10, "expert_traces": 5}
    counts |= {"no_expert": 5, "wrong_expert": 0, "no_trace": 0, "malformed": 10}  # one bare number per third
    assert report["tasks"]["sums"] == {**counts, "mean_pass_rate": pytest.approx((10 + 10 * 0.5) / 30)}
    assert (report["rows"], report["thinking"], report["non_thinking"]) == (15, 15, 0)


@pytest.mark.parametrize(
    "expert", ["<think>a</think><answer>5</answer>", "9", "<think></think><answer>{}</answer>", "<think>a</think>{}"]
)
def test_an_expert_that_is_wrong_or_has_no_thought_is_dropped_and_counted(tmp_path, expert):
    prompts = prompt_set({"sums": 3}, start=1, expert_completion=[None, expert.format(6), None])
    report = build_data(prompts, ScriptedModel(by_thirds), tmp_path / "out", n_rollouts=4, other_mode_share=0.0)
    assert report["rows"] == 1 and report["tasks"]["sums"]["wrong_expert"] == 1


def test_another_model_as_expert_is_asked_for_what_is_never_solved_alone(tmp_path):
    prompts = prompt_set({"sums": 9}, expert_completion=[None] * 8 + [right(8, "given")])
    expert = ScriptedModel(lambda number: right(number, "expert") if number != 5 else WRONG, "expert")
    report = build_data(prompts, ScriptedModel(by_thirds), tmp_path / "out", expert=expert, other_mode_share=0.0)
    assert expert.asked == [2, 5]
    thoughts = {
        number_of(row): AnswerFormat().parse(row["completion"][0]["content"]).thought
        for row in load(tmp_path / "out", tmp_path)
    }
    assert thoughts == {1: "short", 2: "expert", 4: "short", 7: "short", 8: "given"}
    assert report["tasks"]["sums"]["wrong_expert"] == 1


def test_what_is_always_right_can_answer_at_once(tmp_path):
    report = build_data(
        prompt_set({"sums": 30}), ScriptedModel(by_thirds), tmp_path / "out", always_right="non_thinking"
    )
    rows = load(tmp_path / "out", tmp_path)
    direct = {number_of(row) for row in rows if not row["thinking"]}
    assert direct == {number for number in range(30) if number % 3 == 0}
    assert report["non_thinking"] == report["thinking"] == 10
    for row in rows:
        parsed = AnswerFormat().parse(row["completion"][0]["content"])
        assert (parsed.thought == "") == (not row["thinking"]) and parsed.answer == row["solution"]


def test_a_right_answer_without_the_form_is_no_trace(tmp_path):
    answers = {1: ["<answer>5</answer>", WRONG], 4: ["<think></think><answer>8</answer>", WRONG], 7: [right(7), WRONG]}
    model = ScriptedModel(lambda number: answers.get(number, WRONG))
    report = build_data(prompt_set({"sums": 9}), model, tmp_path / "out", n_rollouts=2, other_mode_share=0.0)
    assert report["rows"] == 1 and report["tasks"]["sums"]["no_trace"] == 2


def test_general_rows_match_the_thinking_ones_and_each_task_has_the_other_mode(tmp_path):
    reasoning = prompt_set({"sums": 60, "chains": 60})
    general = prompt_set({"ocr": 50, "vqa": 50}, "general dataset", start=200)
    model = ScriptedModel(lambda number: [right(number), WRONG] if number % 3 else right(number))
    report = build_data(reasoning, model, tmp_path / "out", general=general, other_mode_share=0.2, n_rollouts=2)
    rows = load(tmp_path / "out", tmp_path)
    modes = {
        task: [row["thinking"] for row in rows if row["task"] == task] for task in ("sums", "chains", "ocr", "vqa")
    }
    assert {task: (len(modes[task]), sum(modes[task])) for task in ("sums", "chains")} == {
        "sums": (40, 32),
        "chains": (40, 32),
    }
    assert len(modes["ocr"]) + len(modes["vqa"]) == 80
    for task in ("ocr", "vqa"):
        assert sum(modes[task]) == round(0.2 * len(modes[task]))
    assert report["thinking"] == 80 == report["non_thinking"] and report["direct_shortfall"] == 0
    order = [row["task"] for row in rows]
    assert sum(before != after for before, after in zip(order, order[1:], strict=False)) > 20  # mixed


def test_direct_answers_of_easy_prompts_count_among_the_non_thinking_rows(tmp_path):
    general = prompt_set({"ocr": 50}, "general dataset", start=200)
    model = ScriptedModel(lambda number: [right(number), WRONG] if number % 3 else right(number))
    options = {"always_right": "non_thinking", "other_mode_share": 0.0, "n_rollouts": 2}
    report = build_data(prompt_set({"sums": 30}), model, tmp_path / "out", general=general, **options)
    assert (report["thinking"], report["non_thinking"]) == (20, 20)
    assert sum(row["task"] == "ocr" for row in load(tmp_path / "out", tmp_path)) == 10


def test_too_few_general_prompts_are_reported_and_those_without_a_trace_answer_at_once(tmp_path):
    general = prompt_set({"ocr": 6}, "general dataset", start=200)
    model = ScriptedModel(lambda number: [right(number), WRONG] if number < 100 else WRONG)
    report = build_data(prompt_set({"sums": 10}), model, tmp_path / "out", general=general, n_rollouts=2)
    assert report["direct_shortfall"] == 4
    assert sum(index in range(6) for index in model.asked[10:]) == 1
    rows = [row for row in load(tmp_path / "out", tmp_path) if row["task"] == "ocr"]
    assert len(rows) == 6 and not any(row["thinking"] for row in rows)


def test_the_choice_depends_on_the_seed_alone(tmp_path):
    contents = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        random.seed(len(contents))
        build_data(
            prompt_set({"sums": 40}), ScriptedModel(by_thirds), tmp_path / folder, seed=seed, other_mode_share=0.3
        )
        rows = load_dataset(str(tmp_path / folder), cache_dir=str(tmp_path / f"cache {folder}"))["train"]
        contents.append([(row["solution"], row["thinking"]) for row in rows])
    assert contents[0] == contents[1] != contents[2]


@pytest.mark.parametrize("stop_after", [0, 1, 7, 30])
def test_a_stopped_run_goes_on_to_the_same_result(tmp_path, stop_after):
    general = prompt_set({"ocr": 20}, "general dataset", start=200)
    make = lambda stop=None: ScriptedModel(lambda n: [right(n), WRONG] if n % 3 == 1 else right(n), stop_after=stop)  # noqa: E731
    build_data(prompt_set({"sums": 30}), make(), tmp_path / "whole", general=general, n_rollouts=2)
    stopped = make(stop_after)
    with pytest.raises(KeyboardInterrupt):
        build_data(prompt_set({"sums": 30}), stopped, tmp_path / "out", general=general, n_rollouts=2)
    assert not (tmp_path / "out").exists()
    work_file = tmp_path / "out.rollouts.jsonl"
    with work_file.open("a") as file:
        file.write('{"group": "reasoning", "ind')
    rest = make()
    build_data(prompt_set({"sums": 30}), rest, tmp_path / "out", general=general, n_rollouts=2)
    assert len(stopped.asked) + len(rest.asked) == 31
    whole, resumed = (next((tmp_path / name / "data").iterdir()).read_bytes() for name in ("whole", "out"))
    assert whole == resumed
    assert [json.loads(line) for line in work_file.read_text().splitlines()] == [
        json.loads(line) for line in (tmp_path / "whole.rollouts.jsonl").read_text().splitlines()
    ]


def test_rollouts_made_with_other_settings_are_refused_by_name(tmp_path):
    def run(prompts=None, model=None, **changes):
        (tmp_path / "out").exists() and [file.unlink() for file in (tmp_path / "out").rglob("*") if file.is_file()]
        model = model or ScriptedModel(by_thirds)
        return build_data(prompts or prompt_set({"sums": 9}), model, tmp_path / "out", **{"n_rollouts": 4} | changes)

    with pytest.raises(KeyboardInterrupt):
        run(model=ScriptedModel(by_thirds, stop_after=4))
    with pytest.raises(ValueError, match="other settings: `n_rollouts` was 4 and is 8.*remove the file"):
        run(n_rollouts=8)
    with pytest.raises(ValueError, match="`model` was 'scripted' and is 'other'"):
        run(model=ScriptedModel(by_thirds, "other"))
    with pytest.raises(ValueError, match="`dataset` was"):
        run(prompts=prompt_set({"sums": 10}))
    with pytest.raises(ValueError, match="`selection_seed` was 0 and is 1"):
        run(seed=1)
    run(always_right="non_thinking", other_mode_share=0.3)


def test_a_damaged_work_file_is_an_error_that_names_the_line(tmp_path):
    (tmp_path / "out.rollouts.jsonl").write_text('{"settings": {}}\nrubbish\n{}\n')
    with pytest.raises(ValueError, match="rollouts.jsonl is damaged: line 2 is not JSON"):
        build_data(prompt_set({"sums": 3}), ScriptedModel(by_thirds), tmp_path / "out")


def test_two_runs_do_not_share_a_work_file(tmp_path):
    from hf_metis_home.data.work_file import WorkFile

    first = WorkFile(tmp_path / "out.rollouts.jsonl", {})
    with pytest.raises(ValueError, match="in use: another run"):
        build_data(prompt_set({"sums": 3}), ScriptedModel(by_thirds), tmp_path / "out")
    first.close()


def test_malformed_answers_are_wrong_and_counted(tmp_path):
    answers = [right(1), "5", "<think>cut off", WRONG, f"{right(1)} or 6", "<answer>5</answer>"]
    model = ScriptedModel(lambda number: answers)
    report = build_data(prompt_set({"sums": 1}, start=1), model, tmp_path / "out", n_rollouts=6, other_mode_share=0.0)
    counts = report["tasks"]["sums"]
    assert (counts["malformed"], counts["sometimes"], counts["mean_pass_rate"]) == (3, 1, pytest.approx(2 / 6))
    assert "malformed" in (tmp_path / "out" / "README.md").read_text()


def test_rows_are_read_and_written_in_the_answer_format_of_the_model(tmp_path):
    plain = AnswerFormat(answer_tags=None)
    texts = {1: ["<think>\nlong way\n</think>\n\n5", "<think>short</think>5", "9"], 2: ["<think>6", "9"]}
    model = ScriptedModel(lambda number: texts.get(number, "7"))
    model.answer_format = plain
    expert = ScriptedModel(lambda number: right(number, "expert"))
    general = prompt_set({"ocr": 2}, "general dataset", start=200)
    options = {"general": general, "expert": expert, "n_rollouts": 3, "other_mode_share": 0.0}
    report = build_data(prompt_set({"sums": 3}, start=1), model, tmp_path / "out", **options)
    rows = load(tmp_path / "out", tmp_path)
    written = {number_of(row): row["completion"][0]["content"] for row in rows}
    assert written[1] == "<think>\nshort\n</think>\n\n5" and written[200] == "<think>\n\n</think>\n\n204"
    assert written[2] == "<think>\nexpert\n</think>\n\n6"
    assert report["tasks"]["sums"]["malformed"] == 2
    for index, row in enumerate(rows):
        check_row(row, index, answer_format=plain)
        with pytest.raises(ValueError, match="is not of the form <think>…</think><answer>…</answer>"):
            check_row(row, index)


def test_nothing_left_is_an_error_that_says_why(tmp_path):
    with pytest.raises(ValueError, match="No thinking row is left of 6 prompts: 6 were always.*expert_completion"):
        build_data(prompt_set({"sums": 6}), ScriptedModel(right), tmp_path / "out")
    with pytest.raises(ValueError, match="6 never .6 without an expert"):
        build_data(prompt_set({"sums": 6}), ScriptedModel(lambda number: WRONG), tmp_path / "other")
    assert not (tmp_path / "out").exists() and (tmp_path / "out.rollouts.jsonl").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_rollouts": 0}, "`n_rollouts` is 0"),
        ({"always_right": "keep"}, "`always_right` is 'keep'"),
        ({"other_mode_share": 0.7}, "`other_mode_share` is 0.7"),
    ],
)
def test_bad_arguments(tmp_path, changes, message):
    model = ScriptedModel(by_thirds)
    with pytest.raises(ValueError, match=message):
        build_data(prompt_set({"sums": 3}), model, tmp_path / "out", **changes)
    assert model.asked == []


def test_a_folder_that_holds_something_is_refused_before_anything_is_drawn(tmp_path):
    (tmp_path / "file").write_text("mine")
    model = ScriptedModel(by_thirds)
    with pytest.raises(FileExistsError):
        build_data(prompt_set({"sums": 3}), model, tmp_path)
    assert model.asked == []


def test_prompts_may_be_text_or_parts_and_keep_their_images(tmp_path):
    rows = prompt_rows({"sums": 10})
    for row in rows:
        text = {"type": "text", "text": row["prompt"][0]["content"]}
        row["prompt"][0]["content"] = [*({"type": "image"} for _ in row["images"]), text]
    general = Dataset.from_list([{"prompt": f"what is {n} + 4", "images": [png(n)], "solution": "x"} for n in range(9)])
    model = ScriptedModel(lambda number: [right(number), WRONG])
    general = PromptSet(general, "general dataset")
    build_data(PromptSet(Dataset.from_list(rows), "dataset"), model, tmp_path / "out", general=general)
    rows = load(tmp_path / "out", tmp_path)
    assert {row["task"] for row in rows} == {"sums", "default"}
    for index, row in enumerate(rows):
        check_row(row, index)
        places = sum(part["type"] == "image" for part in row["prompt"][0]["content"])
        assert places == len(row["images"]) == (1 if row["task"] == "default" else number_of(row) % 2)


def test_keys_that_datasets_filled_up_are_left_out():
    parts = [{"type": "image", "image": None}, {"type": "text", "text": "what is 1 + 4"}]
    rows = [{"prompt": [{"role": "user", "content": parts}], "images": [png(1)], "solution": "5"}]
    (message,) = PromptSet(Dataset.from_list(rows), "dataset")[0]["prompt"]
    assert message["content"] == [{"type": "image"}, {"type": "text", "text": "what is 1 + 4"}]


def test_changed_prompts_are_other_prompts():
    rows = prompt_rows({"sums": 2})
    prints = {PromptSet(Dataset.from_list(rows), "dataset").fingerprint for _ in range(2)}
    for change in ({"solution": "9"}, {"prompt": [{"role": "user", "content": "a"}]}, {"images": [png(9)]}):
        prints.add(PromptSet(Dataset.from_list([rows[0], {**rows[1], **change}]), "dataset").fingerprint)
    assert len(prints) == 4


def test_a_row_that_breaks_the_format_is_not_written(tmp_path):
    row = {**prompt_rows({"sums": 1})[0], "completion": [{"role": "assistant", "content": "4"}], "thinking": True}
    with pytest.raises(ValueError, match="Row 0 of the dataset, column 'completion'"):
        write_dataset_folder(tmp_path, [row], {}, {}, None)


def test_the_card_says_what_is_known(tmp_path):
    build_data(
        prompt_set({"sums": 9}),
        ScriptedModel(by_thirds),
        tmp_path / "out",
        n_rollouts=4,
        command="metis-home build-data",
    )
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| sums | 3 | 0.67 | 9 | 3 | 3 | 3 | 3 | 0.500 | 3 | 0 | 0 | 3 | 0 |" in card
    assert "| `n\\_rollouts` | 4 |" in card or "| `n_rollouts` | 4 |" in card
    assert "metis-home build-data" in card and card.startswith("---\n")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "a", "task": "x"}], "dataset has no column 'solution'"),
        ([], "has no column 'prompt', 'solution'"),
        ([{"prompt": "a", "solution": ""}], "Row 0 of the dataset, column 'solution':.*holds no answer"),
        ([{"prompt": "a", "solution": "7"}, {"prompt": "b", "solution": None}], "Row 1 .*'solution':.*must be text"),
        ([{"prompt": "a", "solution": "a <think> b"}], "Row 0 .*'solution'.*contains '<think>'"),
        ([{"prompt": [{"role": "assistant", "content": "a"}], "solution": "7"}], "Row 0.*'prompt'.*last message"),
        ([{"prompt": "see <|image_pad|>", "solution": "7"}], "Row 0.*'prompt'.*spells out"),
        (
            [{"prompt": "a", "images": ["missing.png"], "solution": "7"}],
            "Row 0.*'images': there is no file 'missing",
        ),
        ([{"prompt": "a", "solution": "7", "expert_completion": ["a"]}], "Row 0.*'expert_completion'.*is not text"),
    ],
)
def test_bad_prompts_are_errors_that_name_row_and_column(rows, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        PromptSet(Dataset.from_list(rows), "dataset")


def test_an_empty_dataset_is_an_error():
    with pytest.raises(ValueError, match="dataset has no rows"):
        PromptSet(Dataset.from_dict({"prompt": [], "solution": []}), "dataset")
