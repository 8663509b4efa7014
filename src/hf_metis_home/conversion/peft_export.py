"""A branch as a stock PEFT LoRA adapter over a dense model: exactly, or as near as a rank allows."""

from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from safetensors.torch import save_file

from ..modeling.configuration_metis_home import BRANCHES
from .adapters import LowRankChange, low_rank_modules, low_rank_name
from .checkpoint import Checkpoint, LazyTensor, is_branch_tensor, some
from .low_rank import LowRankApproximation


# What the logits are compared on, one prompt each.
PROMPTS = (
    "What is 17 times 23?",
    "Name the capital of France.",
    "Explain in one sentence why the sky is blue.",
    "A train leaves at 9:40 and arrives at 11:05. How long does it take?",
)


def check_shared(hybrid: Checkpoint, base: Checkpoint, base_model: str, branch: str) -> None:
    """An error where what both branches share is not what the base has: an adapter of one branch cannot say it."""
    text = hybrid.config.text_config
    different = []
    for name, tensor in base.tensors.items():
        if text.branch_kind == "ffn" and is_branch_tensor(name, text.router_layer):
            continue
        if name == "lm_head.weight" and base.config.tie_word_embeddings:
            continue
        found = hybrid.tensors.get(name)
        if found is None or found.shape != tensor.shape or not torch.equal(found.read(), tensor.read().to(found.dtype)):
            different.append(name)
    if different:
        other = "shared" if text.branch_kind == "lora" else next(name for name in BRANCHES if name != branch)
        raise ValueError(
            f"`base_model` is {base_model!r}, whose weights are not the shared ones of this model: {len(different)} "
            f"tensors differ, {some(different)}. Write a base that has them with `export --format dense --branch "
            f"{other}` and name it as `base_model`."
        )


def adapter_from_low_rank(hybrid: Checkpoint, branch: str) -> dict[str, LowRankChange]:
    """The changes of a branch of the `"lora"` kind, by dense module."""
    text = hybrid.config.text_config
    return {
        module: LowRankChange(
            hybrid.tensors[low_rank_name(module, branch, "A")],
            hybrid.tensors[low_rank_name(module, branch, "B")],
            scaling=text.branch_alpha / text.branch_rank,
        )
        for module in low_rank_modules(text)
    }


def low_rank_differences(
    networks: dict[str, LazyTensor],
    base: dict[str, LazyTensor],
    rank: int,
    max_error: float,
    argument: str = "rank",
) -> tuple[dict[str, LowRankChange], dict[str, float]]:
    """
    The differences of weights from those of a base, cut to a rank.

    Args:
        networks, base (`dict[str, LazyTensor]`):
            By the dense name of the weight.
        rank (`int`):
            Called `argument` where it is refused.
        max_error (`float`):
            Largest loss allowed in any weight, over the norm of its difference.

    Returns:
        The changes by dense module, and by weight the energy that each keeps (the share of the squared Frobenius norm).
        Weights without a difference are left out.
    """
    changes, kept, needed = {}, {}, {}
    console = Console(stderr=True)
    for name in track(networks, "Decomposing", console=console, transient=True, disable=not console.is_terminal):
        difference = networks[name].read().float() - base[name].read().float()
        if not difference.any():
            continue
        approximation = LowRankApproximation(difference)
        error = approximation.error(rank)
        if error > max_error:
            needed[name] = approximation.rank_for(max_error), error
        A, B = map(LazyTensor.of, approximation.halves(rank))
        changes[name.removesuffix(".weight")] = LowRankChange(A, B, scaling=1.0)
        kept[name] = 1 - error**2
    if needed:
        worst = max(needed, key=lambda name: needed[name])
        raise ValueError(
            f"`{argument}` is {rank}, which loses more than `max_error={max_error}` in {len(needed)} of "
            f"{len(networks)} weights, most of all in {worst} ({needed[worst][1]:.3f}). Rank {needed[worst][0]} would "
            "do; or allow a larger `max_error`, or keep whole networks."
        )
    return changes, kept


def write_adapter(folder: Path, changes: dict[str, LowRankChange], rank: int, alpha: float, base_model: str) -> None:
    """`adapter_model.safetensors` and `adapter_config.json`, as PEFT saves them."""
    from peft import LoraConfig, TaskType

    state = {}
    for module, change in changes.items():
        for half, tensor in (("A", change.A), ("B", change.B)):
            state[f"base_model.model.{module}.lora_{half}.weight"] = tensor.read().contiguous()
    save_file(state, folder / "adapter_model.safetensors", {"format": "pt"})
    parts = sorted({tuple(module.rsplit(".", 2)[1:]) for module in changes})
    layers = sorted({int(module.split(".layers.")[1].split(".")[0]) for module in changes})
    modules = "|".join(rf"{parent}\.{projection}" for parent, projection in parts)
    LoraConfig(
        r=rank,
        lora_alpha=alpha,
        # The vision tower has modules of the same names, and the first layers may be shared.
        target_modules=rf".*language_model\.layers\.({'|'.join(map(str, layers))})\.({modules})",
        task_type=TaskType.CAUSAL_LM,
        base_model_name_or_path=base_model,
        inference_mode=True,
    ).save_pretrained(folder)


@torch.no_grad()
def logit_error(folder: Path, branch: str, base: Checkpoint, changes: dict[str, LowRankChange]) -> dict[str, float]:
    """
    How far the logits of a branch move when its weights become those of the base with the adapter.

    Loads that branch alone and computes both on a few fixed questions.

    Returns:
        `dict`: `max` and `mean` of the absolute difference, and `same_token`, the share of positions with the same most
        probable token.
    """
    from transformers import AutoProcessor

    from ..modeling import MetisHomeForConditionalGeneration

    model = MetisHomeForConditionalGeneration.from_pretrained(folder, only_branch=branch, dtype="auto").eval()
    processor = AutoProcessor.from_pretrained(folder)
    texts = [
        processor.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False)
        for prompt in PROMPTS
    ]
    prompts = [processor.tokenizer(text, return_tensors="pt").input_ids for text in texts]
    before = [model(input_ids=ids).logits[0].float() for ids in prompts]
    for module, change in changes.items():
        weight = model.get_parameter(f"{module.replace('.mlp.', f'.mlp.{branch}.')}.weight")
        weight.copy_(base.tensors[f"{module}.weight"].read().float() + change.B.read() @ change.A.read())
    after = [model(input_ids=ids).logits[0].float() for ids in prompts]
    moved = torch.cat([(new - old).abs() for old, new in zip(before, after, strict=True)])
    same = torch.cat([new.argmax(-1) == old.argmax(-1) for old, new in zip(before, after, strict=True)])
    return {"max": moved.max().item(), "mean": moved.mean().item(), "same_token": same.float().mean().item()}
