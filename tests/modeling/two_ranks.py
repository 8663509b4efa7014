"""Run by `test_tensor_parallel.py` under torchrun: `two_ranks.py FOLDER`. Every rank writes what its shards compute."""

import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from transformers import AutoModelForImageTextToText

import hf_metis_home.modeling  # noqa: F401

from .generating import PROMPTS, THINKING, generate
from .tiny import batch


CALLS = [{"thinking": thinking} for thinking in (True, False, THINKING, torch.tensor(THINKING), None)]


def outcomes(model) -> dict:
    """What a model says, by call; of the dense model, which knows no branch, what it says without."""
    dense, inputs = model.config.model_type == "qwen2_5_vl", batch(PROMPTS)
    found = {} if dense else {"route": model.route(**inputs).logits}
    for call in [{}] if dense else CALLS:
        with torch.no_grad():
            found[f"logits {call}"] = model(**inputs, **call).logits[inputs["attention_mask"].bool()]
        found[f"answers {call}"] = generate(model, inputs, **call)
    return found


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    results = {}
    for saved in sorted(path for path in folder.iterdir() if path.is_dir()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # a deprecated name, the only one before
            model = AutoModelForImageTextToText.from_pretrained(saved, tp_plan="auto")
        shards = [name for name, parameter in model.named_parameters() if isinstance(parameter, DTensor)]
        results[saved.name] = {"shards": shards, **outcomes(model)}
    torch.save(results, folder / f"rank_{dist.get_rank()}.pt")
    dist.barrier()
    dist.destroy_process_group()
