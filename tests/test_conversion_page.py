"""The how-to page about conversion: its commands run, in order, on a tiny model, and make what the page says."""

import re
import shlex
from pathlib import Path

import torch
from PIL import Image

from hf_metis_home.cli import main

from .conversion.common import dense_of, hybrid_of, logits, save_adapter, save_dense, stored


PAGE = Path(__file__).parents[1] / "docs" / "conversion.md"


def test_commands_of_the_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_dense(Path("my-qwen"))
    save_dense(Path("reasoner"), seed=1)
    save_adapter(Path("my-qwen"), Path("reasoner-lora"))
    text = PAGE.read_text()
    [examples] = re.findall(r"^```json\n(.*?)^```", text, re.M | re.S)
    Path("examples.jsonl").write_text(examples)
    for name, color in (("digits.png", "red"), ("picture.png", "blue")):
        Image.new("RGB", (56, 56), color).save(name)

    commands = "".join(re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S)).splitlines()
    assert len(commands) > 10
    for command in commands:
        program, *words = shlex.split(command)
        assert program == "metis-home" and main(words) == 0, command
        if "--output_dir" in words:
            assert (Path(words[words.index("--output_dir") + 1]) / "README.md").is_file(), command
    assert not list(tmp_path.glob(".*"))

    dense = logits(dense_of("my-qwen"))
    for folder in ("hybrid", "hybrid-lora"):
        assert all(torch.equal(logits(hybrid_of(folder), thinking=branch), dense) for branch in (True, False))
    two = hybrid_of("hybrid-two")
    assert torch.equal(logits(two, thinking=False), dense) and not torch.equal(logits(two, thinking=True), dense)
    assert torch.equal(logits(two, thinking=True), logits(dense_of("thinking")))
    adapter, back = (
        {name.split(".layers.")[1]: t for name, t in stored(Path(f)).items()}
        for f in ("reasoner-lora", "thinking-lora")
    )
    assert adapter.keys() == back.keys() and all(torch.equal(back[name], tensor) for name, tensor in adapter.items())
