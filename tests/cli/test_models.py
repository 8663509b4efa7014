"""A model by its name, whose code runs only where the user says so."""

import pytest

from hf_metis_home.cli._models import load_model
from hf_metis_home.conversion import save_hub_folder
from tests.trainers.common import make_hybrid


def test_a_hybrid_loads_without_its_own_code(tmp_path):
    model, processor = make_hybrid()
    save_hub_folder(model, processor, tmp_path / "hybrid")
    (tmp_path / "hybrid/modeling_metis_home.py").write_text("raise RuntimeError('this code must not run')\n")
    loaded, found = load_model(str(tmp_path / "hybrid"))
    assert loaded.lm_head.weight.equal(model.lm_head.weight) and not loaded.training
    assert type(found) is type(processor)


def test_what_cannot_be_loaded(tmp_path):
    with pytest.raises(
        ValueError, match="`--model_name_or_path` is .*cannot be loaded(.|\n)*Give a folder or a Hub id"
    ):
        load_model(str(tmp_path / "missing"))
