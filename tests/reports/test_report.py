"""The report: one file that loads nothing, keeps text as text, and shows what the table says."""

import base64
import io
import json
import os
import re
import shutil
import subprocess

import pytest
from PIL import Image

from hf_metis_home.evaluation.outcomes_folder import read_outcomes_folder
from hf_metis_home.reports.report import report_command, write_report
from hf_metis_home.reports.wrong_routes import IMAGE_SIDE, LONGEST_TEXT, SAMPLES
from tests.demo.test_report import LOADING, NASTY, Page
from tests.reports.report_common import dense_outcome, outcome, write_folder


ROWS = [outcome(number) for number in range(8)]
PLOT = "Plot of accuracy against mean generated tokens: {}. The table below has the numbers."


@pytest.fixture
def report(tmp_path, monkeypatch):
    """Writes a folder of outcomes and its report without the plots; gives the page."""
    monkeypatch.setattr("hf_metis_home.reports.report.write_plots", lambda metrics, folder: {})

    def write(rows=ROWS, questions=None, run=None, **options) -> Page:
        folder = write_folder(tmp_path / "outcomes", rows, questions, run)
        write_report(folder, tmp_path / "report", **options)
        return Page((tmp_path / "report" / "report.html").read_text("utf-8"))

    return write


def test_answers_are_read_in_the_format_of_the_run(report, tmp_path):
    def malformed(run) -> float:
        report([outcome(0, text_thinking="<think>3+4</think>7")], run=run)
        return json.loads((tmp_path / "report" / "results.json").read_text())["tasks"]["all"]["malformed_thinking"]

    assert malformed({}) == malformed({"model": {"answer_format": None}}) == 1.0
    plain = {"thinking_tags": ["<think>", "</think>"], "answer_tags": None}
    assert malformed({"model": {"name": "hybrid", "answer_format": plain}}) == 0.0


