"""Dispatch: light, and clear about verbs that do not exist."""

import subprocess
import sys
import time

import pytest

from hf_metis_home.cli import VERBS, main


HEAVY = ("torch", "transformers", "trl", "datasets", "huggingface_hub")


def loaded_modules(code: str) -> set[str]:
    code += "\nimport sys; print('LOADED', *sys.modules)"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return set(output.partition("LOADED")[2].split())


@pytest.mark.parametrize(
    "code",
    [
        "import hf_metis_home; hf_metis_home.__all__; dir(hf_metis_home)",
        "import hf_metis_home.modeling",
        "from hf_metis_home.cli import main; main(['--help'])",
        *(
            f"from hf_metis_home.cli import main\ntry: main(['{verb}', '--help'])\nexcept SystemExit: pass"
            for verb in VERBS
        ),
    ],
)
def test_nothing_heavy_is_imported(code):
    assert loaded_modules(code).isdisjoint(HEAVY)


def test_help_is_quick():
    code = "from hf_metis_home.cli import main; main(['--help'])"
    seconds = []
    for _ in range(3):  # the best of three: another test may hold the core
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5


def test_help_lists_every_verb(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n  {verb} " in printed for verb in VERBS)


def test_without_a_verb_it_shows_help_and_fails(capsys):
    assert main([]) == 2
    assert "usage:" in capsys.readouterr().out


def test_unknown_verb(capsys):
    assert main(["upcylce"]) == 2
    printed = capsys.readouterr().err
    assert "'upcylce'" in printed and "demo, upcycle, export" in printed and "Did you mean 'upcycle'?" in printed


def test_version(capsys):
    import hf_metis_home

    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"metis-home {hf_metis_home.__version__}"


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_runs_alone(verb):
    command = [sys.executable, "-m", "hf_metis_home.cli." + verb.replace("-", "_"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    assert f"usage: metis-home {verb}" in done.stdout
