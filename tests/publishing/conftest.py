"""A two-branch folder that is ready to be published, and a Hub to publish it on."""

import shutil
from pathlib import Path

import pytest

from hf_metis_home.conversion import upcycle_checkpoint
from hf_metis_home.publishing import update_card
from tests.conversion.common import hybrid_of, save_dense

from .hub_server import hub  # noqa: F401  a fixture


@pytest.fixture(scope="session")
def published(tmp_path_factory) -> Path:
    """Made once; to be copied before it is changed."""
    place = tmp_path_factory.mktemp("published")
    folder = upcycle_checkpoint(save_dense(place / "dense"), place / "hybrid")
    hybrid = hybrid_of(folder)
    (folder / "model.safetensors").unlink()
    hybrid.save_pretrained(folder, max_shard_size="60KB")  # several files, as a large model has
    update_card(folder, license="apache-2.0", model_id="me/hybrid")
    return folder


@pytest.fixture
def folder(published, tmp_path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "hybrid"))
