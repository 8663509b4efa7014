"""
Run by `test_distributed.py` under torchrun: `two_ranks.py MODE RESULT`.

`ddp`: the trainer's weights after two steps. `fsdp`: gradients of one step in which each rank has rows of one mode
only, so that each needs a branch that the other leaves idle. `fsdp_text`: and only one of them has images. `fsdp_cuda`:
as `fsdp`, on two GPUs. `zero2`, `zero3`, `zero2_text`, `zero3_text`: the same under DeepSpeed.
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
    return language / 10 + F.cross_entropy(outputs.branch_logits, batch["thinking"].long())


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


def zero_gradients(stage: int, images=((1,), (1,))) -> dict:
    """As `sharded_gradients`, by DeepSpeed's engine."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed
    from deepspeed.utils import safe_get_full_grad

    # Communication through shared memory is compiled when it is first used, for minutes, while the other rank waits.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="gloo")
    model, _ = make_hybrid()
    zero = {"stage": stage, "overlap_comm": False}
    if stage == 3:  # every parameter is split, however small, and let go of at once
        zero |= {"stage3_param_persistence_threshold": 0, "stage3_max_live_parameters": 0}
    config = {"train_micro_batch_size_per_gpu": 2, "zero_optimization": zero, "zero_allow_untested_optimizer": True}
    engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), config=config)
    rank = dist.get_rank()
    engine.backward(loss_of(engine, batch_of((rank == 0,) * 2, images[rank])))
    return {name: safe_get_full_grad(parameter).clone() for name, parameter in engine.module.named_parameters()}


if __name__ == "__main__":
    mode, result = sys.argv[1:]
    if mode == "ddp":
        with tempfile.TemporaryDirectory() as folder:
            found = trained(folder, batch_size=2)
    elif mode.startswith("zero"):
        found = zero_gradients(int(mode[4]), images=((1,), (0,)) if mode.endswith("_text") else ((1,), (1,)))
    elif mode == "fsdp_text":
        found = sharded_gradients("cpu", images=((1,), (0,)))
    else:
        found = sharded_gradients("cuda" if mode == "fsdp_cuda" else "cpu")
    if dist.get_rank() == 0:
        torch.save(found, result)
    dist.barrier()
    dist.destroy_process_group()
