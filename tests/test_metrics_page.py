"""The page about metrics: its example prints what it says, and it knows every figure."""

import re
from pathlib import Path

import numpy as np

from hf_metis_home.evaluation.metrics import CURVE_POINTS, evaluate_outcomes
from hf_metis_home.evaluation.outcomes import write_outcomes
from hf_metis_home.evaluation.routing_metrics import call_performance

from .evaluation.test_metrics import HAND, table


PAGE = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()


def test_example_of_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_outcomes(table(HAND), "outcomes/outcomes.parquet")
    [block] = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    exec(block, {})
    [printed] = re.findall(r"^```text\n(.*?)^```", PAGE, re.M | re.S)
    assert capsys.readouterr().out == printed


def test_the_page_knows_every_figure():
    cells = evaluate_outcomes(table(HAND), 0.5, draws=2)["tasks"]["all"]
    policies = cells["policies"]
    names = {*cells, *policies, *policies["random"], *cells["leakage"]}
    words = set(re.findall(r"`(\w+)`", PAGE))
    assert names - {"policies"} <= words, names - words
    assert f"up to {CURVE_POINTS} thresholds" in PAGE


def test_apgr_of_a_coin():
    right = np.repeat([[0.0, 1.0]], 1000, axis=0)  # any order is as good as any other
    [said] = re.findall(r"random router has an APGR of ([\d.]+)", " ".join(PAGE.split()))
    assert round(call_performance(right, np.random.default_rng(0).random(1000))["apgr"], 2) == float(said)
