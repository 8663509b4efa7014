"""The page about calibration: its commands run in order on a tiny model, and what it says is written is written."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from hf_metis_home.cli import main
from hf_metis_home.conversion import upcycle_checkpoint
from hf_metis_home.evaluation.outcomes import write_outcomes

from .conversion.common import save_dense
from .evaluation.test_calibration import smooth, table


PAGE = (Path(__file__).parents[1] / "docs" / "calibration.md").read_text()


def test_commands_of_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    upcycle_checkpoint(save_dense(tmp_path / "my-qwen"), "my-hybrid")
    write_outcomes(table(*smooth(np.random.default_rng(0), 2000)), "outcomes/outcomes.parquet")
    capsys.readouterr()
    *commands, validate = "".join(re.findall(r"^```bash\n(.*?)^```", PAGE, re.M | re.S)).splitlines()
    assert len(commands) == 3
    for command in commands:
        program, *words = shlex.split(command)
        assert program == "metis-home" and main(words) == 0, command
        printed = capsys.readouterr()
        config = json.loads(Path("my-hybrid/config.json").read_text())
        calibration = config["calibration"]
        assert calibration["statement"] in printed.out and printed.err == ""
        assert config["thinking_threshold"] == calibration["threshold"] > 0
        assert f"--{calibration['target']}" in words
    [cell] = re.findall(r"^\| `calibration` \| (.*) \|$", PAGE, re.M)
    named = set(re.findall(r"`(\w+)`", re.sub(r"\(how many[^)]*\)", "", cell)))
    assert named == calibration.keys()
    assert main(shlex.split(validate)[1:]) == 0 and "✓ calibration: threshold" in capsys.readouterr().out

    [block] = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    exec(block, {})
    assert "thinking ratio was" in capsys.readouterr().out


@pytest.mark.parametrize(("points", "questions"), re.findall(r"(\d) points? (?:takes )?(\d+)", PAGE))
def test_questions_that_a_promise_takes(points, questions):
    from hf_metis_home.evaluation.calibration import drop_bound

    bounds = [drop_bound(0, 0, int(questions) + more, 0.95) for more in (-1, 0)]
    assert bounds[0] > int(points) / 100 >= bounds[1]
