"""Shares of a mixture are what the weights say, and no row is repeated before all have come."""

from collections import Counter

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_metis_home.data.loading import load_rows
from hf_metis_home.data.mixing import mix_datasets


def dataset(name: str, rows: int) -> Dataset:
    return Dataset.from_dict({"solution": [f"{name}{number}" for number in range(rows)]})


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([0.25, 1.0, 3.0]), st.integers(8, 40))
def test_shares_and_repetitions(first, second, weight, rows):
    parts = {"a": dataset("a", first), "b": dataset("b", second)}
    mixed = mix_datasets(parts, {"a": weight, "b": 1.0}, rows=rows)
    counts = Counter(mixed["task"])
    assert counts["a"] == round(rows * weight / (weight + 1)) and counts["b"] == round(rows / (weight + 1))
    for name, size in (("a", first), ("b", second)):
        times = Counter(value for value in mixed["solution"] if value.startswith(name))
        assert max(times.values()) - (min(times.values()) if len(times) == size else 0) <= 1


def test_by_default_no_row_is_repeated():
    mixed = mix_datasets({"a": dataset("a", 10), "b": dataset("b", 4)}, {"a": 1, "b": 1})
    assert Counter(mixed["task"]) == {"a": 4, "b": 4} and len(set(mixed["solution"])) == 8


def test_seed():
    parts, weights = {"a": dataset("a", 20), "b": dataset("b", 20)}, {"a": 1, "b": 2}
    one, again, other = (list(mix_datasets(parts, weights, seed=seed)["solution"]) for seed in (0, 0, 1))
    assert one == again != other


@pytest.mark.parametrize(
    ("weights", "rows", "message"),
    [
        ({"a": 1}, None, "Give every dataset a weight"),
        ({"a": 1, "b": 0}, None, "must be positive"),
        ({"a": 1, "b": float("nan")}, None, "must be positive"),
        ({"a": 1000, "b": 1}, 3, "leaves no row for 'b'"),
    ],
)
def test_bad_input(weights, rows, message):
    with pytest.raises(ValueError, match=message):
        mix_datasets({"a": dataset("a", 3), "b": dataset("b", 3)}, weights, rows)


def test_empty():
    with pytest.raises(ValueError, match="no rows in 'b'"):
        mix_datasets({"a": dataset("a", 3), "b": dataset("b", 0)}, {"a": 1, "b": 1})


def test_loading(tmp_path):
    rows = dataset("a", 3)
    rows.save_to_disk(tmp_path / "saved")
    rows.to_parquet(tmp_path / "rows.parquet")
    rows.to_json(tmp_path / "rows.jsonl")
    for name in ("saved", "rows.parquet", "rows.jsonl"):
        assert list(load_rows(tmp_path / name)["solution"]) == list(rows["solution"])
    with pytest.raises(ValueError, match="`dataset_name` is .*missing.*could not be read"):
        load_rows(tmp_path / "missing", argument="dataset_name")


def test_a_split_that_is_not_there(tmp_path):
    from datasets import DatasetDict

    DatasetDict({"train": dataset("a", 3)}).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match="no split 'test', only \\['train'\\]"):
        load_rows(tmp_path / "saved", "test")


def test_a_file_without_rows(tmp_path):
    dataset("a", 0).to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(ValueError, match="`dataset` is .*rows.parquet', which has no rows"):
        load_rows(tmp_path / "rows.parquet")
