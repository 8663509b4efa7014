"""The order of rows in Stage-SFT: which mode comes first, and whether a batch mixes modes."""

import random
from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler


CURRICULA = ("joint", "thinking_first")


class ModeSampler(Sampler[int]):
    """
    Indices of rows in a random order per epoch, reproducible by seed.

    Args:
        thinking (`Sequence[bool]`):
            The mode of every row.
        curriculum (`str`, *optional*, defaults to `"joint"`):
            `"joint"`: all rows in random order. `"thinking_first"`: all thinking rows, then all non-thinking rows mixed
            with replayed thinking rows.
        replay_share (`float`, *optional*, defaults to 0.0):
            Share of thinking rows in the second part of `"thinking_first"`, in [0, 1). They repeat only once all have
            been drawn.
        one_mode_batch_size (`int`, *optional*):
            Put consecutive rows of one mode into batches of this size; the leftovers of both modes share the last ones.
        seed (`int`, *optional*, defaults to 0):
            Seed.

    Example:

    ```python
    >>> from hf_metis_home.trainers.mode_sampler import ModeSampler

    >>> sampler = ModeSampler([True, False, False, True], curriculum="thinking_first", replay_share=0.5)
    >>> len(sampler)  # 2 thinking rows, then 2 others and 2 replayed
    6
    ```
    """

    def __init__(
        self,
        thinking: Sequence[bool],
        curriculum: str = "joint",
        replay_share: float = 0.0,
        one_mode_batch_size: int | None = None,
        seed: int = 0,
    ):
        self.rows = {mode: [i for i, value in enumerate(thinking) if value is mode] for mode in (True, False)}
        self.curriculum, self.one_mode_batch_size, self.seed = curriculum, one_mode_batch_size, seed
        others = len(self.rows[False])
        self.replayed = round(others * replay_share / (1 - replay_share)) if curriculum == "thinking_first" else 0
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader at the beginning of every epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.rows[True]) + len(self.rows[False]) + self.replayed

    def __iter__(self) -> Iterator[int]:
        rng = random.Random(f"{self.seed} {self.epoch}")
        thinking, others = (rng.sample(self.rows[mode], len(self.rows[mode])) for mode in (True, False))
        if self.curriculum == "joint":
            return iter(self._shuffle(thinking, others, rng))
        replayed = []
        while len(replayed) < self.replayed and thinking:
            replayed += rng.sample(thinking, min(len(thinking), self.replayed - len(replayed)))
        return iter(thinking + self._shuffle(replayed, others, rng))

    def _shuffle(self, thinking: list[int], others: list[int], rng: random.Random) -> list[int]:
        size = self.one_mode_batch_size
        if size is None:
            order = thinking + others
            rng.shuffle(order)
            return order
        batches, left = [], []
        for rows in (thinking, others):
            whole = len(rows) // size * size
            batches += [rows[start : start + size] for start in range(0, whole, size)]
            left += rows[whole:]
        rng.shuffle(batches)
        return [row for batch in batches for row in batch] + left
