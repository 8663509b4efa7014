"""`metis-home estimate` prints a table, plain where it is piped, or the numbers as JSON."""

import json
import re

from hf_metis_home.cli import main

from ..modeling.tiny import tiny_dense, tiny_hybrid


def test_table(tmp_path, capsys):
    tiny_dense().config.save_pretrained(tmp_path)
    assert main(["estimate", "--model_name_or_path", str(tmp_path), "--gpus", "4", "--tokens", "1000"]) == 0
    printed = capsys.readouterr().out
    cells = [re.split(r" {2,}", line.strip()) for line in printed.splitlines()]
    rows = {label: values for label, *values in cells}
    assert printed.splitlines()[0].split() == ["dense", "ffn", "lora"]
    assert rows["stored"][0] == f"{tiny_dense().num_parameters() / 1e6:.3f} M"
    assert rows["one branch"][0] == rows["weights, only_branch"][0] == "–"
    assert "KV cache, 1000 tokens x 1" in rows and "Training, GB: 1 GPU / each of 4 " in printed
    assert "16 bytes per trained parameter" in printed and "Activations not included" in printed
    assert "\x1b" not in printed


def test_json(tmp_path, capsys):
    tiny_dense().config.save_pretrained(tmp_path)
    command = f"estimate --model_name_or_path {tmp_path} --json --branch_kind lora --branch_rank 4"
    assert main([*command.split(), "--branch_projections", "up_proj", "o_proj"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["low_rank"] == 4 and list(found["models"]) == ["dense", "lora"]
    # Two layers, each a change of up_proj (48 x 32) and of o_proj (32 x 32).
    assert found["models"]["lora"]["parameters"]["branch"] == 2 * 4 * (48 + 32 + 32 + 32)


def test_wrong_calls(tmp_path, capsys):
    tiny_hybrid().config.save_pretrained(tmp_path)
    assert main(["estimate", "--model_name_or_path", str(tmp_path), "--router_layer", "0"]) == 2
    assert "a two-branch model. Drop ['router_layer']" in capsys.readouterr().err
    assert main(["estimate", "--model_name_or_path", str(tmp_path / "absent")]) == 2
    assert "no configuration can be read there" in capsys.readouterr().err
