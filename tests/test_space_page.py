"""The page about Spaces: its commands run and write what it says."""

import re
import shlex
from pathlib import Path
from unittest.mock import create_autospec

import huggingface_hub

from hf_metis_home.cli import main
from hf_metis_home.conversion import save_hub_folder

from .cli.chat_common import hybrid


PAGE = (Path(__file__).parents[1] / "docs" / "space.md").read_text()
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_commands_of_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_hub_folder(*hybrid(), "runs/demo/hybrid")
    found = huggingface_hub.ModelInfo(id="OWNER/NAME", sha=COMMIT, config={"model_type": "metis_home"})
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, name, revision=None: found)
    *commands, start = "".join(re.findall(r"^```bash\n(.*?)^```", PAGE, re.M | re.S)).splitlines()
    assert len(commands) == 3
    for command in commands:
        program, *words = shlex.split(command)
        assert program == "metis-home" and main(words) == 0, command
        folder = Path(words[words.index("--output_dir") + 1])
        pinned = (folder / "app.py").read_text("utf-8").count(f"REVISION = {COMMIT!r}")
        assert pinned == ("--model_revision" in words or folder.name == "space")
        named = {name.rstrip("/") for name in re.findall(r"^\| `([\w./]+)` \|", PAGE, re.M)}
        assert {path.name for path in folder.iterdir()} == named
    program, path = shlex.split(start)
    assert program == "python" and Path(path).is_file()  # `hub_templates/test_space_page.py` starts one
    capsys.readouterr()

    api = create_autospec(huggingface_hub.HfApi, instance=True)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
    [block] = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    exec(block, {})
    assert Path(api.upload_folder.call_args.kwargs["folder_path"], "app.py").is_file()


def test_limits_of_the_page():
    source = (Path(__file__).parents[1] / "src/hf_metis_home/hub_templates/space/app.py").read_text("utf-8")
    for constant, text in (
        ("MAX_BYTES = 10 * 2**20", "10 MB"), ("MAX_PIXELS = 25_000_000", "25 million pixels"),
        ("MAX_QUESTION = 2000", "2000 characters"), ("SECONDS_OF_GPU = 120", "two minutes"),
        ('FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")', "PNG, JPEG, WebP, GIF or BMP"),
    ):  # fmt: skip
        assert constant in source and text in PAGE, constant
