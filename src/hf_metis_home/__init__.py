"""
Hybrid-thinking vision-language models on Hugging Face: two branches and a router from a dense Qwen2.5-VL
(Metis-HOME, arXiv 2510.20519).

Importing the package loads neither torch nor transformers; each name below is imported where it is first used.
"""

from ._lazy import lazy_exports


__version__ = "0.1.0.dev0"

__getattr__, __dir__, _names = lazy_exports(
    __name__,
    {
        "answers": ["AnswerFormat", "Completion"],
        "answers.matching": ["answers_match"],
        "conversion": [
            "branch_target_modules", "change_branch_kind", "estimate_memory", "export_checkpoint",
            "initialise_router", "upcycle", "upcycle_checkpoint", "validate_checkpoint",
        ],
        "modeling": ["MetisHomeConfig", "MetisHomeForConditionalGeneration", "MetisHomeModel"],
        "rewards": ["accuracy_reward", "format_reward", "thought_leak_penalty"],
        "trainers": [
            "MetisHomeGRPOConfig", "MetisHomeGRPOTrainer", "MetisHomeSFTConfig", "MetisHomeSFTTrainer",
        ],
    },
)  # fmt: skip
__all__ = ["__version__", *sorted(_names)]
