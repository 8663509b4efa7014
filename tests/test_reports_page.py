"""The page about reports: its commands and its code run, and write what it says."""

import json
import re
import shlex
from pathlib import Path

from hf_metis_home.cli import main
from hf_metis_home.reports import figures, report, wrong_routes

from .reports.report_common import dense_outcome, outcome, write_folder


PAGE = (Path(__file__).parents[1] / "docs" / "reports.md").read_text()


def test_commands_of_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = {"thinking_threshold": 0.5, "tasks": {"sums": {"dataset": "owner/sums"}}}
    write_folder(Path("outcomes"), [outcome(number) for number in range(8)], {}, run)
    for name in ("outcomes-base", "outcomes-mixed"):
        write_folder(Path(name), [dense_outcome(number) for number in range(8)])
    commands = "".join(re.findall(r"^```bash\n(.*?)^```", PAGE, re.M | re.S)).splitlines()
    assert len(commands) == 2
    for command in commands:
        program, *words = shlex.split(command)
        assert program == "metis-home" and main(words) == 0, command
        assert "- The router thinks on" in capsys.readouterr().out
    assert json.loads(Path("report-0.3/results.json").read_text())["threshold"] == 0.3
    assert "base" in json.loads(Path("report-0.3/results.json").read_text())["tasks"]["all"]["policies"]
    named = {*re.findall(r"`([\w.]+\.(?:html|json))` \|", PAGE), ".eval_results/sums.yaml"}
    named |= {f"{path}.{ending}" for path in re.findall(r"`(plots/\w+)`", PAGE) for ending in ("png", "csv")}
    written = {path.relative_to("report").as_posix() for path in Path("report").rglob("*") if path.is_file()}
    assert written == named and len(written) == 10

    [block] = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    exec(block, {})
    assert "model-index:" in capsys.readouterr().out


def test_sections_of_the_page():
    template = Path(report.__file__).with_name("report.html.jinja").read_text(encoding="utf-8")
    [table] = re.findall(r"^\| section \| content \|\n\|.*\n((?:\|.*\n)+)", PAGE, re.M)
    titles = re.findall(r"^\| (.+?) \|", table, re.M)
    assert titles == re.findall(r"<h2[^>]*>(.+?)</h2>", template) and len(titles) == 10


def test_bounds_of_the_page():
    for bound in (
        f"{wrong_routes.SAMPLES} samples of each kind", f"{wrong_routes.LONGEST_TEXT:,} characters of each text",
        f"{wrong_routes.IMAGE_SIDE} pixels", f"{figures.CURVE_POINTS} points", f"{report.SUBJECTS} subjects",
        f"{report.REASONS} reasons",
    ):  # fmt: skip
        assert bound in PAGE, bound
