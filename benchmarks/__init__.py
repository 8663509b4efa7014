"""
What the branches, the router and the conversion cost, measured. Run from the top of the repository, one at a time on a
quiet machine:

```bash
python -m benchmarks.branches    # against the dense model: prefill, decode, training step, routing
python -m benchmarks.rivals      # against other ways to have two behaviours in one batch
python -m benchmarks.end_to_end  # tokens per second and seconds per query of a whole workload
python -m benchmarks.serving     # what the clients of a server wait; needs --model_name_or_path, e.g. of `make demo`
python -m benchmarks.upcycle     # converting a 3B checkpoint: memory, and time against a copy; needs 33 GB of disk
```

Each fills its own section of `docs/performance.md`, or of the page named by `--output`.
"""
