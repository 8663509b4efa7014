"""
Run by `test_resume_two_ranks.py` under torchrun: `resume_two_ranks.py KIND FOLDER`.

Trains once in one go, and once with both processes falling in the middle and others taking up what they left. Writes
what both logged and ended with.
"""

import contextlib
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from tests.trainers import test_grpo_resume, test_resume
from tests.trainers.common import make_hybrid, make_trainer


def make(kind: str, folder: Path, seed: int = 0, callbacks=()):
    if kind == "sft":
        options = {**test_resume.OPTIONS, "trainer_options": {"callbacks": list(callbacks)}}
        return make_trainer(folder, model=make_hybrid(seed), **options)
    return test_grpo_resume.make(folder, kind, seed, callbacks, steps_per_generation=2, num_iterations=2)


def result(kind: str, trainer) -> dict:
    logged = test_resume.losses(trainer) if kind == "sft" else test_grpo_resume.logged(trainer)
    return {"logs": logged, "weights": trainer.accelerator.unwrap_model(trainer.model).state_dict()}


if __name__ == "__main__":
    kind, folder = sys.argv[1], Path(sys.argv[2])
    whole = make(kind, folder / "whole")
    whole.train()
    # GRPO's checkpoint is then in the middle of a block of rollouts, which must not be generated anew.
    fall = test_resume.Fall() if kind == "sft" else test_grpo_resume.Fall(7)
    with contextlib.suppress(RuntimeError):
        make(kind, folder / "cut", callbacks=[fall]).train()
    resumed = make(kind, folder / "cut", seed=5)  # what counts must come from the checkpoint
    resumed.train(resume_from_checkpoint=True)
    found = {"whole": result(kind, whole), "resumed": result(kind, resumed), "ranks": dist.get_world_size()}
    if dist.get_rank() == 0:
        torch.save(found, folder / "result.pt")
    dist.barrier()
    dist.destroy_process_group()
