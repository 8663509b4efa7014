"""A branch as a stock PEFT LoRA adapter over a dense model: exactly, or as closely as a rank allows."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoProcessor

from ..modeling import MetisHomeForConditionalGeneration
from ..modeling.configuration_metis_home import BRANCHES
from .checkpoint import Checkpoint, is_branch_tensor, open_checkpoint, some
from .low_rank import LowRankDelta, approximate_differences, branch_deltas


DEFAULT_RANK, DEFAULT_MAX_ERROR = 64, 0.1
# Logits are compared on these, one prompt each.
PROMPTS = (
    "What is 17 times 23?",
    "Name the capital of France.",
    "Explain in one sentence why the sky is blue.",
    "A train leaves at 9:40 and arrives at 11:05. How long does it take?",
)


def write_peft(
    hybrid: Checkpoint, branch: str, base_model: str | Path | None, folder: Path,
    rank: int | None, max_error: float | None, check_logits: bool,
) -> dict:  # fmt: skip
    """Write a branch as an adapter over `base_model`; arguments and record as of [`export_checkpoint`]."""
    if base_model is None:
        raise ValueError("`base_model` is not given, and no upcycle.json names one. Pass the adapter's dense model.")
    base = open_checkpoint(base_model, "base_model")
    _check_shared(hybrid, base, str(base_model), branch)
    config, text = hybrid.config, hybrid.config.text_config
    record: dict = {"base_model": str(base_model)}
    if config.branch_kind == "lora":  # an adapter already
        write_adapter(folder, branch_deltas(hybrid, branch), config.branch_rank, config.branch_alpha, str(base_model))
        return record
    rank = min(rank or DEFAULT_RANK, text.hidden_size, text.intermediate_size)
    max_error = DEFAULT_MAX_ERROR if max_error is None else max_error
    networks = {
        name: hybrid.tensors[name.replace(".mlp.", f".mlp.{branch}.")]
        for name in base.tensors
        if is_branch_tensor(name, config.router_layer)
    }
    deltas, kept = approximate_differences(networks, base.tensors, rank, max_error)
    if not deltas:
        raise ValueError(f"`branch` is {branch!r}, which does not differ from the base model. Use that instead.")
    write_adapter(folder, deltas, rank, rank, str(base_model))
    record |= {"rank": rank, "max_error": max_error, "energy_kept": kept}
    return record | ({"logit_error": _logit_error(hybrid.folder, branch, base, deltas)} if check_logits else {})


def write_adapter(folder: Path, deltas: dict[str, LowRankDelta], rank: int, alpha: float, base_model: str) -> None:
    """Write `adapter_model.safetensors` and `adapter_config.json`, as PEFT saves them."""
    from peft import LoraConfig, TaskType

    state = {}
    for module, delta in deltas.items():
        for part, tensor in (("A", delta.A), ("B", delta.B)):
            state[f"base_model.model.{module}.lora_{part}.weight"] = tensor.read().contiguous()
    save_file(state, folder / "adapter_model.safetensors", {"format": "pt"})
    parts = sorted({tuple(module.rsplit(".", 2)[1:]) for module in deltas})
    layers = sorted({int(module.split(".layers.")[1].split(".")[0]) for module in deltas})
    modules = "|".join(rf"{parent}\.{projection}" for parent, projection in parts)
    LoraConfig(
        r=rank,
        lora_alpha=alpha,
        # Layers in full: the vision tower has modules of the same names, and the first layers may be shared.
        target_modules=rf".*language_model\.layers\.({'|'.join(map(str, layers))})\.({modules})",
        task_type=TaskType.CAUSAL_LM,
        base_model_name_or_path=base_model,
        inference_mode=True,
    ).save_pretrained(folder)


def _check_shared(hybrid: Checkpoint, base: Checkpoint, base_model: str, branch: str) -> None:
    """Raise an error if the shared weights are not the base's, which an adapter of one branch cannot express."""
    config = hybrid.config
    different = []
    for name, tensor in base.tensors.items():
        if config.branch_kind == "ffn" and is_branch_tensor(name, config.router_layer):
            continue
        if name == "lm_head.weight" and base.config.tie_word_embeddings:
            continue
        found = hybrid.tensors.get(name)
        if found is None or found.shape != tensor.shape or not torch.equal(found.read(), tensor.read().to(found.dtype)):
            different.append(name)
    if different:
        other = "shared" if config.branch_kind == "lora" else next(name for name in BRANCHES if name != branch)
        raise ValueError(
            f"`base_model` is {base_model!r}, but this model's shared weights are not the same: {len(different)} "
            f"tensors differ, {some(different)}. Write a base that has them with `export --format dense --branch "
            f"{other}` and pass it as `base_model`."
        )


@torch.no_grad()
def _logit_error(folder: Path, branch: str, base: Checkpoint, deltas: dict[str, LowRankDelta]) -> dict[str, float]:
    """
    How far a branch's logits on a few fixed questions move when it is replaced by the base with the adapter.

    Returns:
        `dict`: `max` and `mean` of the absolute difference, and `same_token`, the share of positions at which the most
        probable token stays the same.
    """
    model = MetisHomeForConditionalGeneration.from_pretrained(folder, only_branch=branch, dtype="auto").eval()
    processor = AutoProcessor.from_pretrained(folder)
    texts = [
        processor.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False)
        for prompt in PROMPTS
    ]
    prompts = [processor.tokenizer(text, return_tensors="pt").input_ids for text in texts]
    before = torch.cat([model(input_ids=ids).logits[0].float() for ids in prompts])  # [all tokens, vocabulary]
    for module, delta in deltas.items():
        weight = model.get_parameter(f"{module.replace('.mlp.', f'.mlp.{branch}.')}.weight")
        weight.copy_(base.tensors[f"{module}.weight"].read().float() + delta.B.read() @ delta.A.read())
    after = torch.cat([model(input_ids=ids).logits[0].float() for ids in prompts])
    moved, same = (after - before).abs(), after.argmax(dim=-1) == before.argmax(dim=-1)
    return {"max": moved.max().item(), "mean": moved.mean().item(), "same_token": same.float().mean().item()}
