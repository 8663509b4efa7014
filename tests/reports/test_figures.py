"""The plots' files: a picture each, and a table with what it shows."""

import csv
import warnings
from pathlib import Path

import pytest
from datasets import Dataset
from PIL import Image

from hf_metis_home.evaluation.metrics import evaluate_outcomes
from hf_metis_home.evaluation.outcomes import FEATURES
from hf_metis_home.reports.figures import write_plots
from tests.reports.report_common import dense_outcome, outcome


def metrics(rows: list[dict], baselines: dict | None = None) -> dict:
    def table(rows: list[dict]) -> Dataset:
        return Dataset.from_list(rows, features=FEATURES)

    return evaluate_outcomes(
        table(rows), 0.5, baselines={name: table(rows) for name, rows in (baselines or {}).items()}
    )


def read(path: Path) -> list[dict]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_picture_has_its_table(tmp_path):
    rows = [outcome(number, subject="odd" if number % 2 else "even") for number in range(40)]
    dense = [dense_outcome(number) for number in range(40)]
    files = write_plots(metrics(rows, {"dense": dense}), tmp_path / "plots")
    names = {"pareto", "thinking_ratio", "reliability"}
    assert {path.name for path in files} == {f"{name}.{ending}" for name in names for ending in ("csv", "png")}
    for name in names:
        with Image.open(tmp_path / "plots" / f"{name}.png") as image:
            assert min(image.size) > 200 and len(image.convert("RGB").getcolors(1 << 20)) > 20

    pareto = {(row["task"], row["policy"]): row for row in read(tmp_path / "plots" / "pareto.csv")}
    assert float(pareto["all", "router"]["accuracy"]) == 0.5 and float(pareto["all", "router"]["tokens"]) == 18.0
    assert float(pareto["all", "thinking"]["low"]) < 0.75 < float(pareto["all", "thinking"]["high"])
    assert float(pareto["sums", "dense"]["accuracy"]) == 0.5 and ("all", "curve") in pareto
    ratios = {(row["task"], row["subject"]): row for row in read(tmp_path / "plots" / "thinking_ratio.csv")}
    assert float(ratios["sums", ""]["thinking_ratio"]) == 0.5 == float(ratios["sums", ""]["oracle"])
    assert float(ratios["sums", "odd"]["thinking_ratio"]) == 0.5 and ratios["sums", "odd"]["n"] == "20"
    bins = read(tmp_path / "plots" / "reliability.csv")
    assert sum(int(part["n"]) for part in bins) == 30  # the third of each four, which both get right, is not counted
    assert [float(part["thinking_pays"]) for part in bins if float(part["low"]) > 0.55] == [0.0, 1.0]


def test_names_are_not_formulas(tmp_path):
    names = ["$\\frac{$", "a\nb", "long " * 40, "日本語", "<b>"]
    rows = [outcome(number, task=names[number % 5]) for number in range(40)]
    dense = [dense_outcome(number, task=names[number % 5]) for number in range(40)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_plots(metrics(rows, {"$x_{$": dense}), tmp_path)
    assert {row["task"] for row in read(tmp_path / "pareto.csv")} == {*names, "all"}


@pytest.mark.parametrize("tasks", [1, 30])
def test_many_tasks_make_a_higher_picture(tmp_path, tasks):
    write_plots(metrics([outcome(number, task=f"task {number % tasks}") for number in range(120)]), tmp_path)
    with Image.open(tmp_path / "thinking_ratio.png") as image:
        assert image.height > 1000 if tasks == 30 else image.height < 400


def test_dense_model_has_no_reliability(tmp_path):
    files = write_plots(metrics([dense_outcome(number) for number in range(8)]), tmp_path)
    assert {path.stem for path in files} == {"pareto", "thinking_ratio"}
