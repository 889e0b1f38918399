"""The order of training samples: what an epoch contains, and which rank processes which part."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
from torch.utils.data import Sampler

from explllm.core.errors import ConfigError

Kind = Literal["fer", "cot", "caption", "action_units", "unit_state", "description", "units", "reasoning"]
"""The target of a sample: the label alone, the label and a chain of thought, a caption, action unit intensities,
whether individual units are active, or one of the FEA instruction texts (`explllm.explanations.instructions`)."""

KINDS: tuple[Kind, ...] = get_args(Kind)
MIXED_KINDS: tuple[Kind, ...] = ("fer", "cot", "unit_state", "description", "units", "reasoning")
"""The kinds of conversations that a mixture can contain."""

ClassBalance = Literal["none", "sqrt", "uniform"]
"""Share of each class in an epoch: proportional to its number of rows, to the square root of this number, or equal."""

_BALANCE_POWERS: Mapping[ClassBalance, float] = {"none": 1.0, "sqrt": 0.5, "uniform": 0.0}


class SampleSpec(NamedTuple):
    """One training sample to load."""

    row: int
    """Row of the table, from 0."""
    kind: Kind
    """Target of the sample."""
    seed: int
    """Seed of all random choices for the sample, such as augmentation and wording; drawn anew in every epoch."""


class Mixture:
    """Epochs that mix several kinds of conversations in an exact ratio, in an order seeded by the epoch.

    With only FER and CoT, and a FER share of p, an epoch contains one CoT conversation for each image that has a chain
    of thought, and p / (1 - p) times as many FER conversations. At p = 0.75, the ratio is 3 to 1, as in the authors'
    released list. The kinds alternate evenly, so that every part of an epoch has the same ratio, to within one
    conversation of each kind::

        p = 0.75    FER FER FER CoT FER FER FER CoT ...

    With more kinds, an epoch is just long enough to contain every row of every kind except FER.

    With class balancing, an epoch has the same length, but rows of rare classes repeat and rows of frequent classes
    take turns from epoch to epoch.
    """

    def __init__(
        self,
        rows: Mapping[Kind, Sequence[int]],
        shares: Mapping[Kind, float],
        seed: int = 0,
        classes: Mapping[int, str] | None = None,
        class_balance: ClassBalance = "none",
        lengths: Mapping[int, int] | None = None,
    ) -> None:
        """Compute the number of conversations in an epoch.

        Args:
            rows: Rows for which each kind of conversation is possible.
            shares: Share of each kind; they add up to 1.
            seed: Seed for the order of every epoch.
            classes: Label of each row; needed for class balancing.
            class_balance: Share of each class in an epoch.
            lengths: Length of each row's chain of thought, in any unit; see `BatchSampler`.

        Raises:
            ConfigError: If a kind with a share above 0 has no rows.
        """
        self.shares = {kind: shares[kind] for kind in KINDS if shares.get(kind, 0) > 0}
        self.rows = {kind: np.asarray(rows.get(kind, ()), dtype=np.int64) for kind in self.shares}
        for kind, available in self.rows.items():
            if not len(available):
                raise _missing_rows(kind, self.shares)
        self.seed, self.classes, self.class_balance = seed, classes or {}, class_balance
        self.lengths = lengths or {}
        others: list[Kind] = [kind for kind in self.shares if kind != "fer"] or ["fer"]
        # The kind that needs the longest epoch uses each of its rows once.
        longest = max(others, key=lambda kind: len(self.rows[kind]) / self.shares[kind])
        length = len(self.rows[longest]) / self.shares[longest]
        self.counts = {
            kind: len(self.rows[kind]) if kind == longest else round(length * share)
            for kind, share in self.shares.items()
        }

    def __len__(self) -> int:
        """Return the number of conversations in an epoch."""
        return sum(self.counts.values())

    def epoch(self, epoch: int) -> list[SampleSpec]:
        """Return the conversations of an epoch (counted from 0), in an order that is the same on every rank."""
        rng = np.random.default_rng([self.seed, epoch])
        chosen = {kind: self._choose(self.rows[kind], count, rng) for kind, count in self.counts.items()}
        total = len(self)
        rows, kinds = np.empty(total, dtype=np.int64), np.empty(total, dtype=object)
        free = np.arange(total)
        for kind in reversed(self.counts):
            # The i-th free place gets this kind if the running quota i * share reaches a new integer there (Bresenham's
            # line algorithm).
            quota = np.arange(len(free) + 1, dtype=np.int64) * self.counts[kind] // max(len(free), 1)
            places = np.diff(quota) > 0
            rows[free[places]], kinds[free[places]] = chosen[kind], kind
            free = free[~places]
        seeds = rng.integers(0, 2**31, size=total)
        return [SampleSpec(int(row), kind, int(seed)) for row, kind, seed in zip(rows, kinds, seeds, strict=True)]

    def _choose(self, rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        if self.class_balance == "none":
            return _repeat(rows, count, rng)
        by_class: dict[str, list[int]] = {}
        for row in rows.tolist():
            # Rows without an expression, such as BP4D's, are balanced as one class.
            by_class.setdefault(self.classes.get(row, ""), []).append(row)
        counts = balanced_counts({name: len(members) for name, members in by_class.items()}, count, self.class_balance)
        return rng.permutation(
            np.concatenate([_repeat(np.asarray(by_class[name]), counts[name], rng) for name in sorted(by_class)])
        )


class SinglePass:
    """Epochs that contain each row once: captions in the first stage, faces for the action unit regressor."""

    def __init__(
        self, rows: Sequence[int], kind: Kind, seed: int = 0, lengths: Mapping[int, int] | None = None
    ) -> None:
        """Store the rows, the target of their samples, the seed and the length of each row's text."""
        self.rows, self.kind, self.seed = np.asarray(rows, dtype=np.int64), kind, seed
        self.lengths = lengths or {}

    def __len__(self) -> int:
        """Return the number of samples in an epoch."""
        return len(self.rows)

    def epoch(self, epoch: int) -> list[SampleSpec]:
        """Return the samples of an epoch (counted from 0), in a random order that is the same on every rank."""
        rng = np.random.default_rng([self.seed, epoch])
        rows, seeds = rng.permutation(self.rows), rng.integers(0, 2**31, size=len(self))
        return [SampleSpec(int(row), self.kind, int(seed)) for row, seed in zip(rows, seeds, strict=True)]


