"""What a hybrid takes, returns and refuses where its branches do not matter is what the dense class does."""

import inspect

import pytest
import torch
from transformers import AutoModel, AutoModelForImageTextToText

from .tiny import KINDS, VIDEO, batch, branch_twin, prompt_ids, tiny_dense, tiny_hybrid


PROMPTS = [prompt_ids(0), prompt_ids(1, length=5, images=2), prompt_ids(2, length=11, images=0)]
WANTED = {"output_hidden_states": True, "output_attentions": True}


def video_inputs():
    """As `batch` gives them, with a video in place of the first image."""
    inputs = batch(PROMPTS[:1])
    inputs["input_ids"] = inputs["input_ids"].masked_fill(inputs["mm_token_type_ids"] == 1, VIDEO)
    inputs["mm_token_type_ids"] *= 2
    return {
        {"pixel_values": "pixel_values_videos", "image_grid_thw": "video_grid_thw"}.get(name, name): value
        for name, value in inputs.items()
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cls", [AutoModelForImageTextToText, AutoModel])
@pytest.mark.parametrize("pooling", ["mean", "modality_mean", "attention"])
def test_the_router_is_fp32_in_a_model_of_another_dtype(cls, dtype, pooling):
    model = cls.from_config(tiny_hybrid(router_pooling=pooling).config, dtype=dtype)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == (torch.float32 if ".router." in name else dtype), name
    inputs = batch(PROMPTS)
    assert model.eval().route(**inputs).logits.dtype == torch.float32


@pytest.mark.parametrize("make", [lambda: batch(PROMPTS), video_inputs], ids=["images", "video"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("headless", [False, True])
def test_the_fields_of_the_output_are_those_of_the_dense_model(kind, make, headless):
    hybrid = tiny_hybrid(**KINDS[kind])
    dense, inputs = branch_twin(hybrid, "thinking"), make()
    for model in (hybrid, dense):
        model.set_attn_implementation("eager")
    if headless:
        hybrid, dense = hybrid.model, dense.model
    with torch.no_grad():
        found, expected = hybrid(**inputs, thinking=True, **WANTED), dense(**inputs, **WANTED)
        assert list(found) == list(expected)
        for name in ("hidden_states", "attentions"):
            torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-5)
        for name in ("image_outputs", "video_outputs"):
            assert (name in found) == (name in expected)
            if name in found:
                assert list(found[name]) == list(expected[name])
                torch.testing.assert_close(found[name].to_tuple(), expected[name].to_tuple(), rtol=0, atol=1e-5)
        found, expected = hybrid(**inputs, thinking=True, return_dict=False), dense(**inputs, return_dict=False)
    assert [type(value) for value in found] == [type(value) for value in expected]


def test_forwards_name_every_input():
    # `generate` and trainers read signatures, and drop or refuse what they do not find there.
    hybrid, dense = tiny_hybrid(), tiny_dense()
    for ours, theirs in ((hybrid, dense), (hybrid.model, dense.model)):
        names = inspect.signature(ours.forward).parameters
        expected = set(inspect.signature(theirs.forward).parameters)
        assert expected | {"thinking", "thinking_threshold", "prompt_mask"} <= set(names)
    inputs = batch(PROMPTS[2:])
    in_order = (inputs["input_ids"], inputs["attention_mask"], None, None, None)
    with torch.no_grad():
        for ours in (hybrid, hybrid.model):
            assert torch.equal(ours(*in_order, thinking=True)[0], ours(**inputs, thinking=True)[0])
        labels = inputs["input_ids"]
        found, expected = hybrid(*in_order, labels, thinking=True), hybrid(**inputs, labels=labels, thinking=True)
        assert torch.equal(found.loss, expected.loss)


SELECTIONS = {
    "last": 2,
    "all": 0,
    "positions": torch.tensor([0, 3]),
    "positions per row": torch.tensor([[0, 3], [1, 2], [4, 5]]),
    "mask": torch.tensor([[position % (row + 2) == 0 for position in range(22)] for row in range(3)]),
    "mask of one row": torch.tensor([position % 3 == 0 for position in range(22)]),
    "positions of another batch": torch.tensor([[0, 3], [1, 2]]),
    "positions outside": torch.tensor([[0, 30], [1, 2], [4, 5]]),
    "mask of another length": torch.ones(3, 5, dtype=torch.bool),
}


@pytest.mark.parametrize("selection", SELECTIONS)
def test_logits_are_kept_as_in_the_dense_model(selection):
    hybrid = tiny_hybrid()
    dense, inputs, kept = branch_twin(hybrid, "thinking"), batch(PROMPTS), SELECTIONS[selection]
    assert inputs["input_ids"].shape[1] == 22
    with torch.no_grad():
        try:
            expected = dense(**inputs, logits_to_keep=kept).logits
        except (IndexError, RuntimeError) as error:
            with pytest.raises(type(error)):
                hybrid(**inputs, thinking=True, logits_to_keep=kept)
            return
        found = hybrid(**inputs, thinking=True, logits_to_keep=kept).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("make", [lambda: batch(PROMPTS), video_inputs], ids=["images", "video"])
def test_pixels_beside_their_features_are_refused(make):
    for model in (tiny_dense(), tiny_hybrid(), tiny_hybrid().model):
        with pytest.raises(ValueError, match="mm_encoder_outputs"), torch.no_grad():
            model(**make(), mm_encoder_outputs={})


def test_features_are_taken_in_place_of_pixels():
    hybrid, inputs = tiny_hybrid(), batch(PROMPTS)
    with torch.no_grad():
        expected = hybrid(**inputs, thinking=True)
        pixels, grid = inputs.pop("pixel_values"), inputs["image_grid_thw"]
        features = {"image": hybrid.get_image_features(pixels, grid, return_dict=True)}
        found = hybrid(**inputs, thinking=True, mm_encoder_outputs=features)
    assert torch.equal(found.logits, expected.logits) and set(features) == {"image"}
