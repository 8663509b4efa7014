"""
Run by `test_distributed.py` under torchrun: `two_ranks.py MODE RESULT`.

`ddp`: the trainer's weights after two steps. `fsdp`: gradients of one step in which each rank has rows of one mode
only, so that each needs a branch that the other leaves idle. `fsdp_text`: and only one of them has images. `fsdp_cuda`:
as `fsdp`, on two GPUs.
"""

import os
import sys
import tempfile

import torch
import torch.distributed as dist
from torch.nn import functional as F

from tests.trainers.common import make_dataset, make_hybrid, make_rows, make_trainer


# Two modes on every rank in the first step, one on each in the second.
MODES = (True, False, True, False, True, True, False, False)
OPTIONS = {
    "optim": "sgd", "max_grad_norm": 0.0, "max_steps": 2, "learning_rate": 0.1, "train_sampling_strategy": "sequential",
    "router_learning_rate": 0.1,
}  # fmt: skip


def trained(folder, batch_size: int) -> tuple[dict, list]:
    trainer = make_trainer(folder, make_dataset(MODES), per_device_train_batch_size=batch_size, **OPTIONS)
    trainer.train()
    model = trainer.accelerator.unwrap_model(trainer.model)
    return model.state_dict(), trainer.state.log_history


def loss_of(model, batch) -> torch.Tensor:
    """Language-model loss and router loss, each a mean over rows of equal weight."""
    labels = batch.pop("labels")
    outputs = model(**batch, use_cache=False)
    language = F.cross_entropy(outputs.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
    return language / 10 + F.cross_entropy(outputs.router_logits, batch["thinking"].long())


def batch_of(modes, images=(1,)) -> dict:
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    from hf_metis_home.trainers.collator import MetisHomeCollator

    _, processor = make_hybrid()
    collator = MetisHomeCollator(DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True))
    return dict(collator(make_rows(modes, images=images)))


def sharded_gradients(device: str, images=((1,), (1,))) -> dict:
    """`images` per rank: how many each of its rows has."""
    from torch.distributed.fsdp import fully_shard

    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    mesh = dist.init_device_mesh(device, (dist.get_world_size(),))  # by default an accelerator's, where there is one
    model = make_hybrid()[0].to(device)
    for layer in (*model.model.visual.blocks, *model.model.language_model.layers, model):
        fully_shard(layer, mesh=mesh)
    batch = batch_of((dist.get_rank() == 0,) * 2, images[dist.get_rank()])
    loss_of(model, {name: tensor.to(device) for name, tensor in batch.items()}).backward()
    return {name: parameter.grad.full_tensor().cpu() for name, parameter in model.named_parameters()}


if __name__ == "__main__":
    mode, result = sys.argv[1:]
    if mode == "ddp":
        with tempfile.TemporaryDirectory() as folder:
            found = trained(folder, batch_size=2)
    elif mode == "fsdp_text":
        found = sharded_gradients("cpu", images=((1,), (0,)))
    else:
        found = sharded_gradients("cuda" if mode == "fsdp_cuda" else "cpu")
    if dist.get_rank() == 0:
        torch.save(found, result)
    dist.barrier()
    dist.destroy_process_group()
