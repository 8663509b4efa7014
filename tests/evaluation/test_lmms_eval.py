"""The model class for lmms-eval: its requests are answered as `generate_answers` answers them. Needs lmms-eval."""

from types import SimpleNamespace

import pytest

from hf_metis_home.answers import AnswerFormat
from hf_metis_home.conversion import save_hub_folder
from tests.evaluation import test_generation
from tests.evaluation.test_generation import ROWS, answers


pytest.importorskip("lmms_eval")
hybrid = test_generation.hybrid  # the fixture


@pytest.mark.parametrize(
    ("word", "thinking"), [(None, None), ("auto", None), ("None", None), ("True", True), (1, True), ("false", False)]
)
def test_requests(hybrid, tmp_path, word, thinking):
    from lmms_eval.models.registry_v2 import ModelRegistryV2

    registry = ModelRegistryV2()
    registry.load_entrypoint_manifests()
    kind = registry.get_model_class("metis_home")
    save_hub_folder(*hybrid, tmp_path / "hybrid")
    model = kind(
        str(tmp_path / "hybrid"), batch_size=3, dtype="float32", device="cpu", max_batch_size=None, thinking=word
    )
    model.task_dict = {"local": {"test": ROWS}}
    requests = [
        SimpleNamespace(
            args=(
                row["prompt"][0]["content"],
                {"max_new_tokens": 5, "do_sample": False, "temperature": 0.7},
                lambda doc: doc["images"],
                number,
                "local",
                "test",
            )
        )
        for number, row in enumerate(ROWS)
    ]
    expected = []
    for answer in answers(*hybrid, thinking=thinking, max_new_tokens=5):
        final = AnswerFormat().parse(answer.text).final
        expected.append(answer.text if final is None else final)
    assert model.generate_until(requests) == expected


def test_arguments_are_not_guessed():
    from hf_metis_home.evaluation.lmms_eval import MetisHome

    with pytest.raises(ValueError, match="`thinking` is 'yes', but must be true, false or auto"):
        MetisHome("missing", thinking="yes")
    with pytest.raises(ValueError, match="`trust_remote_code` is 'maybe', but must be true or false"):
        MetisHome("missing", trust_remote_code="maybe")
    with pytest.raises(TypeError, match="thinkng"):
        MetisHome("missing", thinkng=True)
