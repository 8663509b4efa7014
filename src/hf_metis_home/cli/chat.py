"""
Talk to a model in the terminal: with pictures, and with a line that says which branch answers and why.

    metis-home chat --model_name_or_path runs/demo/hybrid

Answers to the lines of a file, without their thoughts:

    metis-home chat --model_name_or_path runs/demo/hybrid --fold < questions.txt > answers.txt

Lines that begin with a slash are commands; /help lists them.
"""

from dataclasses import dataclass
from typing import Literal

from ._arguments import UsageError, flag
from ._run import verb


@dataclass
class ChatArguments:
    model_name_or_path: str = flag("two-branch or dense model, folder or Hub id")
    model_revision: str | None = flag("branch, tag or commit of the Hub repository (default: the newest)", None)
    mode: Literal["auto", "think", "direct"] = flag("who decides: the router, or you for one branch", "auto")
    thinking_threshold: float | None = flag(
        "think where the router's probability is at least this (default: the model's)", None
    )
    enable_thinking: bool | None = flag(
        "let the chat template begin the answers: true thinking ones, false direct ones", None
    )
    images: list[str] | None = flag("pictures for the first question", None)
    system_prompt: str | None = flag("in place of the chat template's own", None)
    max_new_tokens: int = flag("longest answer in tokens", 2048)
    max_thinking_tokens: int | None = flag("budget: a thought that gets longer is closed, and the answer follows", None)
    temperature: float = flag("0 answers greedily", 0.0)
    seed: int = flag("seed of the sampling", 0)
    fold: bool = flag("do not show thoughts", False)
    dtype: str = flag("type in which the weights are loaded", "auto")
    trust_remote_code: bool = flag("let a repository run its own code", False)


@verb
def main(arguments: ChatArguments) -> None:
    """Run `metis-home chat`."""
    _check(arguments)
    from ._chat_commands import Commands, open_image
    from ._terminal import Screen

    images = [(path, open_image(path)) for path in arguments.images or []]

    import torch
    from transformers.utils import logging

    from ._conversation import Conversation
    from ._models import load_model

    model, processor = load_model(
        arguments.model_name_or_path, arguments.dtype, arguments.trust_remote_code, arguments.model_revision
    )
    logging.set_verbosity_error()  # remarks of `generate` about its own settings would stand between the lines
    torch.manual_seed(arguments.seed)
    conversation = Conversation(
        model,
        processor,
        thinking={"auto": None, "think": True, "direct": False}[arguments.mode],
        **{
            name: getattr(arguments, name)
            for name in (
                "thinking_threshold", "enable_thinking", "max_new_tokens", "max_thinking_tokens", "temperature",
                "system_prompt",
            )
        },
    )  # fmt: skip
    if not conversation.two_branch and (given := _branch_flags(arguments)):
        raise UsageError(
            f"`{given[0]}` is given, but {arguments.model_name_or_path!r} is a dense model, which has one branch and "
            "no router. Leave it out."
        )
    Commands(conversation, Screen.of_process(), arguments.model_name_or_path, images, arguments.fold).run()


def _check(arguments: ChatArguments) -> None:
    """An error with everything that is wrong among the flags."""
    errors = []
    threshold = arguments.thinking_threshold
    if threshold is not None and not 0 <= threshold <= 1:
        errors.append(f"`--thinking_threshold` is {threshold}, but is compared with a probability: between 0 and 1.")
    for name in ("max_new_tokens", "max_thinking_tokens"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            errors.append(f"`--{name}` is {value}, but must be at least 1.")
    if not arguments.temperature >= 0:
        errors.append(f"`--temperature` is {arguments.temperature}, but must be 0 or above.")
    if errors:
        raise UsageError("\n".join(errors))


def _branch_flags(arguments: ChatArguments) -> list[str]:
    """What was given that only a two-branch model understands."""
    given = {f"--mode {arguments.mode}": arguments.mode != "auto"}
    for name in ("thinking_threshold", "enable_thinking", "max_thinking_tokens"):
        given[f"--{name}"] = getattr(arguments, name) is not None
    return [flag for flag, is_given in given.items() if is_given]


if __name__ == "__main__":
    raise SystemExit(main())
