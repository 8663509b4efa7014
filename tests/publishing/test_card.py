"""`metis-home card`: what happened gets onto the card, with results where there are any, and nothing else."""

import json
import re

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from hf_metis_home.cli import main
from hf_metis_home.conversion.fingerprint import weights_fingerprint
from hf_metis_home.evaluation.outcomes import write_outcomes
from hf_metis_home.publishing import update_card

from ..conversion.test_validate import edit_config
from ..evaluation.test_calibration import smooth, table
from ..reports.report_common import outcome, write_folder


SOURCES = {"sums": {"dataset": "owner/sums", "config": "hard", "split": "test"}}


@pytest.fixture
def outcomes(tmp_path, published):
    """Twelve questions; at 0.5 the router is right about half of them and thinks about half."""
    run = {
        "tasks": SOURCES, "date": "2026-11-25T07:00:00Z", "versions": {"hf-metis-home": "1.2.3"},
        "model": {"name": "hybrid", "weights": weights_fingerprint(published), "dtype": "float32"},
        "arguments": {"max_new_tokens": 64, "temperature": 0.0},
    }  # fmt: skip
    return write_folder(tmp_path / "outcomes", [outcome(number) for number in range(12)], run=run)


def card_of(folder) -> ModelCard:
    return ModelCard.load(folder / "README.md")


def test_results_of_outcomes(folder, outcomes):
    done = update_card(folder, outcomes=outcomes)
    assert done == {"kind": "model", "files": ["README.md", ".eval_results/sums.yaml"], "kept": []}
    card = card_of(folder)
    table = re.search(r"\| task \|.*?\n\n", card.text, re.S)[0].strip().splitlines()
    assert table[0] == "| task | questions | accuracy | thinking ratio | tokens | always thinking | never thinking |"
    cells = [cell.strip() for cell in table[2].strip("|").split("|")]
    assert (
        cells[:2] == ["sums", "12"] and re.fullmatch(r"50\.0 \(\d+\.\d to \d+\.\d\)", cells[2]) and cells[3] == "50.0"
    )
    assert cells[5].startswith("75.0 (") and cells[6].startswith("50.0 (") and len(table) == 3
    assert "- The router thinks on 50.0 % of the questions" in card.text
    made = (
        f"on 2026-11-25: threshold 0.5, at most 64 new tokens, greedy, float32, hf-metis-home 1.2.3, weights {WEIGHTS}"
    )
    assert re.search(re.escape(made).replace(WEIGHTS, "[0-9a-f]{12}") + r"\.$", card.text, re.M)
    figures = {(part.dataset_name, part.metric_name): part.metric_value for part in card.data.eval_results}
    assert figures["sums", "accuracy"] == 0.5 and figures["sums", "thinking ratio"] == 0.5
    [entry] = parse_eval_result_entries(yaml.safe_load((folder / ".eval_results" / "sums.yaml").read_text()))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("owner/sums", "hard", 50.0)

    theirs = {"dataset": {"id": "other/sums", "task_id": "default"}, "value": 1.0}
    (folder / ".eval_results" / "sums.yaml").write_text(yaml.safe_dump([theirs]))
    text = (folder / "README.md").read_text()
    update_card(folder, outcomes=outcomes)
    assert (folder / "README.md").read_text() == text
    assert [entry["value"] for entry in yaml.safe_load((folder / ".eval_results" / "sums.yaml").read_text())] == [
        1.0,
        50.0,
    ]
    update_card(folder)  # says nothing of results, so they stay
    assert (folder / "README.md").read_text() == text


WEIGHTS = "WEIGHTS"


def test_results_count_at_the_threshold_of_now(folder, outcomes):
    edit_config(folder, thinking_threshold=0.85)
    update_card(folder, outcomes=outcomes)
    assert "threshold 0.85" in card_of(folder).text and "thinks on 25.0 % of the questions" in card_of(folder).text


def test_a_task_without_one_answer_has_a_row_of_its_own(folder, tmp_path):
    records = [outcome(number) for number in range(4)]
    blank = {name: None for name in records[0] if name not in ("task", "id", "sample")}
    records += [{**record, **blank, "task": "maps", "error": "image"} for record in records]
    outcomes = write_folder(tmp_path / "outcomes", records)
    update_card(folder, outcomes=outcomes)
    assert re.search(r"^\| maps \| 4 \| 0\.0 ", card_of(folder).text, re.M)


def test_outcomes_of_other_weights_are_refused(folder, outcomes, capsys):
    before = (folder / "README.md").read_bytes()
    run = json.loads((outcomes / "run.json").read_text())
    (outcomes / "run.json").write_text(json.dumps({**run, "model": {"name": "other", "weights": "0" * 64}}))
    words = ["card", "--model_name_or_path", str(folder), "--license", "mit", "--outcomes", str(outcomes)]
    assert main(words) == 2
    assert "from a model with other weights ('other'" in capsys.readouterr().err
    assert (folder / "README.md").read_bytes() == before


def test_outcomes_that_do_not_say_of_which_weights_are_doubted(folder, outcomes, capsys):
    run = json.loads((outcomes / "run.json").read_text())
    (outcomes / "run.json").write_text(json.dumps({**run, "model": {"name": "owner/other"}}))
    update_card(folder, outcomes=outcomes)
    assert "names the model 'owner/other' but not its weights" in capsys.readouterr().err


