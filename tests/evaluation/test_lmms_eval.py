"""The model class for lmms-eval: its requests are answered as `answer_rows` answers them. Needs lmms-eval."""

from types import SimpleNamespace

import pytest

from hf_metis_home.conversion import save_hub_folder
from hf_metis_home.data import parse_completion
from hf_metis_home.evaluation import answer_rows
from tests.evaluation import test_accuracy
from tests.evaluation.test_accuracy import ROWS


pytest.importorskip("lmms_eval")
hybrid = test_accuracy.hybrid  # the fixture


@pytest.mark.parametrize("thinking", [None, True, False])
def test_requests(hybrid, tmp_path, thinking):
    from lmms_eval.models.registry_v2 import ModelRegistryV2

    registry = ModelRegistryV2()
    registry.load_entrypoint_manifests()
    kind = registry.get_model_class("metis_home")
    save_hub_folder(*hybrid, tmp_path / "hybrid")
    model = kind(
        str(tmp_path / "hybrid"), batch_size=3, dtype="float32", thinking=None if thinking is None else str(thinking)
    )
    model.task_dict = {"local": {"test": ROWS}}
    requests = [
        SimpleNamespace(
            args=(
                row["prompt"][0]["content"],
                {"max_new_tokens": 5},
                lambda doc: doc["images"],
                number,
                "local",
                "test",
            )
        )
        for number, row in enumerate(ROWS)
    ]
    expected = []
    for record in answer_rows(*hybrid, ROWS, thinking=thinking, max_new_tokens=5):
        parsed = parse_completion(record.text).answer
        expected.append(record.text if parsed is None else parsed)
    assert model.generate_until(requests) == expected
