"""Folds of people: each person is in one part, and each part is the test set of one fold."""

from collections.abc import Iterable, Mapping

import numpy as np

from explllm.core.errors import ConfigError, InputError

VAL_FRACTION = 0.1
"""Default share of the training people to hold out for validation; our choice."""


def subject_parts(people: Iterable[str], count: int, seed: int) -> dict[str, int]:
    """Divide people at random into `count` parts of nearly equal size; return each person's part, from 1.

    Raises:
        ConfigError: If there are fewer than 2 parts, or fewer people than parts.
    """
    names = sorted(set(people))
    if not 2 <= count <= len(names):
        raise ConfigError(f"{count} folds for {len(names)} people", remedy=f"Use 2 to {max(len(names), 2)} folds.")
    order = np.random.default_rng(seed).permutation(len(names))
    return {names[name]: position % count + 1 for position, name in enumerate(order)}


def named_parts(*parts: str) -> dict[str, int]:
    """Return each person's part, from 1; each argument lists the people in one part, separated by spaces."""
    return {name: part for part, names in enumerate(parts, 1) for name in names.split()}


def fold_splits(parts: Mapping[str, int], fold: int | None, val_fraction: float, seed: int = 0) -> dict[str, str]:
    """Return the split of each person.

    The people in part `fold` are ``test``. A random share of the others is ``val``: at least one person, unless the
    share is 0 or there is only one other person. Nobody is in two splits.

    Args:
        parts: Part of each person, from 1.
        fold: The part to test on; if None, everyone is ``train``.
        val_fraction: Share of the people in the other parts to hold out for validation; 0 holds out nobody.
        seed: Random seed.

    Raises:
        ConfigError: If there is no such part, or the share is out of range.
    """
    if fold is None:
        return dict.fromkeys(parts, "train")
    if fold not in parts.values():
        raise ConfigError(f"there is no fold {fold}", remedy=f"Use 1 to {max(parts.values())}.")
    if not 0 <= val_fraction < 1:
        raise ConfigError(f"--val_fraction is {val_fraction}", remedy="Use a share of at least 0 and below 1.")
    splits = {name: "test" if part == fold else "train" for name, part in parts.items()}
    others = sorted(name for name, split in splits.items() if split == "train")
    count = max(round(len(others) * val_fraction), 1) if val_fraction and len(others) > 1 else 0
    return splits | dict.fromkeys(np.random.default_rng(seed).permutation(others)[:count].tolist(), "val")


def split_of(person: str, splits: Mapping[str, str]) -> str:
    """Return the split of a person.

    Raises:
        InputError: If no part contains the person.
    """
    if person not in splits:
        raise InputError(f"{person!r} is in no fold", remedy=f"Names look like {next(iter(splits))}.")
    return splits[person]
