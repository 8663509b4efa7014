"""A hybrid whose branches differ and whose router has an opinion, and what serving needs of it."""

import pytest

from hf_metis_home.conversion import export_checkpoint

from .common import make_hybrid


@pytest.fixture(scope="session")
def hybrid_folder(tmp_path_factory):
    return make_hybrid(tmp_path_factory.mktemp("serving") / "hybrid")


@pytest.fixture(scope="session")
def router_folder(hybrid_folder):
    export_checkpoint(hybrid_folder, hybrid_folder.parent / "router", format="router")
    return hybrid_folder.parent / "router"
