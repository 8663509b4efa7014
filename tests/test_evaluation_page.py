"""The page about evaluation: its commands run, in order, on a small model, and write what the page says."""

import io
import re
import shlex
from pathlib import Path

import torch
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image

from hf_metis_home.cli import main
from hf_metis_home.conversion import save_hub_folder, upcycle
from hf_metis_home.evaluation.outcomes import COLUMNS, read_outcomes
from hf_metis_home.miniature.model import build_miniature
from hf_metis_home.miniature.tasks import TASKS, make_dataset
from hf_metis_home.tasks.task_file import ANSWERS, shipped_tasks


PAGE = Path(__file__).parents[1] / "docs" / "evaluation.md"


def photos(path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (56, 56), "red").save(file, "PNG")
    rows = [
        {"key": f"k{n}", "hint": None, "text": "is it red?", "picture": {"bytes": file.getvalue(), "path": None},
         "options": ["yes", "no"], "label": "A", "info": {"topic": "colour"}}
        for n in range(3)
    ]  # fmt: skip
    text = Value("string")
    features = dict.fromkeys(("key", "hint", "text", "label"), text) | {
        "picture": ImageFeature(),
        "options": List(text),
    }
    Dataset.from_list(rows, features=Features({**features, "info": {"topic": text}})).to_parquet(path)


def test_commands_of_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dense, processor = build_miniature()
    save_hub_folder(upcycle(dense, processor, thinking_model=dense), processor, Path("my-hybrid"))
    make_dataset({"digits": 5}, "test", seed=0).to_parquet("rows.parquet")
    photos(Path("photos.parquet"))
    text = PAGE.read_text()
    [task_file] = re.findall(r"^```yaml\n(.*?)^```", text, re.M | re.S)
    Path("my_task.yaml").write_text(task_file)

    commands = "".join(re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S)).splitlines()
    assert len(commands) == 3
    for command in commands:
        program, *words = shlex.split(command)
        assert program == "metis-home" and main(words) == 0, command
        written = {file.name for file in Path(words[words.index("--output_dir") + 1]).iterdir()}
        assert written == {
            "outcomes.parquet", "questions.parquet", "run.json",
            "report.html", "results.json", "model_index.json", "plots",
        }  # fmt: skip
        assert all(f"`{name}`" in text for name in written)
    assert set(read_outcomes("outcomes/outcomes.parquet")["task"]) == set(TASKS)
    mixed = read_outcomes("outcomes-mixed/outcomes.parquet")
    assert [(mixed["task"].count(task)) for task in ("digits", "my_task", "chain")] == [4, 3, 4]
    assert set(mixed["subject"]) == {None, "colour"} and "k2" in mixed["id"]
    assert read_outcomes("outcomes-sampled/outcomes.parquet")["sample"] == [0, 1, 2] * 2

    names = {}
    [block] = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    with torch.no_grad():
        exec(block, names)
    assert 0 <= names["accuracy"] <= 1


def test_the_page_names_columns_tasks_and_kinds_of_answers():
    text = PAGE.read_text()
    assert all(f"`{name}`" in text for name in (*COLUMNS, *shipped_tasks(), *ANSWERS))
