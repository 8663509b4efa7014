"""What a user sees when a command fails: one message for what the package refuses, a traceback for bugs."""

import logging
import sys
from dataclasses import dataclass

import pytest

from hf_metis_home import _extras
from hf_metis_home.cli import main
from hf_metis_home.cli._run import verb


@dataclass
class NoArguments:
    pass


def run(function) -> int:
    @verb
    def main(arguments: NoArguments):
        return function()

    return main([])


def refuse():
    _extras.require_extra("train", "a_module_that_is_nowhere")


def test_success():
    assert run(lambda: None) == 0


def test_a_verb_has_its_own_exit_code():
    assert run(lambda: 1) == 1


def test_a_refusal_is_one_message(capsys):
    assert run(refuse) == 2
    assert capsys.readouterr().err == (
        "metis-home test-run: error: a_module_that_is_nowhere is not installed, which this part of hf_metis_home needs."
        " Install with: pip install 'hf-metis-home[train]'\n"
    )


def test_remarks_of_imports_are_left_out(caplog):
    def remark():
        logger = logging.getLogger("torch.utils._pytree")
        logger.warning("%s is an Enum subclass. Calling register_constant() on Enum subclasses is deprecated", "X")
        logger.warning("another warning")

    assert run(remark) == 0
    assert [record.getMessage() for record in caplog.records] == ["another warning"]


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("METIS_HOME_DEBUG", "1")
    with pytest.raises(ImportError):
        run(refuse)


def test_errors_of_other_code_are_not_dressed_up():
    with pytest.raises(ValueError):
        run(lambda: int("x"))


def test_a_module_that_is_gone_is_a_bug(monkeypatch):
    monkeypatch.setitem(sys.modules, "hf_metis_home.demo.comparison", None)
    with pytest.raises(ModuleNotFoundError):
        main(["demo"])


def test_interrupt(capsys):
    def interrupt():
        raise KeyboardInterrupt

    assert run(interrupt) == 130
    assert "interrupted" in capsys.readouterr().err
