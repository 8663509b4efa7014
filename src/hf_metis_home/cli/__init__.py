"""
`metis-home <verb>`: dispatches to one module per verb, which is imported only when it is asked for.

A verb's module can also be run: `python -m hf_metis_home.cli.upcycle --help`.
"""

import sys
from difflib import get_close_matches
from importlib import import_module


VERBS = {
    "demo": "train and evaluate the whole method on a miniature, on a CPU",
    "upcycle": "build a two-branch model from a dense Qwen2.5-VL checkpoint",
    "export": "write one branch, only the router, or a folder for vLLM",
    "validate": "check a two-branch folder before a long run or an upload",
    "estimate": "estimate what a model will need: parameters, memory, disk",
    "sft": "train branches and router on rows of both modes (Stage-SFT)",
    "grpo": "train a dense model, a branch or the router on rewards (Stage-RL)",
    "build-data": "build Stage-SFT rows from what a model always, sometimes and never gets right",
    "fit-router": "train only the router, from labels or outcomes, in seconds",
    "eval": "answer every question with both branches and write the table of outcomes",
    "calibrate": "choose the threshold for a ratio, a token budget or an accuracy",
    "report": "write the report of an evaluation from its outcomes",
    "chat": "chat with a model in the terminal, with images, and see which branch answers and why",
    "serve": "serve a two-branch model under one name, on transformers or vLLM",
    "card": "write or update the model card of a folder",
    "space": "write a Gradio Space for a two-branch model",
    "push": "check a folder and upload it to the Hub",
    "env": "print versions, devices and extras, and how to install what is missing",
}


def main(argv: list[str] | None = None) -> int:
    """
    Run one command.

    Args:
        argv (`list[str]`, *optional*):
            Verb and flags; the process's own by default.

    Returns:
        `int`: exit code, 0 on success and 2 for a wrong call.

    Example:

    ```python
    >>> from hf_metis_home.cli import main

    >>> main(["env"])
    ```
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(_help())
        return 0 if argv else 2
    if argv[0] == "--version":
        from hf_metis_home import __version__

        print(f"metis-home {__version__}")
        return 0
    verb, *rest = argv
    if verb not in VERBS:
        close = get_close_matches(verb, VERBS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        print(f"metis-home: error: unknown verb {verb!r}.{hint} Verbs: {', '.join(VERBS)}", file=sys.stderr)
        return 2
    return import_module("." + verb.replace("-", "_"), __name__).main(rest)


def _help() -> str:
    lines = ["usage: metis-home <verb> [--flag value ...]", "", "verbs:"]
    lines += [f"  {verb:<11} {summary}" for verb, summary in VERBS.items()]
    lines += ["", "`metis-home <verb> --help` lists the flags of a verb; `metis-home --version` prints the version."]
    return "\n".join(lines)
