"""
Evidence on branches, routers and tokens, in the miniature: the runs behind `docs/evidence.md`, stated beforehand in
`docs/experiments.md`. One seed per process, one thread, resumable: arms that the output file holds are skipped, as long
as the weights beside it are there. `results/` holds what has run.

```bash
python -m benchmarks.evidence.story --base BASE --seed S --output runs/evidence/story_S.json
python -m benchmarks.evidence.joint --base BASE --seed S --output runs/evidence/joint_S.json
python -m benchmarks.evidence.probes --base BASE --seed S --output runs/evidence/probes_S.json
python -m benchmarks.evidence.summary --folder runs/evidence
```
"""