class BatchSampler(Sampler[list[SampleSpec]]):
    """Cuts an epoch into global batches, and each global batch into the ranks' micro-batches.

    Inside a global batch, conversations of the same kind and similar length are grouped, because padding would
    otherwise waste computation. The order inside a global batch does not change its gradient. Neighboring micro-batches
    go to different ranks, which balances the work across ranks::

        global batch of 8, 2 ranks, micro-batches of 2:   F F | F F | F F | C C
                                                  rank:   0     1     0     1

    An incomplete last global batch is dropped; every epoch has a different order.
    """

    def __init__(
        self, plan: Mixture | SinglePass, batch_size: int, micro_batch_size: int, rank: int = 0, world_size: int = 1
    ) -> None:
        """Check that the sizes match.

        Args:
            plan: Content and order of each epoch.
            batch_size: The global batch size.
            micro_batch_size: Samples that one rank processes at a time.
            rank: Number of this process.
            world_size: Number of processes.

        Raises:
            ConfigError: If the global batch is not a multiple of the ranks' micro-batches, or larger than an epoch.
        """
        super().__init__()
        self.accumulation = accumulation(batch_size, micro_batch_size, world_size)
        if len(plan) < batch_size:
            raise ConfigError(
                f"`data.batch_size` {batch_size} is larger than an epoch of {len(plan)} samples",
                remedy="Lower `data.batch_size`.",
            )
        self.plan, self.batch_size, self.micro_batch_size = plan, batch_size, micro_batch_size
        self.rank, self.world_size = rank, world_size
        self.current_epoch, self.start = 0, 0

    @property
    def sampler(self) -> "BatchSampler":
        """This sampler itself, because Lightning calls `set_epoch` only on a batch sampler's ``sampler``."""
        return self

    def __len__(self) -> int:
        """Return the number of this rank's micro-batches in an epoch."""
        return len(self.plan) // self.batch_size * self.accumulation

    def set_epoch(self, epoch: int) -> None:
        """Select the epoch of the next iteration (called by Lightning)."""
        if epoch != self.current_epoch:
            self.current_epoch, self.start = epoch, 0

    def restore_position(self, epoch: int, batch: int) -> None:
        """Start the next iteration in `epoch` (counted from 0), after the first `batch` micro-batches of this rank."""
        self.current_epoch, self.start = epoch, batch

    def resume_requirements(self) -> dict[str, int | str]:
        """Return the settings that must be unchanged for a saved position to refer to the same samples."""
        return {
            "epoch length": len(self.plan),
            "batch size": self.batch_size,
            "micro-batch size": self.micro_batch_size,
            "data seed": self.plan.seed,
            "class balance": self.plan.class_balance if isinstance(self.plan, Mixture) else "none",
            **self._kinds(),
        }

    def _place(self, sample: SampleSpec) -> tuple[int, int]:
        # FER conversations count as equally long, and the stable sort keeps their order.
        length = 0 if sample.kind == "fer" else self.plan.lengths.get(sample.row, 0)
        return KINDS.index(sample.kind), length

    def _kinds(self) -> dict[str, str]:
        """Return the shares of a mixture; empty for FER and CoT alone, because then the epoch length implies them."""
        shares = self.plan.shares if isinstance(self.plan, Mixture) else {}
        return {} if shares.keys() <= {"fer", "cot"} else {"mixture": str(shares)}

    def __iter__(self) -> Iterator[list[SampleSpec]]:
        """Yield this rank's micro-batches."""
        start, self.start = self.start, 0
        samples = self.plan.epoch(self.current_epoch)
        for number in range(start, len(self)):
            window, step = divmod(number, self.accumulation)
            batch = samples[window * self.batch_size : (window + 1) * self.batch_size]
            batch.sort(key=self._place)
            first = (step * self.world_size + self.rank) * self.micro_batch_size
            yield batch[first : first + self.micro_batch_size]


