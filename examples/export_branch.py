# /// script
# requires-python = ">=3.11"
# dependencies = ["hf-metis-home"]
# ///
"""
Exports each branch of a hybrid as a standard Qwen2.5-VL, and the router to run in front of an engine.

    python examples/export_branch.py runs/sft runs/exported

Any engine that serves Qwen2.5-VL can serve a branch; it needs none of our code.
"""

import sys
from pathlib import Path

from transformers import AutoModelForImageTextToText

from hf_metis_home import export_checkpoint


if __name__ == "__main__":
    hybrid, output_dir = sys.argv[1], Path(sys.argv[2])
    for branch in ("thinking", "non_thinking"):
        export_checkpoint(hybrid, output_dir / branch, format="dense", branch=branch)
    export_checkpoint(hybrid, output_dir / "router", format="router")

    model = AutoModelForImageTextToText.from_pretrained(output_dir / "thinking")
    print(f"Wrote {output_dir}: thinking, non_thinking, router. {type(model).__name__} loads a branch.")
