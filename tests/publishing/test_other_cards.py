"""Cards of exports and of rows: valid for the Hub, with examples that run, and kept up to date like a model's."""

import io
import re

import pytest
from huggingface_hub import DatasetCard, ModelCard

from hf_metis_home.conversion import export_checkpoint, upcycle_checkpoint
from hf_metis_home.data.dataset_folder import size_category, write_dataset_folder
from hf_metis_home.publishing import update_card
from tests.conversion.common import perturb, save_dense
from tests.trainers.common import make_rows


def run_example(folder, repo: str, capsys) -> str:
    """Runs the Python of a card, with the folder in the place of the repository."""
    text = (folder / "README.md").read_text()
    assert f'repo = "{repo}"' in text
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.M | re.S))
    exec(code.replace(f'"{repo}"', repr(str(folder))), {})
    return capsys.readouterr().out


@pytest.mark.parametrize("format", ["dense", "router"])
def test_exports(published, tmp_path, format, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_rows([True], images=(1,))[0]["images"][0].save("picture.png")
    out = tmp_path / "out"
    export_checkpoint(published, out, format=format, branch="thinking" if format == "dense" else None)
    with (out / "README.md").open("a") as file:
        file.write("\nMy words.\n")
    assert update_card(out, license="mit", model_id="me/thinking", base_model="a/base")["kept"] == []
    update_card(out, language=["en"])
    card = ModelCard.load(out / "README.md")
    assert (card.data.license, card.data.base_model, card.data.language) == ("mit", "a/base", ["en"])
    assert card.data.library_name == "transformers" and card.text.endswith("\nMy words.\n")
    assert str(tmp_path) not in card.content and "No license was stated" not in card.text
    printed = run_example(out, "me/thinking", capsys)
    assert ("tensor(" in printed) is (format == "router")
    with pytest.raises(ValueError, match=r"\['datasets'\] cannot be on the card of an export"):
        update_card(out, datasets=["me/rows"])


def test_adapters(tmp_path, capsys):
    dense = save_dense(tmp_path / "dense")
    hybrid = perturb(upcycle_checkpoint(dense, tmp_path / "hybrid"), (".mlp.thinking.",), rank=2)
    out = tmp_path / "out"
    options = {"format": "peft", "branch": "thinking", "rank": 2, "check_logits": False}
    export_checkpoint(hybrid, out, **options)
    data = ModelCard.load(out / "README.md").data.to_dict()
    assert data["library_name"] == "peft" and "base_model" not in data and "lora" in data["tags"]
    update_card(out, license="mit", model_id="me/thinking", base_model="a/base")
    data = ModelCard.load(out / "README.md").data.to_dict()
    assert (data["base_model"], data["base_model_relation"], data["license"]) == ("a/base", "adapter", "mit")
    text = (out / "README.md").read_text()
    assert "truncated to rank 2" in text
    (out / "README.md").write_text(text.replace('from_pretrained("a/base"', f"from_pretrained({str(dense)!r}"))
    run_example(out, "me/thinking", capsys)


def test_rows(tmp_path, capsys):
    (tmp_path / "rows").mkdir()
    rows = [
        {**row, "images": [{"bytes": png(image)} for image in row["images"]]}
        for row in make_rows([True, False, True], images=(1, 0))
    ]
    report = {"rows": 3, "thinking": 2, "non_thinking": 1, "tasks": {"test": None}}
    write_dataset_folder(tmp_path / "rows", rows, report, {"n_rollouts": 4}, "metis-home build-data")
    update_card(tmp_path / "rows", license="cc-by-4.0", model_id="me/rows")
    update_card(tmp_path / "rows", language=["en"])
    card = DatasetCard.load(tmp_path / "rows" / "README.md")
    assert (card.data.license, card.data.size_categories, card.data.language) == ("cc-by-4.0", ["n<1K"], ["en"])
    assert card.data.task_categories == ["image-text-to-text"] and "3 rows, 2 thinking" in card.text
    assert run_example(tmp_path / "rows", "me/rows", capsys).startswith("True [{")


def png(image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_sizes():
    assert [size_category(10**n) for n in range(2, 8)] == [
        "n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M"
    ]  # fmt: skip
