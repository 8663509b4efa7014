"""The order of rows: every row comes, in the promised parts, and the same again after a resume."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_metis_home.trainers.mode_sampler import ModeSampler

from .common import make_dataset, make_trainer
from .test_resume import OPTIONS, Fall, losses


MODES = st.lists(st.booleans(), min_size=1, max_size=60)


@given(MODES, st.sampled_from([None, 1, 3, 8]), st.integers(0, 5))
def test_joint_gives_every_row_once(modes, size, seed):
    sampler = ModeSampler(modes, one_mode_batch_size=size, seed=seed)
    assert sorted(sampler) == list(range(len(modes))) and len(sampler) == len(modes)


@given(MODES, st.sampled_from([None, 4]), st.floats(0, 0.9))
def test_thinking_first(modes, size, share):
    sampler = ModeSampler(modes, "thinking_first", share, one_mode_batch_size=size)
    order = list(sampler)
    first = order[: sum(modes)]
    rest = order[sum(modes) :]
    assert sorted(first) == [row for row, mode in enumerate(modes) if mode]
    assert sorted(row for row in rest if not modes[row]) == [row for row, mode in enumerate(modes) if not mode]
    if any(modes):
        replayed = [row for row in rest if modes[row]]
        assert len(order) == len(sampler) and abs(len(replayed) - share * len(rest)) <= 1
        # None comes a third time before all have come twice.
        assert max((replayed.count(row) for row in first), default=0) - min(map(replayed.count, first)) <= 1


@given(MODES, st.integers(1, 6))
def test_batches_of_one_mode(modes, size):
    order = list(ModeSampler(modes, one_mode_batch_size=size))
    batches = [{modes[row] for row in order[start : start + size]} for start in range(0, len(order), size)]
    whole = sum(modes) // size + (len(modes) - sum(modes)) // size
    assert all(len(batch) == 1 for batch in batches[:whole])


def test_epochs_differ_and_seeds_fix_them():
    sampler, again = (ModeSampler([True, False] * 20, seed=3) for _ in range(2))
    first = list(sampler)
    assert first == list(again) and first != list(ModeSampler([True, False] * 20, seed=4))
    sampler.set_epoch(1)
    assert list(sampler) != first


@pytest.mark.parametrize("options", [{"one_mode_batches": True}, {"curriculum": "thinking_first", "replay_share": 0.5}])
def test_the_trainer_follows_it_and_resumes(tmp_path, options):
    data = make_dataset((True, False) * 8)
    whole = make_trainer(tmp_path / "whole", data, **OPTIONS, **options)
    order = list(whole._get_train_sampler())
    rows = [data[row]["thinking"] for row in order]
    if "curriculum" in options:
        assert all(rows[:8]) and len(rows) == 24
    else:
        assert all(rows[start] == rows[start + 1] for start in range(0, 16, 2)) and set(rows) == {True, False}
    whole.train()
    with pytest.raises(RuntimeError, match="the machine is gone"):
        make_trainer(tmp_path / "cut", data, trainer_options={"callbacks": [Fall()]}, **OPTIONS, **options).train()
    resumed = make_trainer(tmp_path / "cut", data, **OPTIONS, **options)
    resumed.train(resume_from_checkpoint=True)
    assert losses(resumed) == losses(whole)


def test_epochs_reach_the_sampler(tmp_path):
    # Without `set_epoch` the second epoch would repeat the order of the first.
    options = {"one_mode_batches": True, "max_steps": -1, "num_train_epochs": 2, "per_device_train_batch_size": 2}
    trainer = make_trainer(tmp_path, make_dataset((True, False) * 8), **options)
    seen = []
    collate = trainer.data_collator
    trainer.data_collator = lambda rows: seen.append([row["prompt"] for row in rows]) or collate(rows)
    trainer.train()
    assert len(seen) == 16 and seen[:8] != seen[8:]
