"""Each check sees its defect, and says what to do about it."""

import json

import pytest
from safetensors.torch import load_file, save_file

from hf_metis_home.publishing import checks, update_card
from hf_metis_home.publishing.checks import check_folder, load_isolated

from ..modeling.test_remote_code import AUTO_MAP


@pytest.fixture
def quick(monkeypatch):
    loaded = []
    monkeypatch.setattr(checks, "load_isolated", lambda folder, *_: loaded.append(folder) or "loaded")
    return loaded


def found(folder, **options) -> dict:
    return {check.name: check for check in check_folder(folder, "me/hybrid", **options)}


def edit_card(folder, old: str, new: str) -> None:
    text = (folder / "README.md").read_text()
    assert old in text
    (folder / "README.md").write_text(text.replace(old, new))


def test_a_folder_that_is_ready(folder, quick):
    assert {check.ok for check in found(folder).values()} == {True} and quick == [folder]


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("license", "license: apache-2.0\n", "", "states no license"),
        ("license", "license: apache-2.0", "license: other", "also wants `license_name` and `license_link`"),
        (
            "license",
            "license: apache-2.0",
            "license: other\nlicense_name: mine\nlicense_link: LICENSE",
            "there is no such file",
        ),
        ("example", 'repo = "me/hybrid"', 'repo = "OWNER/NAME"', "metis-home card --model_name_or_path"),
        ("results", "## Limits", "weights 0123456789ab.\n\n## Limits", "results of other weights"),
        ("card", "library_name: transformers", "library_name: peft", "library_name: peft"),
    ],
)
def test_defects_of_the_card(folder, quick, name, old, new, message):
    edit_card(folder, old, new)
    checks = found(folder)
    assert checks[name].ok is False and message in checks[name].detail
    others = {other for other, check in checks.items() if not check.ok} - {name}
    assert others == ({"license", "example"} if name == "card" else set())


def test_an_own_license(folder, quick):
    edit_card(folder, "license: apache-2.0", "license: other\nlicense_name: mine\nlicense_link: LICENSE")
    (folder / "LICENSE").write_text("Do as you like.")
    assert found(folder)["license"].detail == "mine"


def test_what_needs_something_that_failed_is_not_run(folder, quick):
    (folder / "README.md").unlink()
    (folder / "configuration_metis_home.py").unlink()
    checks = found(folder)
    assert [checks[name].ok for name in ("license", "example", "isolated load")] == [None] * 3 and quick == []


def test_foreign_code_runs_only_when_asked(folder, quick):
    with (folder / "modeling_metis_home.py").open("a") as file:
        file.write("\n# another version\n")
    check = found(folder)["isolated load"]
    assert check.ok is False and "modeling_metis_home.py: not this package's" in check.detail and quick == []
    assert found(folder, trust_remote_code=True)["isolated load"].ok and quick == [folder]


@pytest.mark.slow
def test_isolated_load(folder):
    assert load_isolated(folder) == "MetisHomeForConditionalGeneration and Qwen2_5_VLProcessor without this package"


@pytest.mark.slow
def test_isolated_load_sees_what_only_the_package_hides(folder):
    """With the package installed, a folder without `auto_map` would load all the same."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {}}))
    with pytest.raises(ValueError, match="Without this package the folder does not load"):
        load_isolated(folder)
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": AUTO_MAP}))
    with (folder / "modeling_metis_home.py").open("a") as file:
        file.write("\nimport hf_metis_home\n")
    with pytest.raises(ValueError, match="hf_metis_home is not installed where the folder is loaded"):
        load_isolated(folder)
    text = (folder / "modeling_metis_home.py").read_text().replace("\nimport hf_metis_home\n", "\nimport json\n")
    (folder / "modeling_metis_home.py").write_text(text)
    weights = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    shard = folder / weights["model.language_model.norm.weight"]
    tensors = load_file(shard)
    del tensors["model.language_model.norm.weight"]
    save_file(tensors, shard, {"format": "pt"})
    with pytest.raises(ValueError, match="other tensors than it has.*language_model.norm.weight"):
        load_isolated(folder)


def test_the_card_is_brought_up_to_date(folder, quick):
    edit_card(folder, 'repo = "me/hybrid"', 'repo = "OWNER/NAME"')
    # The remedy of the check does not help where somebody changed that part; `card` says so.
    assert update_card(folder, model_id="me/hybrid")["kept"] == ["use"]
