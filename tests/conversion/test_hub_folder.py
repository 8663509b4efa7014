"""A folder appears when it is whole, and never before."""

import pytest

from hf_metis_home._folders import staged_folder
from hf_metis_home.conversion import save_hub_folder, upcycle
from tests.fixtures_text import tiny_word_level


def test_a_whole_folder_appears(tmp_path):
    target = tmp_path / "new" / "model"
    with staged_folder(target) as staging:
        (staging / "file").write_text("text")
        assert not target.exists()
    assert (target / "file").read_text() == "text"
    assert [path.name for path in target.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_half_folder_does_not(tmp_path, error):
    with pytest.raises(type(error)):
        with staged_folder(tmp_path / "model") as staging:
            (staging / "file").write_text("text")
            raise error
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_filled_and_a_full_one_refused(tmp_path):
    (tmp_path / "model").mkdir()
    with staged_folder(tmp_path / "model") as staging:
        (staging / "file").write_text("text")
    with pytest.raises(FileExistsError, match="`output_dir` is .*model', which is not empty"):
        with staged_folder(tmp_path / "model"):
            raise AssertionError("the block must not begin")
    assert (tmp_path / "model" / "file").read_text() == "text"


def test_a_model_that_cannot_be_saved_leaves_nothing(tmp_path, monkeypatch):
    dense, processor = tiny_word_level()
    hybrid = upcycle(dense, processor)
    monkeypatch.setattr(type(processor), "save_pretrained", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_hub_folder(hybrid, processor, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
