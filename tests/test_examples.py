"""Every example runs as it stands, on tiny models, and writes what it says."""

import os
import re
import runpy
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers import AutoModelForImageTextToText

from hf_metis_home.conversion import save_hub_folder
from hf_metis_home.evaluation.outcomes import read_outcomes

from .conversion.common import dense_of, logits, save_dense, stored
from .modeling.test_remote_code import ISOLATED
from .pages import ROOT
from .trainers.common import make_hybrid, make_rows


EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
CPU = "--use_cpu --bf16 false --report_to none --gradient_checkpointing false --save_strategy no --max_steps 2".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the examples read."""
    folder = tmp_path_factory.mktemp("examples")
    save_dense(folder / "my-qwen")
    save_hub_folder(*make_hybrid(), folder / "hybrid")
    for name, modes in {"data": (True, False) * 4, "thoughts": (True,) * 8}.items():
        rows = [{**row, "id": str(n)} for n, row in enumerate(make_rows(modes))]
        (folder / name).mkdir()
        Dataset.from_list(rows).to_parquet(folder / name / "train.parquet")
    Image.new("RGB", (56, 56), "red").save(folder / "picture.png")
    return folder


@pytest.fixture
def run(folder, tmp_path, monkeypatch, capsys):
    """Run an example in this process, from a folder where the names in its words lead somewhere."""
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)

    def run(name: str, *words: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *words])
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_upcycle_and_sft(run):
    run("upcycle_and_sft.py", "--model_name_or_path", "my-qwen", "--dataset_name", "data", "--output_dir", "out", *CPU)
    trained, before = (AutoModelForImageTextToText.from_pretrained(path) for path in ("out", "out/upcycled"))
    names = ("lm_head.weight", "model.language_model.router.score.weight")
    assert all(not trained.get_parameter(name).equal(before.get_parameter(name)) for name in names)


def test_plain_trl_sft(run):
    run("plain_trl_sft.py", "hybrid", "data", "out")
    assert AutoModelForImageTextToText.from_pretrained("out").config.model_type == "metis_home"


def test_grpo_stage_rl(run):
    sizes = "--num_generations 4 --per_device_train_batch_size 8 --max_completion_length 4 --learning_rate 1e-2".split()
    sizes += ["--mask_truncated_completions", "false"]  # an untrained model never ends its answer
    given = ["--model_name_or_path", "my-qwen", "--dataset_name", "data", "--output_dir", "out", *CPU, *sizes]
    run("grpo_stage_rl.py", *given)
    assert dense_of("out").config.model_type == "qwen2_5_vl"


def test_lora_branches(run):
    run(
        "lora_branches.py", "--model_name_or_path", "my-qwen", "--dataset_name", "thoughts", "--output_dir", "out", *CPU
    )
    before, after = stored(Path("out/upcycled")), stored(Path("out/hybrid"))
    moved = {name for name, tensor in before.items() if not torch.equal(after[name], tensor)}
    assert moved and all(".thinking." in name for name in moved)
    assert (Path("out/adapter") / "adapter_model.safetensors").is_file()


def with_outcomes(monkeypatch):
    """Untrained branches are never right: who is right is made up, the rest is what they answered."""
    import hf_metis_home.evaluation.outcomes as outcomes

    collect = outcomes.collect_outcomes

    def collected(*arguments, **options):
        table = collect(*arguments, **{**options, "max_new_tokens": 2})
        return table.map(
            lambda row, n: {"correct_thinking": n % 2 == 0, "correct_non_thinking": n % 2 == 1}, with_indices=True
        )

    monkeypatch.setattr(outcomes, "collect_outcomes", collected)


def test_fit_router(run, monkeypatch):
    with_outcomes(monkeypatch)
    printed = run("fit_router.py", "hybrid", "data/train.parquet", "out")
    assert "\noracle: right 100.0%" in printed and printed.startswith("router: right "), printed
    before, after = stored(Path("hybrid")), stored(Path("out"))
    changed = {name for name, tensor in before.items() if not torch.equal(after[name], tensor)}
    assert changed and all(".router." in name for name in changed)


def test_evaluate_and_calibrate(run, monkeypatch, tmp_path):
    with_outcomes(monkeypatch)
    Path("hybrid").unlink()
    save_hub_folder(*make_hybrid(), "hybrid")  # it is written to
    printed = run("evaluate_and_calibrate.py", "hybrid", "data/train.parquet", "out", "--token_budget", "50")
    assert printed.count("oracle") == 3 and "threshold 0.7" in printed
    assert len(read_outcomes("out/outcomes.parquet")) == 8
    config = AutoModelForImageTextToText.from_pretrained("hybrid").config
    assert config.calibration["target"] == "token_budget" and config.calibration["statement"] in printed


def test_export_branch(run):
    assert "Qwen2_5_VLForConditionalGeneration loads a branch" in run("export_branch.py", "hybrid", "out")
    found = {branch: logits(dense_of(f"out/{branch}")) for branch in ("thinking", "non_thinking")}
    hybrid = AutoModelForImageTextToText.from_pretrained("hybrid").eval()
    assert all(torch.equal(found[branch], logits(hybrid, thinking=branch == "thinking")) for branch in found)
    assert Path("out/router/model.safetensors").is_file()


@pytest.mark.slow
def test_inference_auto_model(folder, tmp_path):
    """In an interpreter that cannot import the package."""
    refuse = ISOLATED.partition("import torch\n")[0]
    words = [str(folder / "hybrid"), str(folder / "picture.png"), "what color is the shape?"]
    path = ROOT / "examples" / "inference_auto_model.py"
    code = f"{refuse}import runpy; sys.argv[0] = 'example'; runpy.run_path({str(path)!r}, run_name='__main__')"
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, *words], capture_output=True, text=True, cwd=tmp_path, env=env
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"The router thinks with probability 0\.\d+\n", done.stdout) and "Direct: " in done.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_header_names_what_is_imported(path):
    """PEP 723: what `uv run` would install."""
    text = path.read_text(encoding="utf-8")
    [header] = re.findall(r"^# /// script\n(.*?)^# ///$", text, re.M | re.S)
    script = tomllib.loads(re.sub(r"^# ?", "", header, flags=re.M))
    assert (
        script["requires-python"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    )
    extras = set(",".join(re.findall(r"\[([\w,]+)\]", " ".join(script["dependencies"]))).split(",")) - {""}
    given = {re.split(r"[\[>=<]", name)[0].replace("-", "_") for name in script["dependencies"]}
    if "hf_metis_home" in given:
        for requirement in requires("hf-metis-home"):
            extra = re.search(r"extra == ['\"](\w+)['\"]", requirement)
            if extra is None or extra[1] in extras:
                given.add(re.split(r"[^\w-]", requirement)[0].replace("-", "_"))
    imported = set(re.findall(r"^(?:from|import) (\w+)", text, re.M)) - sys.stdlib_module_names
    assert imported <= given, imported - given


def test_every_example_is_tested_and_listed():
    tested = Path(__file__).read_text(encoding="utf-8")
    listed = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    for path in EXAMPLES:
        assert f"def test_{path.stem}(" in tested and f"`{path.name}`" in listed, path.name