def test_what_was_said_once_stays(folder):
    update_card(
        folder, license="mit", model_id="me/other", title="My *best* one", language=["en"], datasets=["me/rows"]
    )
    first = (folder / "README.md").read_text()
    assert update_card(folder)["kept"] == [] and (folder / "README.md").read_text() == first
    data = card_of(folder).data
    assert (data.license, data.language, data.datasets) == ("mit", ["en"], ["me/rows"])
    assert "# My \\*best\\* one\n" in first and 'repo = "me/other"' in first and "No license was stated" not in first
    update_card(folder, code_revision="a" * 40, base_model="Qwen/Qwen2.5-VL-3B-Instruct")
    update_card(folder)
    assert f'revision = "{"a" * 40}"\n' in card_of(folder).text and "pinned to one commit" in card_of(folder).text
    assert card_of(folder).data.base_model == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert "- Base model: [Qwen/" in card_of(folder).text


def test_text_and_changed_parts_of_people_stay(folder, capsys):
    text = (folder / "README.md").read_text()
    text = text.replace("## Limits\n", "## Limits\n\nIt cannot count sheep.\n") + "\n## Thanks\n\nTo my cat.\n"
    (folder / "README.md").write_text(text)
    assert main(["card", "--model_name_or_path", str(folder), "--model_id", "me/new"]) == 0
    printed = capsys.readouterr().out
    assert "Kept the section 'limits', which was edited by hand" in printed and "--repo_id me/new --dry_run" in printed
    after = (
        (folder / "README.md").read_text().replace('repo = "me/new"', 'repo = "me/hybrid"').replace("# new", "# hybrid")
    )
    without_checksums = re.compile(r"(?<=metis-home:)(\w+) \w+")
    assert without_checksums.sub(r"\1", after) == without_checksums.sub(r"\1", text)


def test_a_folder_without_a_card_gets_one(folder):
    (folder / "README.md").unlink()
    update_card(folder, license="mit")
    assert (
        "Freshly upcycled, not trained" in card_of(folder).text and card_of(folder).data.library_name == "transformers"
    )
    assert "### 1. Two branches from a dense model" in card_of(folder).text


def test_a_card_knows_more_than_a_folder_without_records(folder):
    (folder / "upcycle.json").unlink()
    before = (folder / "README.md").read_text()
    update_card(folder)
    assert (folder / "README.md").read_text() == before and "Freshly upcycled" in before and "## Made with" in before


def test_calibrate_renews_the_threshold(folder, tmp_path, capsys):
    write_outcomes(table(*smooth(np.random.default_rng(0), 400)), tmp_path / "outcomes" / "outcomes.parquet")
    words = ["calibrate", "--model_name_or_path", str(folder), "--outcomes", str(tmp_path / "outcomes")]
    assert "is 0.5; it was not calibrated." in card_of(folder).text
    before = (folder / "README.md").read_text()
    assert main([*words, "--thinking_ratio", "0.4"]) == 0
    config = json.loads((folder / "config.json").read_text())
    text = card_of(folder).text
    assert f"is {config['thinking_threshold']:.4g}. It was calibrated" in text and "thinking\\_ratio 0.4 on 20" in text
    assert f"> {config['calibration']['statement'][:20]}" in text
    strip = re.compile(r"<!-- metis-home:routing.*?/metis-home:routing -->", re.S)
    assert strip.sub("", (folder / "README.md").read_text()) == strip.sub("", before)

    (folder / "README.md").write_text((folder / "README.md").read_text().replace("## Routing", "## How it routes"))
    capsys.readouterr()
    assert main([*words, "--thinking_ratio", "0.2"]) == 0
    assert "the section on routing in README.md was edited" in capsys.readouterr().err
    assert "thinking\\_ratio 0.4" in card_of(folder).text
    (folder / "README.md").write_text("# Mine alone\n")
    assert main([*words, "--thinking_ratio", "0.4"]) == 0
    assert (folder / "README.md").read_text() == "# Mine alone\n" and capsys.readouterr().err == ""


def test_hand_edited_threshold_is_not_called_calibrated(folder, tmp_path):
    write_outcomes(table(*smooth(np.random.default_rng(0), 400)), tmp_path / "outcomes" / "outcomes.parquet")
    words = ["calibrate", "--model_name_or_path", str(folder), "--outcomes", str(tmp_path / "outcomes")]
    assert main([*words, "--thinking_ratio", "0.4"]) == 0
    edit_config(folder, thinking_threshold=0.9)
    update_card(folder)
    assert "is 0.9; it was not calibrated." in card_of(folder).text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--license", "Apache 2.0"], "`license` is 'Apache 2.0', but must be an identifier of the Hub"),
        (["--model_id", "a/b/c"], "`model_id` is 'a/b/c', which cannot be an id on the Hub"),
        (["--datasets", "ok/rows", "../rows"], "`datasets` is '../rows'"),
        (["--outcomes", "nowhere"], "`outcomes` is 'nowhere', which is not a file"),
        (["--model_name_or_path", "nowhere"], "which is not a local folder"),
        (["--model_name_or_path", "."], "contains no config.json of a model"),
    ],
)
def test_refusals(folder, words, message, capsys, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    before = (folder / "README.md").read_bytes()
    assert main(["card", "--model_name_or_path", str(folder), *words]) == 2
    assert message in capsys.readouterr().err and (folder / "README.md").read_bytes() == before