def accumulation(batch_size: int, micro_batch_size: int, world_size: int) -> int:
    """Return the number of micro-batches per rank in one global batch.

    Raises:
        ConfigError: If `batch_size` is not a multiple of `micro_batch_size` times `world_size`, or a size is below 1.
    """
    if batch_size < 1 or micro_batch_size < 1 or batch_size % (micro_batch_size * world_size):
        devices = f" x {world_size} devices" if world_size > 1 else ""
        raise ConfigError(
            f"`data.batch_size` {batch_size} is not a multiple of `data.micro_batch_size` {micro_batch_size}{devices}",
            remedy=f"Use a batch size that is a multiple of {max(micro_batch_size, 1) * world_size}, or another "
            "micro-batch size.",
        )
    return batch_size // (micro_batch_size * world_size)


def balanced_counts(sizes: Mapping[str, int], total: int, class_balance: ClassBalance) -> dict[str, int]:
    """Divide `total` samples among classes according to `class_balance`, given each class's number of rows.

    The largest remainder method rounds the counts, so that they add up to `total`.
    """
    names = sorted(sizes)
    weights = np.array([sizes[name] for name in names], dtype=float) ** _BALANCE_POWERS[class_balance]
    exact = weights / max(weights.sum(), 1) * total
    counts = np.floor(exact).astype(int)
    most_missing = np.argsort(counts - exact, kind="stable")
    counts[most_missing[: total - counts.sum()]] += 1
    return dict(zip(names, counts.tolist(), strict=True))


def mixture_shares(fer_share: float, mixture: Mapping[str, float] | None = None) -> dict[Kind, float]:
    """Return the share of each kind of conversation.

    Args:
        fer_share: Share of FER conversations; the others are CoT. Ignored if `mixture` is given.
        mixture: Weights by kind.

    Returns:
        Shares that add up to 1.

    Raises:
        ConfigError: If a share or weight is out of range, or a kind is unknown.
    """
    if mixture is None:
        if not 0 <= fer_share <= 1:
            raise ConfigError(f"`data.fer_share` is {fer_share}", remedy="Use 0 to 1; the paper's value is 0.75.")
        return {"fer": fer_share, "cot": 1 - fer_share}
    total = sum(mixture.values())
    if unknown := sorted(set(mixture) - set(MIXED_KINDS)):
        raise ConfigError(f"`data.mixture` names {unknown[0]!r}", remedy=f"Use {', '.join(MIXED_KINDS)}.")
    if not 0 < total < float("inf") or min(mixture.values()) < 0:
        raise ConfigError(f"`data.mixture` is {dict(mixture)}", remedy="Use weights of 0 or more, and one above 0.")
    return {kind: mixture[kind] / total for kind in MIXED_KINDS if kind in mixture}


def _missing_rows(kind: Kind, shares: Mapping[Kind, float]) -> ConfigError:
    if kind == "fer":
        return ConfigError("no training row has an expression", remedy="Check the column `expression` of the data.")
    if kind == "cot" and shares.keys() <= {"fer", "cot"}:
        return ConfigError(
            f"`data.fer_share` {shares.get('fer', 0):g} needs chains of thought, and no training row has one",
            remedy="Set `data.fer_share` to 1, or provide action units, so that chains of thought can be written from "
            "them by rules.",
        )
    return ConfigError(
        f"`data.mixture` contains {kind}, and no training row allows such a conversation",
        remedy="Remove the kind, or provide action units and expressions (or texts of `explllm fea build`).",
    )


def _repeat(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Choose `count` rows, with frequencies that differ by at most one and a new permutation for each full pass."""
    rounds = -(-count // len(rows)) if len(rows) else 0
    return np.concatenate([rng.permutation(rows) for _ in range(rounds)])[:count] if count else rows[:0]
