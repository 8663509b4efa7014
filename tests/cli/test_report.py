"""`metis-home report`: what it refuses, before any work and with a remedy."""

import pytest

from hf_metis_home.cli import main
from tests.reports.report_common import outcome, write_folder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--baselines", "outcomes-dense"], "`--baselines` has 'outcomes-dense', but needs name=FOLDER"),
        (["--baselines", "=here"], "needs name=FOLDER"),
        (["--baselines", "a=x", "a=y"], "`--baselines` names 'a' twice"),
        (["--threshold", "2"], "`threshold` is 2.0, but it is compared with a probability"),
        (["--outcomes", "nowhere"], "`outcomes` is 'nowhere', which is not a file. Pass the folder"),
        (["--baselines", "a=nowhere"], "`baselines` is 'nowhere', which is not a file. Pass the folder"),
    ],
)
def test_refuses(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "outcomes", [outcome(0)])
    assert main(["report", "--outcomes", "outcomes", "--output_dir", "report", *words]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["outcomes"]


def test_overwrites_nothing(tmp_path, capsys):
    write_folder(tmp_path / "outcomes", [outcome(0)])
    assert main(["report", "--outcomes", str(tmp_path / "outcomes"), "--output_dir", str(tmp_path / "outcomes")]) == 2
    assert "which is not empty" in capsys.readouterr().err
