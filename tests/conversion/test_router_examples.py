"""A router from a handful of examples: it separates them, leaves the branches alone, and goes through the folder."""

import json

import pytest
import torch
from PIL import Image

from hf_metis_home.cli import main
from hf_metis_home.conversion import initialise_router, upcycle, upcycle_checkpoint
from hf_metis_home.data import prompt_inputs

from ..fixtures_text import tiny_word_level
from ..modeling.tiny import KINDS
from .common import hybrid_of, save_dense


THINKING = ["what is one plus two", "add the two numbers", "count and add"]
DIRECT = ["read the word", "what color is the shape", "is there a circle"]


def row(text: str, thinking: bool, image: str | None = None) -> dict:
    images = [] if image is None else [Image.new("RGB", (56, 56), image)]
    return {"prompt": [{"role": "user", "content": text}], "images": images, "thinking": thinking}


ROWS = [row(text, True) for text in THINKING] + [row(text, False, "red") for text in DIRECT]


@pytest.fixture(params=["mean", "modality_mean", "attention"])
def hybrid(request):
    dense, processor = tiny_word_level()
    return upcycle(dense, processor, router_layer=1, router_pooling=request.param).eval(), processor


def probabilities(model, processor, rows=ROWS):
    return model.route(**prompt_inputs(processor, rows)).thinking_probability


def test_examples_are_told_apart(hybrid):
    model, processor = hybrid
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert probabilities(model, processor).tolist() == [0.5] * 6
    model.config.calibration = {"threshold": 0.5}
    initialise_router(model, processor, ROWS)
    assert model.config.calibration is None  # of a threshold for the router that was
    found = probabilities(model, processor)
    logits = found.logit()
    assert (found[:3] > 0.5).all() and (found[3:] < 0.5).all()
    # The mean example of each kind lies at the margin: the score is linear in the pooled prompt.
    torch.testing.assert_close(logits[:3].mean(), torch.tensor(2.0), rtol=0, atol=1e-3)
    torch.testing.assert_close(logits[3:].mean(), torch.tensor(-2.0), rtol=0, atol=1e-3)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed and all(".router." in name for name in changed)


def test_router_can_be_trained_further(hybrid):
    model, processor = hybrid
    initialise_router(model, processor, ROWS)
    inputs = prompt_inputs(processor, ROWS)
    outputs = model(**inputs, thinking=[True] * 6, prompt_mask=inputs["attention_mask"])
    torch.nn.functional.cross_entropy(outputs.branch_logits, torch.tensor([0, 1] * 3)).backward()
    router = model.model.language_model.router
    assert all(parameter.grad is not None for parameter in (router.up_proj.weight, router.score.weight))
    assert (router.score.weight.grad[:, 2:] != 0).any()


@pytest.mark.parametrize("kind", KINDS)
def test_through_the_command(tmp_path, kind, capsys):
    dense = save_dense(tmp_path / "dense")
    lines = []
    for number, example in enumerate(ROWS):
        images = []
        for image in example["images"]:
            image.save(tmp_path / f"{number}.png")
            images.append(f"{number}.png")
        lines.append(json.dumps({**example, "images": images}))
    (tmp_path / "examples.jsonl").write_text("\n".join(lines) + "\n")
    options = [
        word
        for name, value in KINDS[kind].items()
        for word in (f"--{name}", *map(str, value if isinstance(value, list) else [value]))
    ]
    command = f"upcycle --model_name_or_path {dense} --output_dir {tmp_path / 'out'} "
    assert main([*command.split(), "--router_examples", str(tmp_path / "examples.jsonl"), *options]) == 0
    assert "with the router set from the examples" in capsys.readouterr().out.splitlines()[-1]
    model, processor = hybrid_of(tmp_path / "out"), tiny_word_level()[1]
    assert (probabilities(model, processor) > 0.5).tolist() == [True] * 3 + [False] * 3
    # The same as afterwards, in memory.
    plain = hybrid_of(upcycle_checkpoint(dense, tmp_path / "plain", **KINDS[kind]))
    initialise_router(plain, processor, ROWS)
    torch.testing.assert_close(probabilities(plain, processor), probabilities(model, processor))
    assert json.loads((tmp_path / "out/upcycle.json").read_text())["router_examples"] == 6
    assert "mean features of 6 examples" in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no example with `thinking` True"),
        (ROWS[:3], "no example with `thinking` False"),
        ([*ROWS, {"prompt": []}], r"`rows\[6\]` has no 'thinking'"),
        ([*ROWS, {"thinking": True}], r"`rows\[6\]` has no 'prompt'"),
        ([{**ROWS[0], "thinking": "yes"}], r"`rows\[0\]\['thinking'\]` is 'yes'"),
        ([row("add", True), row("add", False)], "cannot tell thinking from non-thinking `rows`"),
    ],
)
def test_bad_examples(hybrid, rows, message):
    model, processor = hybrid
    with pytest.raises(ValueError, match=message):
        initialise_router(model, processor, rows)
    assert probabilities(model, processor).tolist() == [0.5] * 6


def test_bad_files(tmp_path, capsys):
    dense = save_dense(tmp_path / "dense")
    command = f"upcycle --model_name_or_path {dense} --output_dir {tmp_path / 'out'} --router_examples"
    for content, message in [
        (None, "which is not a file"),
        ("{", "line 1 of"),
        ('\n{"prompt": [], "thinking": true, "images": ["gone.png"]}', "line 2 of .* has missing images"),
    ]:
        path = tmp_path / "examples.jsonl"
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_text(content)
        assert main([*command.split(), str(path)]) == 2
        printed = capsys.readouterr().err
        import re

        assert "`router_examples`" in printed and re.search(message, printed)
    assert not (tmp_path / "out").exists()
