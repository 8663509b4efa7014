"""The plots' files: a picture each, and a table with what it shows."""

import csv
import re
import warnings
from pathlib import Path
from xml.etree import ElementTree

import pytest
from datasets import Dataset
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from hf_metis_home.evaluation.metrics import evaluate_outcomes
from hf_metis_home.evaluation.outcomes import FEATURES
from hf_metis_home.reports.figures import (
    COLORS,
    MARKERS,
    Mark,
    accuracy_figure,
    pareto_figure,
    span,
    svg_text,
    write_plots,
)
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
    names = set(write_plots(metrics(rows, {"dense": dense}), tmp_path / "plots"))
    assert names == {"pareto", "thinking_ratio", "reliability"}
    files = {path.name for path in (tmp_path / "plots").iterdir()}
    assert files == {f"{name}.{ending}" for name in names for ending in ("csv", "png")}
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
        figures = write_plots(metrics(rows, {"$x_{$": dense}), tmp_path)
        texts = {name: svg_text(figure) for name, figure in figures.items()}
    assert ">$x_{$</text>" in texts["pareto"] and ">日本語</text>" in texts["thinking_ratio"]
    for text in texts.values():
        assert ElementTree.fromstring(text).tag.endswith("svg") and "<b>" not in text
    assert {row["task"] for row in read(tmp_path / "pareto.csv")} == {*names, "all"}


@pytest.mark.parametrize("tasks", [1, 30])
def test_many_tasks_make_a_higher_picture(tmp_path, tasks):
    write_plots(metrics([outcome(number, task=f"task {number % tasks}") for number in range(120)]), tmp_path)
    with Image.open(tmp_path / "thinking_ratio.png") as image:
        assert image.height > 1000 if tasks == 30 else image.height < 400


def test_dense_model_has_no_reliability(tmp_path):
    assert set(write_plots(metrics([dense_outcome(number) for number in range(8)]), tmp_path)) == {
        "pareto",
        "thinking_ratio",
    }
    assert {path.stem for path in tmp_path.iterdir()} == {"pareto", "thinking_ratio"}


@pytest.mark.parametrize("heights", [[1.0] * 7, [0.0] * 7, [0.5] * 7, [0.99, 0.98, 0.6, 0.59, 0.01, 0.0, 0.0]], ids=str)
def test_names_of_marks_do_not_overlap(heights):
    looks = zip(heights, MARKERS, ["blue", "red", "green", "gray", "orange", "purple", "ink"], strict=True)
    marks = [Mark(f"Model {i}", 10.0 + i, y, (y, y), shape, color) for i, (y, shape, color) in enumerate(looks)]
    figure = accuracy_figure(marks)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # places the names
    names = figure.axes[0].texts
    boxes = sorted((Text.get_window_extent(name, canvas.get_renderer()) for name in names), key=lambda box: box.y0)
    assert len(boxes) == 7 and len({(name.xy, name.get_text()) for name in names}) == 7
    assert all(below.y1 <= above.y0 for below, above in zip(boxes, boxes[1:], strict=False))
    assert boxes[0].y0 >= 0 and boxes[-1].y1 <= figure.bbox.height


def test_marks_are_where_their_values_are():
    marks = [Mark("few", 0.0, 1.0, (0.9, 1.0), "up", "red"), Mark("many", 20.0, 0.25, None, "down", "blue")]
    figure = accuracy_figure(marks)
    places = {name.get_text(): name.xy for name in figure.axes[0].texts}
    assert places == {"few": (0.0, 100.0), "many": (20.0, 25.0)}
    points = {tuple(line.get_xydata()[0]) for line in figure.axes[0].lines if line.get_marker() in ("^", "v")}
    assert points == set(places.values())
    assert figure.axes[0].get_xlim()[1] > 20


def test_plot_holds_all_its_marks():
    for shares in ([0.361, 0.929], [0.92, 0.95], [0.5], [0.0, 0.02], [0.999, 1.0]):
        start, end = span(shares)
        assert end - start > 0.199
        assert all(start <= share <= end for share in shares) and 0 <= start < end <= 1


def test_svg_is_the_same_each_time_and_follows_the_screen():
    figures = [pareto_figure(metrics([outcome(number) for number in range(8)])) for _ in range(2)]
    first, second = map(svg_text, figures)
    assert first == second == svg_text(figures[0])
    assert "prefers-color-scheme:dark" in first and "var(--blue)" in first and "metadata" not in first
    light = re.sub(r"<style>.*?</style>", "", first)
    assert not any(color in light for color in COLORS.values())
