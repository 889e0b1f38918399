"""The mixture of FER and CoT conversations: what an epoch holds, in which order, and which rank gets what."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from torch.utils.data import Sampler

from explllm.core.errors import ConfigError

Kind = Literal["fer", "cot", "caption"]
"""What a conversation is about: the label alone, label and chain of thought, or a caption."""


class SampleSpec(NamedTuple):
    """One conversation to be made."""

    row: int
    """Row of the table, counted from 0."""
    kind: Kind
    """Which conversation about it."""
    seed: int
    """Seeds the augmentation; differs at every draw of every epoch."""


class Mixture:
    """What each epoch holds: FER and CoT conversations in an exact ratio, in an order seeded by the epoch.

    At a FER share p, each image that has a chain of thought comes once as CoT, and the images come p / (1 - p) times as
    FER: 3 and 1 at 0.75:0.25, as the authors' released list repeats them. Where that is no whole number, the rest is
    drawn anew each epoch. The two kinds alternate evenly, so that every stretch of the order holds the ratio too, to
    within one conversation::

        p = 0.75    FER FER FER CoT FER FER FER CoT ...
    """

    def __init__(self, fer_rows: Sequence[int], cot_rows: Sequence[int], fer_share: float, seed: int = 0) -> None:
        """Plan the epochs.

        Args:
            fer_rows: Rows that have a label.
            cot_rows: Rows that have a label and a chain of thought.
            fer_share: Share p of FER conversations, in [0, 1].
            seed: Seed of every order.

        Raises:
            ConfigError: If the share is out of range, or rows that it needs are missing.
        """
        if not 0 <= fer_share <= 1:
            raise ConfigError(f"a FER share of {fer_share}", remedy="Give a share from 0 to 1; the paper's is 0.75.")
        if fer_share < 1 and not cot_rows:
            raise ConfigError(
                f"a FER share of {fer_share} needs chains of thought, and no training row has one",
                remedy="Set fer_share to 1, or give action units (chains of thought are then written by rules).",
            )
        if fer_share > 0 and not fer_rows:
            raise ConfigError("there are no training rows", remedy="Check the data's `split` column and root.")
        self.fer_rows, self.cot_rows = np.asarray(fer_rows, dtype=np.int64), np.asarray(cot_rows, dtype=np.int64)
        self.fer_share, self.seed = fer_share, seed
        if fer_share == 1:
            self.fer_count, self.cot_count = len(fer_rows), 0
        else:
            self.cot_count = len(cot_rows)
            self.fer_count = round(self.cot_count * fer_share / (1 - fer_share))

    def __len__(self) -> int:
        """Return the number of conversations in an epoch."""
        return self.fer_count + self.cot_count

    def epoch(self, epoch: int) -> list[SampleSpec]:
        """Return the conversations of an epoch in order.

        Args:
            epoch: Number of the epoch, from 0.

        Returns:
            The draws; the same for the same arguments, on every rank.
        """
        random = np.random.default_rng([self.seed, epoch])
        fer = _repeat(self.fer_rows, self.fer_count, random)
        cot = random.permutation(self.cot_rows)[: self.cot_count]
        total = len(self)
        # Place i is a CoT where the running quota i * share passes a whole number (Bresenham's line).
        quota = np.arange(total + 1, dtype=np.int64) * self.cot_count // max(total, 1)
        is_cot = np.diff(quota) > 0
        rows = np.empty(total, dtype=np.int64)
        rows[is_cot], rows[~is_cot] = cot, fer
        seeds = random.integers(0, 2**31, size=total)
        return [
            SampleSpec(int(row), "cot" if chain else "fer", int(seed))
            for row, chain, seed in zip(rows, is_cot, seeds, strict=True)
        ]


class SinglePass:
    """What each epoch of the first stage holds: every image once with its caption."""

    def __init__(self, rows: Sequence[int], seed: int = 0) -> None:
        """Keep the rows that have a caption, and the seed of every order."""
        if not rows:
            raise ConfigError("no training row has a caption", remedy="Give a manifest with a `caption` column.")
        self.rows, self.seed = np.asarray(rows, dtype=np.int64), seed

    def __len__(self) -> int:
        """Return the number of conversations in an epoch."""
        return len(self.rows)

    def epoch(self, epoch: int) -> list[SampleSpec]:
        """Return the conversations of an epoch in order, as `Mixture.epoch` does."""
        random = np.random.default_rng([self.seed, epoch])
        rows, seeds = random.permutation(self.rows), random.integers(0, 2**31, size=len(self))
        return [SampleSpec(int(row), "caption", int(seed)) for row, seed in zip(rows, seeds, strict=True)]


class BatchSampler(Sampler[list[SampleSpec]]):
    """Cuts an epoch into global batches, and these into each rank's micro-batches.

    Inside a global batch, conversations of one kind are put together, as a short label padded to the length of a chain
    of thought is wasted work; the order inside a global batch does not change its gradient. Neighboring micro-batches
    go to different ranks, so that all ranks have work of one size at a time::

        global batch of 8, 2 ranks, micro-batches of 2:   F F | F F | F F | C C
                                                  rank:   0     1     0     1

    An epoch's last, incomplete global batch is left out; the next epoch draws another order. The sampler goes on where
    it stopped: see `state_dict`.
    """

    def __init__(
        self, plan: Mixture | SinglePass, batch_size: int, micro_batch_size: int, rank: int = 0, world_size: int = 1
    ) -> None:
        """Check that the sizes fit.

        Args:
            plan: What each epoch holds.
            batch_size: The global batch, in conversations.
            micro_batch_size: Conversations that one rank handles at a time.
            rank: Number of this process.
            world_size: Number of processes.

        Raises:
            ConfigError: If the global batch is no multiple of the ranks' micro-batches, or larger than an epoch.
        """
        super().__init__()
        self.accumulation = accumulation(batch_size, micro_batch_size, world_size)
        if len(plan) < batch_size:
            raise ConfigError(
                f"an epoch of {len(plan)} conversations is smaller than one global batch of {batch_size}",
                remedy="Lower `data.batch_size`.",
            )
        self.plan, self.batch_size, self.micro_batch_size = plan, batch_size, micro_batch_size
        self.rank, self.world_size = rank, world_size
        self.current_epoch, self.start = 0, 0

    @property
    def sampler(self) -> "BatchSampler":
        """Itself: Lightning tells the epoch to a batch sampler's sampler, and not to the batch sampler."""
        return self

    def __len__(self) -> int:
        """Return the number of this rank's micro-batches in an epoch."""
        return len(self.plan) // self.batch_size * self.accumulation

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration yields (Lightning calls this)."""
        if epoch != self.current_epoch:
            self.current_epoch, self.start = epoch, 0

    def restore_position(self, epoch: int, batch: int) -> None:
        """Let the next iteration begin inside an epoch.

        Args:
            epoch: Number of the epoch, from 0.
            batch: Micro-batches of this rank to skip.
        """
        self.current_epoch, self.start = epoch, batch

    def __iter__(self) -> Iterator[list[SampleSpec]]:
        """Yield this rank's micro-batches."""
        start, self.start = self.start, 0
        draws = self.plan.epoch(self.current_epoch)
        for number in range(start, len(self)):
            window, step = divmod(number, self.accumulation)
            batch = draws[window * self.batch_size : (window + 1) * self.batch_size]
            batch.sort(key=lambda draw: draw.kind == "cot")  # stable: the order inside a kind stays
            first = (step * self.world_size + self.rank) * self.micro_batch_size
            yield batch[first : first + self.micro_batch_size]


def accumulation(batch_size: int, micro_batch_size: int, world_size: int) -> int:
    """Return how many micro-batches of each rank make one global batch.

    Args:
        batch_size: The global batch, in conversations.
        micro_batch_size: Conversations that one rank handles at a time.
        world_size: Number of ranks.

    Returns:
        The accumulation.

    Raises:
        ConfigError: If it is no whole number.
    """
    if micro_batch_size < 1 or batch_size % (micro_batch_size * world_size):
        raise ConfigError(
            f"a global batch of {batch_size} is no multiple of {world_size} devices x micro-batches of "
            f"{micro_batch_size}",
            remedy="Choose `data.micro_batch_size` so that it is.",
        )
    return batch_size // (micro_batch_size * world_size)


def _repeat(rows: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Draw `count` rows, each as often as any other to within one, and every whole round in its own order."""
    rounds = -(-count // len(rows)) if len(rows) else 0
    return np.concatenate([random.permutation(rows) for _ in range(rounds)])[:count] if count else rows[:0]