def test_loads_nothing(report):
    page = report(questions={})
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object", "embed"}
        assert all(attributes[name].startswith("data:image/") for name in LOADING & attributes.keys())
        assert not any(name.startswith("on") for name in attributes)
    assert "@import" not in page.text and "url(" not in page.text
    policy = next(attributes["content"] for _, attributes in page.tags if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'")


def test_shows_what_the_table_says(report, tmp_path):
    page = report(threshold=0.5)
    # The router is right about the first (thought over) and the third (direct), in each four: 50 %.
    assert "Router 50.0" not in page.shown and "sums n = 8 50.0" in page.shown
    for figure in ("75.0", "100 % · 30.0 tok", "0 % · 6.0 tok", "50 % · 18.0 tok"):
        assert figure in page.shown, figure
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    assert results["tasks"]["all"]["policies"]["router"]["accuracy"] == 0.5 and results["run"] == {}
    assert "The router thinks on 50.0 % of the questions. Its answers: 50.0 % correct" in page.shown
    assert "None. Every question was answered." in page.shown


def test_threshold_comes_from_the_flag_then_the_run_then_the_default(report):
    assert "threshold is 0.5 (the default)" in report().shown
    assert "threshold is 0.85 (the model's own)" in report(run={"thinking_threshold": 0.85}).shown
    page = report(run={"thinking_threshold": 0.85}, threshold=0.15)
    assert "threshold is 0.15 (as requested)" in page.shown and "--threshold 0.15" in page.shown
    with pytest.raises(ValueError, match=r"`threshold` is 1.5, but it is compared with a probability"):
        report(threshold=1.5)


def test_stale_calibration_is_told(report):
    assert "calibration is stale" not in report(run={"model": {"name": "m"}}).shown
    problem = "The calibration is stale: the weights have changed since <b>2026</b>."
    assert f"At the time of the evaluation: {problem}" in report(run={"model": {"calibration": problem}}).shown


def test_samples_are_what_the_router_got_wrong(report):
    page = report(questions={})
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 4 and all(image["class"] == "small" for image in images)
    missed, needless = page.shown.split("Should have used thinking")[1].split("Did not need thinking")
    assert "2 of 2" in missed and "2 of 2" in needless
    for part, numbers, probability in ((missed, (1, 5), "0.200"), (needless, (3, 7), "0.800")):
        for number in numbers:
            assert f"sums · {number} how much is it?" in part and f"steps {number}</think>" in part
        assert f"probability {probability} gold 7" in part
    assert "Thinking 30 tok ✓ right" in missed and "Non-thinking 6 tok ✗ wrong" in missed
    assert "Thinking 30 tok ✗ wrong" in needless and "Non-thinking 6 tok ✓ right" in needless


def test_samples_are_the_surest_of_every_task_in_turn(report):
    needless = {"correct_non_thinking": True, "thinking_probability": 0.9}
    rows = [outcome(number, **needless, correct_thinking=True) for number in range(20)]
    rows += [outcome(20, **needless, correct_thinking=False), outcome(21, **needless | {"thinking_probability": 0.99})]
    rows += [outcome(22, **needless, task="rare", correct_thinking=True)]
    shown = report(rows).shown.split("Did not need thinking")[1]
    assert re.findall(r"(\w+) · (\d+)", shown)[:4] == [("sums", "20"), ("rare", "22"), ("sums", "21"), ("sums", "0")]
    assert len(re.findall(r"· \d+ thinking", shown)) == SAMPLES and f"{SAMPLES} of 23" in shown


def test_text_of_outcomes_and_questions_stays_text(report):
    def page(text: str) -> Page:
        fields = ("task", "subject", "text_thinking", "text_non_thinking", "error")
        rows = [outcome(number, id=f"{number}{text}", **dict.fromkeys(fields, text)) for number in range(4)]
        return report(rows, {"question": text, "solution": text})

    plain, nasty = page("plain"), page(NASTY)
    assert [tag for tag, _ in nasty.tags] == [tag for tag, _ in plain.tags]
    assert nasty.shown.count(" ".join(NASTY.split())) == plain.shown.count("plain") > 20


def test_other_text_stays_text(report, tmp_path):
    run = {"arguments": {"model_name_or_path": NASTY, NASTY: NASTY}, NASTY: NASTY, "versions": {NASTY: [NASTY]}}
    hostile = write_folder(tmp_path / "<img src=x onerror=alert(1)>", [dense_outcome(number) for number in range(8)])
    page = report(run=run, baselines={NASTY: hostile})
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    assert page.shown.count("<script>alert(1)</script>") > 8 and "<img src=x onerror=alert(1)>" in page.shown


def test_what_is_no_image_is_left_out(report):
    for content in (b"<svg onload=alert(1)>", b"", b"\x89PNG\r\n\x1a\n" + b"\0" * 50, None):
        page = report(questions={"image": content})
        assert "img" not in {tag for tag, _ in page.tags} and "how much is it?" in page.shown


def test_without_run_and_questions(report):
    page = report()
    assert "img" not in {tag for tag, _ in page.tags} and "how much is it?" not in page.shown
    assert "Evaluation of unnamed model" in page.shown and "About this report" in page.shown
    assert not re.search(r"\b(None|nan|NaN)\b", page.shown.replace("None. Every", ""))


def test_failed_rows_are_told_with_their_reasons(report):
    failed = {"correct_thinking": None, "tokens_thinking": None, "text_thinking": None, "seconds_thinking": None}
    rows = [*ROWS, *(outcome(number, **failed, error="thinking: out of memory (4 GiB)") for number in (8, 9))]
    rows.append(outcome(10, error="non_thinking: the picture is broken"))
    page = report(rows, {})
    assert "3 rows with an error" in page.shown
    assert "thinking: out of memory (4 GiB) 2 sums 8" in page.shown
    assert "non_thinking: the picture is broken 1 sums 10" in page.shown
    assert "3 of 11 rows failed" in page.shown
    assert not re.search(r"\b(nan|NaN)\b", page.shown)


def test_malformed_answers_are_shown_apart(report):
    unfinished = {"text_thinking": "<think>and so on", "correct_thinking": False}
    page = report([outcome(number, **(unfinished if number < 2 else {})) for number in range(8)])
    assert "sums 75.0 % 100.0 % 25.0 % 0.0 %" in page.shown.split("malformed, non-thinking")[1]


def test_table_of_a_dense_model(report):
    page = report([dense_outcome(number) for number in range(8)], {})
    assert "What the router adds" not in page.shown and "Where the router was wrong" not in page.shown
    assert "50 % · 18.0 tok" in page.shown
    assert "The model's answers: 50.0 % correct" in page.shown
    one_mode = report([dense_outcome(number, task=f"task {number % 2}") for number in range(8)])
    assert (
        "Model : the model chooses by itself whether to think" in one_mode.shown
        and "All thinking" not in one_mode.shown
    )
    assert not re.search(r"\b(None|nan|NaN)\b", page.shown.replace("None. Every", ""))


def test_baselines(report, tmp_path):
    dense = write_folder(tmp_path / "dense", [dense_outcome(number) for number in range(8)])
    page = report(baselines={"mixed data": dense})
    assert "mixed data : a dense model" in page.shown
    assert "The dense model 'mixed data': 50.0 % correct" in page.shown
    assert f"--baselines 'mixed data={dense}'" in page.shown


def test_thirty_tasks_with_subjects(report):
    rows = [outcome(number, task=f"task {number % 30}", subject=f"s{number % 7}") for number in range(240)]
    page = report(rows, {})
    assert page.shown.count("task 17") > 3 and "240 questions from 30 tasks" in page.shown
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    plots = [image for image in images if image["src"].startswith("data:image/svg+xml")]
    assert len(images) == 2 * SAMPLES + 30 == 2 * SAMPLES + len(plots)
    assert {image["alt"] for image in plots} >= {PLOT.format(f"task {number}") for number in range(30)}


def test_page_stays_small(report):
    buffer = io.BytesIO()
    Image.frombytes("RGB", (600, 600), os.urandom(600 * 600 * 3)).save(buffer, "PNG")
    long = "<" * 50_000
    rows = [
        outcome(number, id=f"{number}", subject=f"subject {number}", text_thinking=long, text_non_thinking=long)
        for number in range(40)
    ]
    page = report(rows, {"image": buffer.getvalue(), "question": long})
    assert all(attributes["src"].startswith("data:image/jpeg") for tag, attributes in page.tags if tag == "img")
    assert len(page.text) < 100_000 + 2 * SAMPLES * (4 * 3 * (LONGEST_TEXT + 100) + 4 * IMAGE_SIDE**2)
    assert "47,000 characters left out" in page.shown


def test_wrong_paths_say_what_to_give(tmp_path):
    with pytest.raises(FileNotFoundError, match="`outcomes` is .*nowhere', which is not a file. Pass the folder"):
        write_report(tmp_path / "nowhere", tmp_path / "report")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty/outcomes.parquet', which is not a file"):
        write_report(tmp_path / "empty", tmp_path / "report")
    folder = write_folder(tmp_path / "outcomes", ROWS)
    with pytest.raises(FileNotFoundError, match="`baselines` is .*nowhere'"):
        write_report(folder, tmp_path / "report", baselines={"dense": tmp_path / "nowhere"})
    (folder / "run.json").write_text("{")
    with pytest.raises(ValueError, match="run.json' is not valid JSON"):
        write_report(folder, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_report_in_a_folder_that_will_be_moved_names_its_last_place(tmp_path):
    folder = write_folder(tmp_path / ".out.partial", ROWS)
    results = write_report(folder, folder, command=report_command("runs/out"))
    assert results["tasks"]["all"]["n"] == 8
    page = Page((folder / "report.html").read_text("utf-8"))
    assert "metis-home report --outcomes runs/out --output_dir report" in page.shown
    assert ".partial" not in page.shown
    write_report(folder, tmp_path / "report")
    page = Page((tmp_path / "report" / "report.html").read_text("utf-8"))
    assert f"metis-home report --outcomes {folder} --output_dir report" in page.shown


def test_parquet_alone_will_do(tmp_path):
    folder = write_folder(tmp_path / "outcomes", ROWS, run={"thinking_threshold": 0.85})
    found = write_report(folder / "outcomes.parquet", tmp_path / "report")
    assert found["threshold"] == 0.85


def test_page_shows_the_plots_that_are_written(tmp_path):
    folder = write_folder(tmp_path / "outcomes", ROWS)
    write_report(folder, tmp_path / "report")
    page = Page((tmp_path / "report" / "report.html").read_text("utf-8"))
    plots = [attributes for tag, attributes in page.tags if tag == "img"]
    assert [plot["alt"].split(":")[0].split(" of ")[0] for plot in plots] == ["Plot", "Bars", "Plot"]
    texts = [base64.b64decode(plot["src"].partition(",")[2]).decode() for plot in plots]
    assert ">All non-thinking</text>" in texts[0] and ">sums</text>" in texts[1] and "thinking pays" in texts[2]
    assert len(list((tmp_path / "report" / "plots").glob("*.png"))) == 3


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's chromium to draw the page")
def test_browser_draws_it_light_and_dark(report, tmp_path):
    report(questions={})
    page, corners = (tmp_path / "report" / "report.html").as_uri(), {}
    for scheme, number in (("dark", 0), ("light", 1)):
        picture = tmp_path / f"{scheme}.png"
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}"]
        options += [f"--blink-settings=preferredColorScheme={number}", "--window-size=600,2000"]
        command = ["chromium", *options, f"--screenshot={picture}", page]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        with Image.open(picture) as image:
            corners[scheme] = image.convert("L").getpixel((2, 2))
            assert len(image.convert("RGB").getcolors(1 << 24)) > 100  # text and plots, not a blank page
    assert corners["dark"] < 50 and corners["light"] > 200


def test_a_table_in_memory_is_not_read_again(tmp_path, monkeypatch):
    """What `metis-home eval` has in hand gives the same results as its folder."""
    folder = write_folder(tmp_path / "outcomes", ROWS)
    answered = read_outcomes_folder(folder)
    expected = write_report(folder, tmp_path / "read")
    reader = "hf_metis_home.reports.report.read_outcomes_folder"
    monkeypatch.setattr(reader, lambda *arguments: pytest.fail("read again"))
    assert write_report(answered, tmp_path / "in-memory", command="metis-home report") == expected
