"""What the Hub reads is what its own classes accept."""

import yaml
from huggingface_hub import ModelCard, ModelCardData, parse_eval_result_entries
from huggingface_hub.repocard_data import model_index_to_eval_results

from hf_metis_home.reports.hub_results import eval_results, model_index, slug
from hf_metis_home.reports.report import write_report
from tests.reports.report_common import dense_outcome, outcome, write_folder


SOURCES = {"sums": {"dataset": "owner/sums", "config": "hard", "split": "test", "revision": "a" * 40}}


def cell(accuracy: float, thinking_ratio: float, tokens: float) -> dict:
    interval = [accuracy - 0.05, accuracy + 0.05]
    return {"accuracy": accuracy, "interval": interval, "thinking_ratio": thinking_ratio, "tokens": tokens}


POLICIES = {"router": cell(0.75, 0.4, 12.5), "thinking": cell(0.8, 1.0, 30.0), "non_thinking": cell(0.5, 0.0, 6.0)}
TASKS = {name: {"n": 8, "policies": POLICIES} for name in ("sums", "a task: <odd> name", "all")}


def test_model_index_survives_a_card():
    index = model_index(TASKS, "hybrid", SOURCES)
    name, results = model_index_to_eval_results(index)
    card = ModelCard(f"---\n{ModelCardData(model_name=name, eval_results=results).to_yaml()}\n---\n")
    assert card.data.model_name == "hybrid" and card.data.eval_results == results
    figures = {(part.dataset_name, part.metric_name): part.metric_value for part in results}
    assert figures["sums", "accuracy"] == 0.75 and figures["sums", "thinking ratio"] == 0.4
    assert figures["sums", "accuracy, always thinking"] == 0.8
    assert figures["sums", "mean generated tokens, never thinking"] == 6.0
    assert {part.dataset_name for part in results} == {"sums", "a task: <odd> name"}
    [first] = [part for part in results if part.dataset_name == "sums" and part.metric_name == "accuracy"]
    assert (first.dataset_type, first.dataset_config, first.dataset_split) == ("owner/sums", "hard", "test")
    assert {part.dataset_type for part in results} == {"owner/sums", "a-task-odd-name"}


def test_unknown_values_are_left_out():
    cells = {"n": 8, "policies": {"router": cell(0.75, float("nan"), 12.5) | {"tokens": None}, "thinking": None}}
    [result] = model_index({"sums": cells}, "hybrid")[0]["results"]
    assert [metric["name"] for metric in result["metrics"]] == ["accuracy"]
    assert model_index({"all": cells}, "hybrid") == []


def test_eval_results_are_read_back():
    files = eval_results(TASKS, SOURCES, 0.5, "2026-11-25T07:00:00Z")
    assert list(files) == ["sums.yaml"]
    [entry] = parse_eval_result_entries(files["sums.yaml"])
    assert (entry.dataset_id, entry.task_id, entry.dataset_revision) == ("owner/sums", "hard", "a" * 40)
    assert entry.value == 75.0 and entry.date == "2026-11-25T07:00:00Z"
    assert entry.notes == "router decides at threshold 0.5, thinking ratio 0.400; n = 8, 95 % interval 70.0 to 80.0 %"
    benchmark = {"sums": {"dataset": "owner/sums", "benchmark_task": "sums_hard"}}
    assert eval_results(TASKS, benchmark, 0.5)["sums.yaml"][0]["dataset"]["task_id"] == "sums_hard"
    assert eval_results(TASKS, None, 0.5) == {}


def test_names_of_files_are_harmless():
    assert slug("../../etc/passwd") == "etc-passwd" and slug(".hidden") == "hidden" and slug("日本") == "task"
    two = {name: TASKS["sums"] for name in ("a b", "a/b")}
    sources = {name: {"dataset": f"owner/{number}"} for number, name in enumerate(two)}
    [(name, entries)] = eval_results(two, sources, 0.5).items()
    assert name == "a-b.yaml" and [entry["dataset"]["id"] for entry in entries] == ["owner/0", "owner/1"]


def test_report_writes_them(tmp_path):
    run = {"tasks": SOURCES, "date": "2026-11-25T07:00:00Z", "arguments": {"model_name_or_path": "me/hybrid"}}
    folder = write_folder(tmp_path / "outcomes", [outcome(number) for number in range(8)], run=run)
    write_report(folder, tmp_path / "report")
    [entry] = parse_eval_result_entries(yaml.safe_load((tmp_path / "report/.eval_results/sums.yaml").read_text()))
    assert entry.value == 50.0 and entry.dataset_id == "owner/sums"
    index = yaml.safe_load((tmp_path / "report/model_index.json").read_text())
    assert model_index_to_eval_results(index)[0] == "hybrid"


def test_dense_model(tmp_path):
    run = {"tasks": SOURCES}
    folder = write_folder(tmp_path / "outcomes", [dense_outcome(number) for number in range(8)], run=run)
    write_report(folder, tmp_path / "report")
    [entry] = parse_eval_result_entries(yaml.safe_load((tmp_path / "report/.eval_results/sums.yaml").read_text()))
    assert entry.value == 50.0 and "router" not in entry.notes
