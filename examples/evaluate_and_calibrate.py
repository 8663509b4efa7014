# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-metis-home[eval]"]
# ///
"""
Answers every question with both branches, compares the router with fixed branches, chance and an oracle, and sets the
threshold for a token budget.

    python examples/evaluate_and_calibrate.py runs/routed questions.parquet runs/outcomes --token_budget 300

`metis-home eval`, `report` and `calibrate` do the same; an interrupted `eval` can be continued.
"""

import argparse

import torch
from datasets import Dataset
from transformers import AutoProcessor

from hf_metis_home import MetisHomeForConditionalGeneration
from hf_metis_home.evaluation.calibrated_model import calibrate_model
from hf_metis_home.evaluation.metrics import evaluate_outcomes
from hf_metis_home.evaluation.outcomes import collect_outcomes, write_outcomes


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="folder; the threshold is written into its config.json")
    parser.add_argument("questions")
    parser.add_argument("output_dir")
    parser.add_argument("--token_budget", type=float, required=True, help="mean tokens per question")
    parser.add_argument("--max_new_tokens", type=int, default=2048)
    parser.add_argument("--batch_size", type=int, default=16)
    args = parser.parse_args()

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = MetisHomeForConditionalGeneration.from_pretrained(args.model, dtype="auto").to(device).eval()
    processor = AutoProcessor.from_pretrained(args.model, trust_remote_code=True)
    outcomes = collect_outcomes(
        model, processor, Dataset.from_parquet(args.questions),
        max_new_tokens=args.max_new_tokens, batch_size=args.batch_size,
    )  # fmt: skip
    path = write_outcomes(outcomes, f"{args.output_dir}/outcomes.parquet")

    # Figures at any threshold are computed from the table: nothing is generated again.
    for threshold in (0.3, 0.5, 0.7):
        policies = evaluate_outcomes(outcomes, threshold)["tasks"]["all"]["policies"]
        print(f"threshold {threshold}")
        for name in ("router", "thinking", "non_thinking", "random", "oracle"):
            print(f"  {name:<13} right {policies[name]['accuracy']:6.1%}   tokens {policies[name]['tokens']:7.1f}")

    found = calibrate_model(args.model, path, token_budget=args.token_budget)
    print(found["statement"])
