"""
What the branches and the router cost, measured. Run from the top of the repository, one at a time on a quiet machine:

```bash
python -m benchmarks.branches    # against the dense model: prefill, decode, training step, routing
python -m benchmarks.rivals      # against other ways to have two behaviours in one batch
python -m benchmarks.end_to_end  # tokens per second and seconds per query of a whole workload
```

Each fills its own section of `docs/performance.md`, or of the page named by `--output`.
"""
