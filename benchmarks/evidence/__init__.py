"""
Evidence on branches, routers and tokens, in the miniature: the runs behind `docs/evidence.md`, stated beforehand in
`docs/experiments.md`. One seed per process, one thread, resumable: arms that the output file holds are skipped.

```bash
python -m benchmarks.evidence.story --base BASE --seed S --output runs/evidence/story_S.json
python -m benchmarks.evidence.joint --base BASE --seed S --output runs/evidence/joint_S.json
python -m benchmarks.evidence.probes --base BASE --seed S --output runs/evidence/joint_S.json
python -m benchmarks.evidence.capacity --seed S --output runs/evidence/capacity_S.json
python -m benchmarks.evidence.summary --folder runs/evidence
```
"""
