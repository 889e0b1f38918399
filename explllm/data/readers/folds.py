"""Folds of people: each person is in one part, and each part is the test set of one fold."""

from collections.abc import Iterable, Mapping

import numpy as np

from explllm.core.errors import ConfigError, InputError


def subject_parts(people: Iterable[str], count: int, seed: int) -> dict[str, int]:
    """Divide people at random into `count` parts of nearly equal size; return each person's part, from 1.

    Raises:
        ConfigError: If there are fewer than 2 parts, or fewer people than parts.
    """
    names = sorted(set(people))
    if not 2 <= count <= len(names):
        raise ConfigError(f"{count} folds of {len(names)} people", remedy=f"Use 2 to {max(len(names), 2)} folds.")
    order = np.random.default_rng(seed).permutation(len(names))
    return {names[name]: position % count + 1 for position, name in enumerate(order)}


def named_parts(*parts: str) -> dict[str, int]:
    """Return each person's part, from 1, given the names of each part, separated by spaces."""
    return {name: part for part, names in enumerate(parts, 1) for name in names.split()}


def split_by_fold(person: str, parts: Mapping[str, int], fold: int | None) -> str:
    """Return the split of a person: ``test`` if their part is `fold`, otherwise ``train``.

    Raises:
        ConfigError: If there is no such part.
        InputError: If the person is in no part.
    """
    if fold is None:
        return "train"
    if fold not in parts.values():
        raise ConfigError(f"fold {fold}", remedy=f"Use 1 to {max(parts.values())}.")
    if person not in parts:
        raise InputError(f"{person!r} is in no fold", remedy=f"Names look like {next(iter(parts))}.")
    return "test" if parts[person] == fold else "train"
