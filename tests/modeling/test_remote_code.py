"""What users get: a saved folder, loaded where this package cannot be imported, offline, and saved again from there."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from hf_metis_home.modeling import MetisHomeForConditionalGeneration, MetisHomeModel

from .tiny import batch, prompt_ids, tiny_hybrid


ROOT = Path(__file__).parents[2]
CODE_FILES = {
    "branches_metis_home.py",
    "compat_metis_home.py",
    "configuration_metis_home.py",
    "generation_metis_home.py",
    "modeling_metis_home.py",
    "router_metis_home.py",
}
AUTO_MAP = {
    "AutoConfig": "configuration_metis_home.MetisHomeConfig",
    "AutoModel": "modeling_metis_home.MetisHomeModel",
    "AutoModelForImageTextToText": "modeling_metis_home.MetisHomeForConditionalGeneration",
}
PROMPTS = [prompt_ids(0), prompt_ids(1, length=5, images=2), prompt_ids(2, length=11, images=0)]

# Run with `-I` from the folder: neither the environment nor the working directory puts the package on the path.
ISOLATED = """
import sys
sys.path[:] = [entry for entry in sys.path if "hf_metis_home" not in entry]
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_metis_home":
            raise ImportError("the package is not importable here")
sys.meta_path.insert(0, Refuse())
import torch
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText
source, target, inputs_file, result_file = sys.argv[1:]
inputs = torch.load(inputs_file, weights_only=True)
model = AutoModelForImageTextToText.from_pretrained(source, trust_remote_code=True)
backbone = AutoModel.from_pretrained(source, trust_remote_code=True)
config = AutoConfig.from_pretrained(source, trust_remote_code=True)
with torch.no_grad():
    logits = model(**inputs).logits
    hidden = backbone(**inputs, thinking=True).last_hidden_state
tokens = model.generate(**inputs, max_new_tokens=6, do_sample=False)
torch.save({"logits": logits, "hidden": hidden, "tokens": tokens}, result_file)
model.save_pretrained(target)
again = AutoModelForImageTextToText.from_pretrained(target, trust_remote_code=True)
with torch.no_grad():
    assert torch.equal(again(**inputs).logits, logits)
again.save_pretrained(target + "-again")
print(type(model).__module__, type(model).__name__, type(backbone).__name__, config.model_type)
"""


def run_isolated(source, target, inputs, tmp_path):
    torch.save(inputs, tmp_path / "inputs.pt")
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    command = [sys.executable, "-I", "-c", ISOLATED, source, target, tmp_path / "inputs.pt", tmp_path / "result.pt"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout, torch.load(tmp_path / "result.pt", weights_only=True)


def check_folder(folder):
    names = {path.name for path in folder.iterdir()}
    assert CODE_FILES | {"config.json", "generation_config.json", "model.safetensors"} <= names
    config = json.loads((folder / "config.json").read_text())
    assert config["auto_map"] == AUTO_MAP
    assert config["architectures"] == ["MetisHomeForConditionalGeneration"]


def test_isolated_load_equals_and_saves_again(tmp_path):
    hybrid = tiny_hybrid(router_layer=1)
    hybrid.save_pretrained(tmp_path / "first")
    check_folder(tmp_path / "first")
    inputs = batch(PROMPTS)
    with torch.no_grad():
        logits = hybrid(**inputs).logits
        hidden = hybrid.model(**inputs, thinking=True).last_hidden_state
    tokens = hybrid.generate(**inputs, max_new_tokens=6, do_sample=False)

    printed, found = run_isolated(tmp_path / "first", tmp_path / "second", inputs, tmp_path)
    assert printed.startswith("transformers_modules.")
    assert "MetisHomeForConditionalGeneration MetisHomeModel metis_home" in printed
    assert torch.equal(found["logits"], logits)
    assert torch.equal(found["hidden"], hidden)
    assert torch.equal(found["tokens"], tokens)
    check_folder(tmp_path / "second")
    check_folder(tmp_path / "second-again")  # what was loaded from what was saved there saves all of it too


def test_an_older_transformers_is_told_what_is_needed(monkeypatch):
    from hf_metis_home.modeling import compat_metis_home

    code = Path(compat_metis_home.__file__).read_text()
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "5.17.0" if name == "transformers" else version(name)
    )
    with pytest.raises(
        ImportError, match=r">=5\.18 is required .* found transformers==5\.17\.0.\nMetis-HOME needs it. Run `pip"
    ):
        exec(code, {})
    floor = re.search(r'require_version\("(transformers>=[\d.]+)"', code).group(1)
    assert floor in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]


def test_loads_without_remote_code_where_the_package_is(tmp_path):
    from transformers import AutoModel, AutoModelForImageTextToText

    tiny_hybrid().save_pretrained(tmp_path)
    assert type(AutoModelForImageTextToText.from_pretrained(tmp_path)) is MetisHomeForConditionalGeneration
    assert type(AutoModel.from_pretrained(tmp_path)) is MetisHomeModel


def test_backbone_alone_saves_a_complete_folder(tmp_path):
    tiny_hybrid().model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["auto_map"] == AUTO_MAP
    assert CODE_FILES <= {path.name for path in tmp_path.iterdir()}


def test_shipped_files_import_only_what_every_user_has():
    import ast
    from pathlib import Path

    import hf_metis_home.modeling as modeling

    allowed = {"torch", "transformers"} | sys.stdlib_module_names
    for name in CODE_FILES:
        tree = ast.parse((Path(modeling.__file__).parent / name).read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert all(alias.name.split(".")[0] in allowed for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 1 or node.module.split(".")[0] in allowed
                assert node.level <= 1 and node.module  # `from . import x` would not be copied to the Hub
