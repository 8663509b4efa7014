"""Exports, adapters and rows to the Hub: what `metis-home` writes can be sent, and what arrives loads."""

import json
from pathlib import Path

import pytest
from datasets import load_dataset
from safetensors.torch import save_file

from hf_metis_home.cli import main
from hf_metis_home.conversion import export_checkpoint, upcycle_checkpoint
from hf_metis_home.data.dataset_folder import write_dataset_folder
from hf_metis_home.publishing import plan_push, push_model, update_card
from hf_metis_home.publishing.folder_kind import kind_of
from hf_metis_home.publishing.push_files import files_to_send

from ..conversion.common import perturb, save_dense
from ..modeling.test_remote_code import CODE_FILES
from ..trainers.common import make_rows
from .test_other_cards import png


PROCESSOR = {"chat_template.jinja", "processor_config.json", "tokenizer.json", "tokenizer_config.json"}
WEIGHTS = {"config.json", "model.safetensors"}
ADAPTER = {"adapter_config.json", "adapter_model.safetensors"}


@pytest.fixture(scope="session")
def hybrid(tmp_path_factory) -> Path:
    """Its thinking branch is a low rank away from the base that it names."""
    place = tmp_path_factory.mktemp("others")
    folder = upcycle_checkpoint(save_dense(place / "dense"), place / "hybrid")
    return perturb(folder, (".mlp.thinking.",), rank=2)


@pytest.fixture
def export(hybrid, tmp_path, monkeypatch):
    def make(format: str, **card) -> Path:
        monkeypatch.chdir(tmp_path)
        options = {"rank": 2, "check_logits": False} if format == "peft" else {}
        branch = "thinking" if format in ("dense", "peft") else None
        export_checkpoint(hybrid, "out", format=format, branch=branch, **options)
        update_card("out", license="mit", **card)
        return Path("out")

    return make


@pytest.fixture
def rows(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    made = [
        {**row, "images": [{"bytes": png(image)} for image in row["images"]]}
        for row in make_rows([True, False, True], images=(1, 0))
    ]
    report = {"rows": 3, "thinking": 2, "non_thinking": 1, "tasks": {"test": None}}
    Path("rows").mkdir()
    write_dataset_folder(Path("rows"), made, report, {}, None)
    update_card("rows", license="mit", model_id="me/rows")
    return Path("rows")


def push(folder, *words: str, repo_id: str = "me/out") -> int:
    return main(["push", "--model_name_or_path", str(folder), "--repo_id", repo_id, *words])


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files_to_send(folder, kind_of(folder))}


def failed(folder: Path) -> dict[str, str]:
    return {check.name: check.detail for check in plan_push(folder, "me/out").failed}


def test_a_dense_branch(export, hub, capsys):
    folder = export("dense", model_id="me/out")
    (folder / "training_args.bin").write_text("a pickle")
    (folder / "old_metis_home.py").write_text("")  # a stock model needs no code
    assert push(folder, "--dry_run") == 0 and hub.repositories == {}
    printed = capsys.readouterr().out
    assert "✓ tensors: " in printed and "✓ processor: " in printed and "training_args.bin: a pickle" in printed
    assert push(folder) == 0
    repository = hub.repositories["me/out"]
    assert repository.private and repository.files() == content(folder)
    assert {"README.md", *WEIGHTS, *PROCESSOR} <= repository.files().keys()
    # `export.json` names the folder that it was made from.
    assert repository.files().keys().isdisjoint({"training_args.bin", "old_metis_home.py", "export.json"})
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith(f'AutoModelForImageTextToText.from_pretrained("me/out", revision="{repository.refs["main"]}")')


def test_a_dense_folder_that_is_not_whole(export):
    folder = export("dense", model_id="me/out")
    (folder / "tokenizer_config.json").unlink()
    (folder / "tokenizer.json").unlink()
    save_file({}, folder / "model.safetensors", {"format": "pt"})
    (folder / "README.md").write_text("No metadata.")
    found = failed(folder)
    assert found.keys() == {"tensors", "processor", "card", "license", "example"}
    assert "tensors are missing" in found["tensors"] and "must be 'transformers'" in found["card"]
    with pytest.raises(ValueError, match="5 checks failed, so nothing was uploaded"):
        push_model(folder, "me/out", plan=plan_push(folder, "me/out"))


def test_an_adapter(export, hub, capsys):
    folder = export("peft", model_id="me/out")
    assert push(folder) == 1
    printed = capsys.readouterr().out
    assert (
        "✗ base model: adapter_config.json does not name a base model on the Hub" in printed and hub.repositories == {}
    )
    assert main(["card", "--model_name_or_path", "out", "--base_model", "a/base"]) == 0
    assert "Wrote README.md, adapter_config.json in out" in capsys.readouterr().out
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "a/base"
    update_card(folder, language=["en"])
    assert 'from_pretrained("a/base"' in (folder / "README.md").read_text()  # still
    assert push(folder, "--private", "false") == 0
    repository = hub.repositories["me/out"]
    assert not repository.private and repository.files() == content(folder)
    assert repository.files().keys() == {"README.md", *ADAPTER}
    assert f'PeftModel.from_pretrained(base, "me/out", revision="{repository.refs["main"]}")' in capsys.readouterr().out
    with (folder / "README.md").open("a") as file:
        file.write("\nProposed.\n")
    assert push(folder, "--create_pr") == 0 and repository.files("refs/pr/1") == content(folder)


