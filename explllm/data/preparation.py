"""Complete a table for training: hold out splits, write missing chains of thought, derive captions."""

from typing import Literal

import numpy as np
import pandas as pd

from explllm.core.errors import ConfigError
from explllm.core.expressions import Expression
from explllm.core.manifest import Manifest
from explllm.explanations.chain_of_thought import ChainOfThought
from explllm.explanations.rule_writer import RuleWriter

Split = Literal["train", "val", "test"]


def prepare(
    manifest: Manifest, *, val_fraction: float, write_cot: bool, shuffle_labels: bool, captions: bool, seed: int
) -> Manifest:
    """Complete a table for training.

    Rows without a split become ``train``.

    Args:
        manifest: The table as read; it is not changed.
        val_fraction: Share of ``train`` to hold out as ``val`` if the table has no ``val``.
        write_cot: Write missing chains of thought by rules, for rows with action units and a label.
        shuffle_labels: Shuffle the labels of ``train`` and remove its chains of thought, which name the true labels.
        captions: Use key observations as captions if the table has no column ``caption``.
        seed: Random seed.

    Returns:
        The new table, indexed from 0.
    """
    frame = manifest.frame.reset_index(drop=True).copy()
    for column in ("split", "expression", "cot", "cot_source"):
        if column not in frame:
            frame[column] = pd.Series([None] * len(frame), dtype=object)
        frame[column] = frame[column].astype(object)
    frame["split"] = frame["split"].where(frame["split"].notna(), "train")
    if val_fraction and not (frame["split"] == "val").any():
        hold_out_split(frame, "val", val_fraction, seed)
    if shuffle_labels:
        train = frame.index[frame["split"] == "train"]
        frame.loc[train, "expression"] = np.random.default_rng(seed).permutation(frame.loc[train, "expression"])
        # Remove the chains of thought, because they name the true label.
        frame.loc[train, ["cot", "cot_source"]] = None
    if write_cot and "action_units" in frame:
        writer = RuleWriter()
        missing = frame.index[frame["cot"].isna() & frame["expression"].notna() & frame["action_units"].notna()]
        for row in missing:
            units = manifest.intensities_at(int(row)) or []
            expression = Expression(str(frame.at[row, "expression"]))
            frame.at[row, "cot"] = writer.write(units, expression, seed=seed + int(row)).text
        frame.loc[missing, "cot_source"] = writer.name
    if captions and "caption" not in frame:
        frame["caption"] = [
            None if pd.isna(cot) else ChainOfThought.parse(cot).key_observations or None for cot in frame["cot"]
        ]
    return Manifest(frame, manifest.root, manifest.path)


def hold_out_split(frame: pd.DataFrame, split: Split, fraction: float, seed: int) -> None:
    """Move a share of each class's training rows to another split, in place.

    If all training rows have an ``identity``, a share of the identities is moved instead, each with all of its training
    rows, so that no person is in both splits.

    Args:
        frame: The table.
        split: The split to move rows to.
        fraction: Share of the training rows or identities, in [0, 1).
        seed: Random seed.

    Raises:
        ConfigError: If the fraction is out of range.
    """
    if not 0 <= fraction < 1:
        raise ConfigError(f"`data.{split}_fraction` is {fraction}", remedy="Use a share of at least 0 and below 1.")
    rng = np.random.default_rng(seed)
    train = frame[frame["split"] == "train"]
    if "identity" in frame and train["identity"].notna().all():
        people = rng.permutation(np.sort(train["identity"].astype(str).unique()))
        chosen = set(people[: round(len(people) * fraction)])
        frame.loc[train.index[train["identity"].astype(str).isin(chosen)], "split"] = split
        return
    for _, rows in train.groupby("expression", dropna=False, sort=True):
        chosen_rows = rng.permutation(rows.index.to_numpy())[: round(len(rows) * fraction)]
        frame.loc[chosen_rows, "split"] = split
