"""The card is valid for the Hub, says what is known and nothing else, and takes any text."""

import pytest
from huggingface_hub import ModelCard

from hf_metis_home.hub_templates import render_model_card


NASTY = 'x"\n---\nlicense: mit\n{{ 1 + 1 }} <script>alert(1)</script> | *y* `z` # {% raw %} \\'


def metadata(card: str) -> dict:
    return ModelCard(card).data.to_dict()


def test_metadata_of_an_upcycled_model():
    card = render_model_card(stage="upcycled", base_model="Qwen/Qwen2.5-VL-3B-Instruct", license="apache-2.0")
    data = metadata(card)
    assert data["library_name"] == "transformers"
    assert data["pipeline_tag"] == "image-text-to-text"
    assert data["base_model"] == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert data["license"] == "apache-2.0"
    assert {"metis-home", "hybrid-thinking", "custom_code"} <= set(data["tags"])
    assert "(https://huggingface.co/Qwen/Qwen2.5-VL-3B-Instruct)" in card
    assert "No license was stated" not in card


def test_unknown_values_stay_out():
    card = render_model_card()
    assert {"base_model", "license", "language", "datasets"}.isdisjoint(metadata(card))
    assert "None" not in card.replace("`None` in it", "")
    assert "## Results" not in card and "## Notes" not in card and "Base model" not in card
    assert "No license was stated" in card


def test_says_whether_it_was_trained():
    assert "not trained" in render_model_card(stage="upcycled")
    trained = render_model_card(stage="sft")
    assert "not trained" not in trained and "were trained by supervised fine-tuning" in trained
    rewarded = render_model_card(stage="grpo")
    assert "not trained" not in rewarded and "trained on rewards" in rewarded and "\n- trl " in rewarded
    with pytest.raises(ValueError, match="`stage` is 'rl'"):
        render_model_card(stage="rl")


def test_names_the_sources_of_branches():
    card = render_model_card(base_model="a/base", thinking_model="a/reasoner")
    assert "The thinking branch comes from [a/reasoner]" in card
    assert "The non_thinking branch" not in card
    assert "both branches are copies" not in card


@pytest.mark.parametrize("path", ["runs/demo/base", "/data/private/model", ".", "C:\\models\\x", "../x"])
def test_paths_do_not_reach_the_card(path):
    card = render_model_card(base_model=path, thinking_model=path, model_id=path)
    assert "base_model" not in metadata(card)
    assert path == "." or path not in card.replace("\\\\", "\\")


def test_results_make_a_table():
    card = render_model_card(results={"easy": {"accuracy": 0.93, "n": 400}, "a|b": {"accuracy": 0.5}})
    assert "| task | accuracy | n |\n|---|---|---|\n| easy | 0.93 | 400 |\n| a\\|b | 0.5 |  |\n" in card


@pytest.mark.parametrize("field", ["title", "license", "base_model", "model_id", "language", "datasets"])
def test_text_cannot_break_the_metadata(field):
    harmless = metadata(render_model_card())
    data = metadata(render_model_card(**{field: NASTY}))
    if field in ("license", "language", "datasets"):
        assert data.pop(field) == NASTY
    assert data == harmless


def test_text_in_the_body_stays_text():
    card = render_model_card(title=NASTY, notes=[NASTY], results={NASTY: {NASTY: 1}}, versions={NASTY: NASTY})
    assert "<script>" not in card
    assert "{{ 1 + 1 }}" in card
    assert card.count("\n---\n") == 1  # the end of the metadata
    assert "`z`" not in card.replace("\\`", "")


def test_is_written_for_the_public_classes():
    card = render_model_card(model_id="me/my-hybrid")
    assert 'repo = "me/my-hybrid"' in card
    assert "# my-hybrid" in card
    for text in ("AutoModelForImageTextToText", "trust_remote_code=True", "AutoProcessor", "thinking_threshold"):
        assert text in card
