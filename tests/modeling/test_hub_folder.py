"""What the tests prove of the package's model they prove of the files in a Hub folder, where there is no package."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .tiny import tiny_hybrid


HERE = Path(__file__).parent
JUDGED = (
    "assisted_decoding", "bad_input", "generation", "generation_features", "properties", "routing", "stateless",
)  # fmt: skip


@pytest.mark.slow
def test_the_same_holds_without_the_package(tmp_path):
    tiny_hybrid().save_pretrained(tmp_path / "hub")
    env = {**os.environ, "METIS_HOME_HUB_FOLDER": str(tmp_path / "hub"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    files = [str(HERE / f"test_{name}.py") for name in JUDGED]
    command = [
        sys.executable, "-m", "pytest", "-p", "tests.modeling.from_hub_folder", "-p", "no:cacheprovider", *files
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parents[1], env=env)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "models come from transformers_modules." in done.stdout and " passed" in done.stdout.splitlines()[-1]
