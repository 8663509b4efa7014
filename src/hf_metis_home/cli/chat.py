"""
Chat with a model in the terminal, with images, and see which branch answers and why.

    metis-home chat --model_name_or_path runs/demo/hybrid

Answer the lines of a file, without thoughts:

    metis-home chat --model_name_or_path runs/demo/hybrid --fold < questions.txt > answers.txt

Lines that begin with a slash are commands; /help lists them.
"""

from dataclasses import dataclass
from typing import Literal

from ._arguments import NonNegativeFloat, PositiveInt, Probability, UsageError, flag, make_arguments
from ._models import ModelArguments
from ._run import verb


@dataclass(kw_only=True)
class ChatArguments(ModelArguments):
    mode: Literal["auto", "think", "direct"] = flag("let the router decide, or force one branch", "auto")
    thinking_threshold: Probability | None = flag(
        "think if the router's probability is at least this (default: the model's)", None
    )
    enable_thinking: bool | None = flag(
        "let the chat template open the answers: true for thinking, false for direct ones", None
    )
    images: list[str] | None = flag("images for the first question", None)
    system_prompt: str | None = flag("replaces the chat template's own", None)
    max_new_tokens: PositiveInt = flag("longest answer in tokens", 2048)
    max_thinking_tokens: PositiveInt | None = flag("budget: longer thoughts are closed, and the answer follows", None)
    temperature: NonNegativeFloat = flag("sampling temperature; 0 is greedy", 0.0)
    seed: int = flag("seed of sampling", 0)
    fold: bool = flag("hide thoughts", False)


@verb
def main(arguments: ChatArguments) -> None:
    """Run `metis-home chat`."""
    from ._chat_commands import MODES, Commands, open_image
    from ._terminal import Screen

    images = [(path, open_image(path)) for path in arguments.images or []]  # before the model, which takes longer

    import torch
    from transformers.utils import logging

    from ._conversation import Conversation
    from ._models import load_model

    name = arguments.model_name_or_path
    model, processor = load_model(name, arguments.dtype, arguments.trust_remote_code, arguments.model_revision)
    logging.set_verbosity_error()  # warnings of `generate` about its own settings would appear between the lines
    torch.manual_seed(arguments.seed)
    loaded = {"model": model, "processor": processor, "thinking": MODES[f"/{arguments.mode}"]}
    conversation = make_arguments(Conversation, {**vars(arguments), **loaded})
    names = ("mode", "thinking_threshold", "enable_thinking", "max_thinking_tokens")
    given = ", ".join(f"--{flag}" for flag in names if getattr(arguments, flag) not in (None, "auto"))
    if given and not conversation.two_branch:
        raise UsageError(f"{name!r} is a dense model, which has one branch and no router. Remove {given}.")
    Commands(conversation, Screen.of_process(), name, images, arguments.fold).run()


if __name__ == "__main__":
    raise SystemExit(main())
