"""
Run by `test_grpo_distributed.py` under torchrun: `grpo_two_ranks.py MODE RESULT`.

`ddp`: weights and logs after two steps of every run in `RUNS`. `fsdp`: gradients of one step in which each rank has
rollouts of one branch only. Answers are a function of the prompt and its place in the group, so that they are the same
however many ranks share them.
"""

import contextlib
import sys
import tempfile
from unittest import mock

import torch
import torch.distributed as dist
from trl import GRPOTrainer

from hf_metis_home.trainers import MetisHomeGRPOTrainer
from tests.trainers.grpo_common import first_batch, make_grpo, make_prompts


OPTIONS = {
    "optim": "sgd", "max_grad_norm": 0.0, "max_steps": 2, "learning_rate": 0.05, "router_learning_rate": 0.05,
    "shuffle_dataset": False, "report_to": "none",
}  # fmt: skip
# `size`: rollouts of a step, of all ranks. `split`: the thinking branch on the first half of them, the other one on the
# second half, which is one branch for each of two ranks.
RUNS = {
    "dense": {"size": 8},
    "thinking": {"size": 8, "rollout_branch": "thinking", "trainable": "all"},
    "both": {"size": 8, "rollout_branch": "both"},
    "both, per branch": {"size": 8, "rollout_branch": "both", "advantage_group": "branch"},
    "regret": {"size": 8, "rollout_branch": "router", "trainable": "all", "token_cost": 0.1},
    "one branch on each rank": {
        "size": 8, "split": True, "rollout_branch": "router", "router_objective": "policy_gradient", "trainable": "all",
    },
    "a group on both ranks": {"size": 18, "num_generations": 6, "rollout_branch": "router", "trainable": "all"},
    "old log-probabilities": {"size": 16, "num_iterations": 2, "rollout_branch": "both"},
    "dynamic sampling": {"size": 18, "num_generations": 6, "rollout_branch": "both", "dynamic_sampling_rounds": 4},
    "dynamic sampling, dense": {"size": 6, "num_generations": 3, "dynamic_sampling_rounds": 6},
}  # fmt: skip


def told(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
    """In place of generation: words by prompt and place, some answers ended, some cut off."""
    start, answers = self.accelerator.process_index * len(prompt_ids), []
    for row, prompt in enumerate(prompt_ids):
        place = (start + row) % num_generations
        words = torch.Generator().manual_seed(sum(prompt) * 64 + place)
        answer = torch.randint(20, 180, (2 + place % 3,), generator=words).tolist()
        answers.append(answer + [self._tokenizer.eos_token_id] * (place % 2))
    return answers, None


def halves(self, prompt_ids, multimodal_fields, num_generations):
    count, ranks = len(prompt_ids), self.accelerator.num_processes
    return torch.arange(count) + self.accelerator.process_index * count < count * ranks // 2


@contextlib.contextmanager
def told_answers(split: bool = False):
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(GRPOTrainer, "_generate_single_turn", told))
        if split:
            stack.enter_context(mock.patch.object(MetisHomeGRPOTrainer, "_choose_branches", halves))
        yield


def varied(completion_ids, solution, log_extra, **kwargs) -> list[float]:
    """For two prompts in three all answers are alike where the run is one of dynamic sampling."""
    log_extra("asked", solution)
    return [float(sum(ids) % 7) * (one in "147") for ids, one in zip(completion_ids, solution, strict=True)]


def parity(completion_ids, solution, log_extra, **kwargs) -> list[float]:
    log_extra("asked", solution)
    return [float(sum(ids) % 3) for ids in completion_ids]


def trained(name: str, ranks: int) -> dict:
    options = {**OPTIONS, **RUNS[name]}
    size, split = options.pop("size"), options.pop("split", False)
    reward = varied if "sampling" in name else parity
    with tempfile.TemporaryDirectory() as folder, told_answers(split):
        trainer = make_grpo(
            folder, None, make_prompts(9), [reward], per_device_train_batch_size=size // ranks, **options
        )  # fmt: skip
        trainer.train()
        return {
            "weights": trainer.accelerator.unwrap_model(trainer.model).state_dict(),
            "logs": trainer.state.log_history[:2],
            "asked": list(trainer._logs["extra"]["asked"]),
            "advantages": list(trainer._logs["advantages"]),
        }


def sharded_gradients(ranks: int) -> dict:
    """Gradients of policy and router; sharded, where there are several ranks."""
    from torch.distributed.fsdp import fully_shard

    with tempfile.TemporaryDirectory() as folder, told_answers(split=True):
        options = {**OPTIONS, "rollout_branch": "router", "router_objective": "policy_gradient", "trainable": "all"}
        # One group on both ranks: within a branch what is above the mean and below it tells the router nothing.
        options |= {"num_generations": 8, "per_device_train_batch_size": 8 // ranks}
        trainer = make_grpo(folder, None, make_prompts(1, images=(1,)), [parity], **options)
        batch, model = first_batch(trainer), trainer.model
        if ranks > 1:
            mesh = dist.init_device_mesh("cpu", (ranks,))
            for layer in (*model.model.visual.blocks, *model.model.language_model.layers, model):
                fully_shard(layer, mesh=mesh)
        trainer.compute_loss(model, batch).backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        return {name: getattr(grad, "full_tensor", lambda grad=grad: grad)() for name, grad in gradients.items()}


if __name__ == "__main__":
    mode, result = sys.argv[1:]
    found = {name: trained(name, ranks=2) for name in RUNS} if mode == "ddp" else sharded_gradients(ranks=2)
    if dist.get_rank() == 0:
        torch.save(found, result)
    dist.barrier()
    dist.destroy_process_group()
