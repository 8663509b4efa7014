# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-metis-home[train,eval]"]
# ///
"""
Teaches the router where thinking pays off: every question is answered with both branches, then only the router is
fitted to the outcomes, at a price per token.

    python examples/fit_router.py runs/sft questions.parquet runs/routed

Questions need `prompt`, `images`, `solution` and `task`, and preferably an `id`. Use some that the branches were not
trained on.
"""

import argparse

import torch
from datasets import Dataset
from transformers import AutoProcessor

from hf_metis_home import MetisHomeForConditionalGeneration
from hf_metis_home.evaluation.outcomes import collect_outcomes
from hf_metis_home.trainers.router_checkpoint import fit_router_checkpoint


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("questions")
    parser.add_argument("output_dir")
    parser.add_argument("--token_cost", type=float, default=0.001, help="price of a token, in right answers")
    parser.add_argument("--max_new_tokens", type=int, default=2048)
    parser.add_argument("--batch_size", type=int, default=16)
    args = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = MetisHomeForConditionalGeneration.from_pretrained(args.model, dtype="auto").to(device).eval()
    processor = AutoProcessor.from_pretrained(args.model, trust_remote_code=True)
    rows = Dataset.from_parquet(args.questions)
    outcomes = collect_outcomes(model, processor, rows, max_new_tokens=args.max_new_tokens, batch_size=args.batch_size)
    del model  # fitting loads only the layers below the router

    fit = fit_router_checkpoint(args.model, args.output_dir, rows, outcomes=outcomes, token_cost=args.token_cost)
    for name, cell in fit.policies.items():
        shares = f"right {cell['accuracy']:.1%}, thinks {cell['thinking_ratio']:.0%}"
        print(f"{name}: {shares}, tokens {cell['tokens']:.1f}")
