"""Folders with tiny dense models, adapters over them and hybrids, for tests of conversion."""

import json
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from hf_metis_home.conversion.hub_folder import save_hub_folder
from hf_metis_home.modeling import MetisHomeForConditionalGeneration

from ..fixtures_text import tiny_word_level


FFN = r".*language_model\.layers\.(\d+)\.mlp\.(gate|up|down)_proj"
ATTENTION = r".*language_model\.layers\.(\d+)\.(self_attn\.[qkvo]_proj|mlp\.down_proj)"


def save_dense(folder: Path, seed: int = 0, dtype=torch.float32, **options) -> Path:
    """A dense model with its processor, in the layout that `save_pretrained` writes."""
    model, processor = tiny_word_level()
    torch.manual_seed(seed)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.to(dtype).save_pretrained(folder, **options)
    processor.save_pretrained(folder)
    return folder


def save_adapter(dense: Path, folder: Path, seed: int = 0, **lora) -> Path:
    """A LoRA adapter that does something."""
    base = Qwen2_5_VLForConditionalGeneration.from_pretrained(dense)
    torch.manual_seed(seed)
    config = LoraConfig(**{"r": 2, "lora_alpha": 3, "target_modules": FFN, "init_lora_weights": False, **lora})
    get_peft_model(base, config).save_pretrained(folder)
    return folder


def stored(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a folder under the name that it has there."""
    return {name: t for path in sorted(folder.glob("*.safetensors")) for name, t in load_file(path).items()}


def rewrite(source: Path, target: Path, change) -> Path:
    """A copy of an unsharded checkpoint whose tensors went through `change`."""
    shutil.copytree(source, target)
    save_file(change(load_file(source / "model.safetensors")), target / "model.safetensors", {"format": "pt"})
    return target


def perturb(folder: Path, parts: tuple[str, ...], scale: float = 0.1, rank: int | None = None) -> Path:
    """Change the tensors of a folder whose names have one of `parts`, as training would; by a product of low rank."""
    generator = torch.Generator().manual_seed(5)
    for path in sorted(folder.glob("*.safetensors")):
        tensors = load_file(path)
        for name, tensor in tensors.items():
            if not any(part in name for part in parts):
                continue
            if rank is None:
                change = torch.randn(tensor.shape, generator=generator)
            else:
                out, into = tensor.shape
                change = torch.randn(out, rank, generator=generator) @ torch.randn(rank, into, generator=generator)
            tensors[name] = (tensor.float() + scale * change).to(tensor.dtype)
        save_file(tensors, path, {"format": "pt"})
    return folder


def hybrid_of(folder: Path, **kwargs) -> MetisHomeForConditionalGeneration:
    return MetisHomeForConditionalGeneration.from_pretrained(folder, **kwargs).eval()


def save_one_branch(hybrid: Path, folder: Path, branch: str) -> Path:
    """A two-branch model that was loaded with one branch alone and saved so."""
    return save_hub_folder(hybrid_of(hybrid, only_branch=branch), AutoProcessor.from_pretrained(hybrid), folder)


def dense_of(folder: Path) -> Qwen2_5_VLForConditionalGeneration:
    return Qwen2_5_VLForConditionalGeneration.from_pretrained(folder).eval()


def text_inputs(length: int = 9) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.arange(4, 4 + length)[None]}


@torch.no_grad()
def logits(model, **kwargs) -> torch.Tensor:
    return model(**text_inputs(), **kwargs).logits


def config_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())
