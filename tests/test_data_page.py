"""The page about data: its command makes rows from an untrained model and an expert's answers, its code the same."""

import json
from pathlib import Path

from PIL import Image

from hf_metis_home.cli import main
from hf_metis_home.miniature.model import build_miniature

from .data.chat_server import ChatServer, reply_of
from .pages import blocks, commands


def test_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    model, processor = build_miniature()
    model.save_pretrained("runs/stage-rl")
    processor.save_pretrained("runs/stage-rl")
    Image.new("RGB", (56, 56), "red").save("square.png")
    [example] = blocks("docs/data.md", "json")
    row = json.loads(example)
    right = f"<think>4 * 4</think><answer>{row['solution']}</answer>"
    rows = [{**row, "prompt": f"{n}. {row['prompt']}", "expert_completion": right} for n in range(4)]
    Path("prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("general.jsonl").write_text("".join(json.dumps({**row, "task": "general"}) + "\n" for row in rows))

    [[program, *words]] = commands("docs/data.md")
    assert program == "metis-home" and main([*words, "--max_new_tokens", "2", "--n_rollouts", "2"]) == 0
    card = Path("runs/stage-sft-data/README.md").read_text()
    assert "geometry" in card and "general" in card

    names = {}
    load, build = blocks("docs/data.md", "python")
    exec(load, names)
    assert sum(names["rows"]["thinking"]) >= 3 and names["rows"][0]["images"]
    Path("runs/stage-sft-data").rename("moved")
    for path in Path("runs").glob("stage-sft-data.*"):
        path.unlink()
    from datasets import load_dataset

    names["dataset"] = load_dataset("json", data_files="prompts.jsonl", split="train")
    assert 'EndpointRollouts("http://localhost:8000/v1"' in build
    with ChatServer(lambda request: reply_of(*[right, *["no"] * 7][: request.get("n", 1)])) as server:
        capsys.readouterr()
        exec(build.replace("http://localhost:8000/v1", server.url), names)
    assert "geometry" in capsys.readouterr().out and names["report"]["rows"] >= 4
