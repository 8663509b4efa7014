"""The page about publishing: its commands run in order, against a stand-in for the Hub, and send what it says."""

import re
import shlex
from pathlib import Path

from huggingface_hub import ModelCard

from hf_metis_home.cli import main
from hf_metis_home.conversion import export_checkpoint, upcycle_checkpoint
from hf_metis_home.data.dataset_folder import write_dataset_folder
from hf_metis_home.publishing import checks

from .conversion.common import save_dense
from .publishing.hub_server import hub  # noqa: F401  a fixture
from .reports.report_common import outcome, write_folder
from .trainers.common import make_rows


PAGE = (Path(__file__).parents[1] / "docs" / "publishing.md").read_text()


def test_commands_of_the_page(tmp_path, monkeypatch, capsys, hub):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    # The process that loads the folder takes seconds, and has tests of its own.
    monkeypatch.setattr(checks, "load_isolated", lambda *_: "not loaded in this test")
    upcycle_checkpoint(save_dense(tmp_path / "my-qwen"), "my-hybrid")
    write_folder(Path("outcomes"), [outcome(number) for number in range(8)])
    export_checkpoint("my-hybrid", "thinking", format="dense", branch="thinking")
    Path("rows").mkdir()
    report = {"rows": 2, "thinking": 1, "non_thinking": 1, "tasks": {"test": None}}
    write_dataset_folder(Path("rows"), make_rows([True, False], images=(0,)), report, {}, None)

    commands = "".join(re.findall(r"^```bash\n(.*?)^```", PAGE, re.M | re.S)).splitlines()
    assert len(commands) == 10
    for command in commands:
        program, *words = shlex.split(command)
        if "--create_pr" in words:  # of what is there already there is nothing to propose
            assert main(words) == 2 and "nothing to propose" in capsys.readouterr().err
            Path("my-hybrid/LICENSE").write_text("Apache License 2.0")
        assert program == "metis-home" and main(words) == 0, command + capsys.readouterr().err
        if words[0] == "push":
            assert ("Nothing was uploaded." in capsys.readouterr().out) is ("--dry_run" in words)
    assert hub.repositories.keys() == {"me/my-hybrid", "me/my-thinking", "datasets/me/my-rows"}
    repository = hub.repositories["me/my-hybrid"]
    assert repository.private and repository.refs.keys() == {"main", "second-try", "refs/pr/1"}
    assert repository.files("refs/pr/1").keys() - repository.files().keys() == {"LICENSE"}
    assert repository.files("second-try") == repository.files()
    assert {"README.md", "config.json", "model.safetensors"} <= repository.files().keys()
    card = ModelCard.load(Path("my-hybrid/README.md"))
    assert (
        "## Results" in card.text and 'revision = "0123456789abcdef' in card.text and card.data.license == "apache-2.0"
    )
    assert 'repo = "me/my-thinking"' in Path("thinking/README.md").read_text()
    assert "license: cc-by-4.0" in Path("rows/README.md").read_text()

    [block] = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    exec(block, {})
    assert f"{hub.url}/me/my-hybrid " in capsys.readouterr().out


def test_marks_of_the_page():
    assert re.search(r"^<!-- metis-home:use \w{8} -->$", PAGE, re.M)