def test_an_adapter_that_is_not_whole(export):
    folder = export("peft", model_id="me/out", base_model="a/base")
    assert failed(folder) == {}
    save_file({}, folder / "adapter_model.safetensors")
    assert "contains no tensors" in failed(folder)["tensors"]
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert "Only safetensors are uploaded" in failed(folder)["tensors"]


def test_an_adapter_of_a_trainer(export):
    """Which has a card of PEFT's or TRL's: its words stay, metadata is added."""
    folder = export("peft")
    (folder / "export.json").unlink()
    (folder / "README.md").write_text("---\nlibrary_name: peft\nbase_model: runs/hybrid\n---\n\n# Mine\n")
    assert failed(folder).keys() == {"license", "base model"}
    done = update_card(folder, license="mit", base_model="me/hybrid")
    assert done == {"kind": "adapter", "files": ["README.md", "adapter_config.json"], "kept": []}
    text = (folder / "README.md").read_text()
    assert "base_model: me/hybrid" in text and "runs/hybrid" not in text and text.endswith("\n# Mine\n")
    assert failed(folder) == {}
    (folder / "README.md").unlink()
    with pytest.raises(FileNotFoundError, match="an adapter without a README.md"):
        update_card(folder, license="mit")


def test_an_export_for_vllm(export, hub, capsys):
    folder = export("vllm")
    assert push(folder) == 0
    repository = hub.repositories["me/out"]
    names = repository.files().keys()
    assert repository.files() == content(folder)
    parts = {f"adapters/{branch}/{name}" for branch in ("thinking", "non_thinking") for name in ADAPTER}
    parts |= {f"{part}/{name}" for part in ("model", "router") for name in WEIGHTS | PROCESSOR}
    parts |= {"model/gated_metis_home.py", *(f"router/{name}" for name in CODE_FILES), "README.md", "serving.json"}
    assert parts - {"model/generation_config.json"} <= names and "export.json" not in names
    assert "hf download me/out --revision" in capsys.readouterr().out

    # Shards of an earlier push would be loaded with those that are sent; what somebody put there stays.
    theirs = {"model/model-00009-of-00009.safetensors": b"old", "router/model-2.safetensors": b"old", "notes.md": b""}
    repository.commit("main", {**repository.files(), **theirs})
    assert push(folder) == 0 and repository.files() == {**content(folder), "notes.md": b""}

    (folder / "router" / "config.json").unlink()
    assert "router is incomplete: configuration: " in failed(folder)["parts"]
    (folder / "adapters" / "thinking" / "adapter_model.safetensors").unlink()
    assert "Export it again with `metis-home export --format vllm`" in failed(folder)["parts"]


def test_rows(rows, hub, capsys, tmp_path):
    (rows / "rollouts.jsonl").write_text("{}")
    assert push(rows, "--dry_run", repo_id="me/rows") == 0
    assert "✓ rows: 3 rows with the columns for training" in capsys.readouterr().out
    assert push(rows, repo_id="me/rows") == 0
    assert hub.repositories.keys() == {"datasets/me/rows"}
    repository = hub.repositories["datasets/me/rows"]
    assert repository.private and repository.files() == content(rows)
    assert repository.files().keys() == {"README.md", "data/train-00000-of-00001.parquet"}
    last = capsys.readouterr().out.splitlines()[-1]
    assert f"{hub.url}/datasets/me/rows (private)" in last
    assert f'load_dataset("me/rows", revision="{repository.refs["main"]}")' in last
    (tmp_path / "arrived").mkdir()
    for name, data in repository.files().items():
        (tmp_path / "arrived" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "arrived" / name).write_bytes(data)
    loaded = load_dataset(str(tmp_path / "arrived"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded["thinking"] == [True, False, True]

    repository.commit("main", {**repository.files(), "data/train-00001-of-00002.parquet": b"old"})
    assert push(rows, repo_id="me/rows") == 0 and repository.files() == content(rows)
    (rows / "LICENSE").write_text("MIT")
    assert push(rows, "--create_pr", repo_id="me/rows") == 0
    assert repository.files("refs/pr/1") == content(rows) != repository.files()
    assert push(rows, "--revision", "second", repo_id="me/rows") == 0 and repository.files("second") == content(rows)
    assert push(rows, "--private", repo_id="me/rows") == 0


def test_rows_that_cannot_be_read(rows):
    from datasets import Dataset

    path = rows / "data" / "train-00000-of-00001.parquet"
    Dataset.from_dict({"prompt": ["?"]}).to_parquet(path)
    assert "file data/train-00000-of-00001.parquet has no column 'images'" in failed(rows)["rows"]
    path.write_bytes(b"no parquet")
    assert "is not a Parquet file" in failed(rows)["rows"]
    (rows / "README.md").write_text("---\nlicense: mit\ntask_categories: 3\n---\n")
    assert "example" not in failed(rows)


def test_what_is_none_of_these(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("?")
    assert push(tmp_path) == 2
    assert "contains no config.json of a model, no adapter_config.json" in capsys.readouterr().err
