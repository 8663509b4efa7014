"""The verbs pass on what they were given, and nothing else."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from hf_metis_home.cli import main


@pytest.fixture
def demo_calls(monkeypatch, tmp_path):
    calls = []

    def run_demo(**arguments):
        calls.append(arguments)
        return {"statement": ["It shows this.", "It does not show that."]}

    module = SimpleNamespace(run_demo=run_demo)
    monkeypatch.setitem(sys.modules, "hf_metis_home.demo.comparison", module)
    monkeypatch.chdir(tmp_path)
    return calls


def test_demo(demo_calls, capsys):
    assert main(["demo", "--preset", "smoke", "--seed", "3", "--output_dir", "there"]) == 0
    assert demo_calls == [{"preset": "smoke", "seed": 3, "output_dir": Path("there")}]
    printed = capsys.readouterr().out
    assert "- It shows this.\n- It does not show that.\n" in printed
    assert "Wrote there" in printed.splitlines()[-1]


def test_demo_names_the_extra_that_it_lacks(demo_calls, monkeypatch, capsys):
    monkeypatch.setattr("hf_metis_home._extras.find_spec", lambda name: None if name == "easy_vqa" else name)
    assert main(["demo"]) == 2 and demo_calls == []
    assert "easy_vqa is not installed" in (printed := capsys.readouterr().err)
    assert "pip install 'hf-metis-home[demo]'" in printed


def test_demo_writes_to_a_new_folder_unless_told(demo_calls):
    assert main(["demo"]) == 0
    Path("runs/demo").mkdir(parents=True)
    Path("runs/demo-2").mkdir()
    assert main(["demo"]) == 0
    assert [call["output_dir"] for call in demo_calls] == [Path("runs/demo"), Path("runs/demo-3")]
    assert demo_calls[0]["preset"] == "small"


def test_demo_refuses_other_presets(demo_calls, capsys):
    assert main(["demo", "--preset", "large"]) == 2
    assert "`--preset` is 'large', but must be 'smoke', 'small' or 'full'." in capsys.readouterr().err
    assert demo_calls == []


@pytest.fixture
def upcycle_calls(monkeypatch):
    from hf_metis_home import conversion

    calls = []

    def record(*sources, **arguments):
        calls.append((sources, arguments))
        return Path(sources[1])

    monkeypatch.setattr(conversion, "upcycle_checkpoint", record)
    return calls


def test_upcycle_passes_what_was_given(upcycle_calls, capsys):
    command = "upcycle --model_name_or_path dense --output_dir out --thinking_model reasoner --router_layer 0"
    assert main([*command.split(), "--dtype", "bfloat16"]) == 0
    given = {"thinking_model": "reasoner", "router_layer": 0, "dtype": "bfloat16", "seed": 0, "shared_from": "base"}
    [(sources, found)] = upcycle_calls
    words = found.pop("command").split()
    assert words[:2] == ["metis-home", "upcycle"] and set(command.split()) <= set(words)
    assert sources == ("dense", "out") and found == given
    printed = capsys.readouterr().out
    assert "out" in printed.splitlines()[-1] and "Both branches are equal" not in printed


def test_upcycle_says_that_equal_branches_are_a_start(upcycle_calls, capsys):
    assert main("upcycle --model_name_or_path dense --output_dir out".split()) == 0
    assert "Both branches are equal" in capsys.readouterr().out


def test_upcycle_flags_reach_the_real_function(tmp_path, capsys):
    command = ["upcycle", "--model_name_or_path", str(tmp_path / "absent"), "--output_dir", str(tmp_path / "out")]
    assert main(command) == 2
    printed = capsys.readouterr().err
    assert "`model_name_or_path`" in printed and str(tmp_path / "absent") in printed
    assert not (tmp_path / "out").exists()


def test_upcycle_refuses_an_existing_folder(tmp_path, capsys):
    (tmp_path / "kept.txt").write_text("kept")
    assert main(["upcycle", "--model_name_or_path", "dense", "--output_dir", str(tmp_path)]) == 2
    assert "`output_dir`" in capsys.readouterr().err
    assert (tmp_path / "kept.txt").read_text() == "kept"
