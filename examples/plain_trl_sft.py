# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-metis-home[train]"]
# ///
"""
The shortest training script. It works like TRL's `SFTTrainer`, on rows of both modes.

    python examples/plain_trl_sft.py runs/hybrid runs/data runs/sft
"""

import sys

import torch
from datasets import load_dataset

from hf_metis_home import MetisHomeSFTConfig, MetisHomeSFTTrainer


if __name__ == "__main__":
    model, data, output_dir = sys.argv[1:]
    gpu = torch.cuda.is_available()
    trainer = MetisHomeSFTTrainer(
        model=model,
        args=MetisHomeSFTConfig(output_dir, use_cpu=not gpu, bf16=gpu),
        train_dataset=load_dataset(data, split="train"),
    )
    trainer.train()
    trainer.save_model()
