"""
Hybrid-thinking vision-language models on Hugging Face: two branches and a router from a dense Qwen2.5-VL
(Metis-HOME, arXiv 2510.20519).

Importing the package loads neither torch nor transformers; each name below is imported where it is first used.
"""

from importlib import import_module


__version__ = "0.1.0.dev0"

_EXPORTS = {
    "AnswerFormat": "answers",
    "Completion": "answers",
    "MetisHomeConfig": "modeling",
    "MetisHomeForConditionalGeneration": "modeling",
    "MetisHomeGRPOConfig": "trainers",
    "MetisHomeGRPOTrainer": "trainers",
    "MetisHomeModel": "modeling",
    "MetisHomeSFTConfig": "trainers",
    "MetisHomeSFTTrainer": "trainers",
    "accuracy_reward": "rewards",
    "answers_match": "answers.matching",
    "branch_target_modules": "conversion",
    "change_branch_kind": "conversion",
    "estimate_memory": "conversion",
    "export_checkpoint": "conversion",
    "format_reward": "rewards",
    "initialise_router": "conversion",
    "thought_leak_penalty": "rewards",
    "upcycle": "conversion",
    "upcycle_checkpoint": "conversion",
    "validate_checkpoint": "conversion",
}
__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_EXPORTS[name]}", __name__), name)


def __dir__():
    return __all__
