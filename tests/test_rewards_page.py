"""The page about rewards: its example prints what it says."""

from .pages import blocks


def test_example_of_the_page(capsys):
    [code] = blocks("docs/rewards.md", "python")
    exec(code, {})
    assert f"# {capsys.readouterr().out}" == code.splitlines()[-1] + "\n"
