import re
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from explllm.core.action_units import NAMES
from explllm.core.errors import ConfigError
from explllm.core.expressions import Expression
from explllm.core.manifest import Manifest
from explllm.data.preparation import hold_out_split, prepare
from explllm.explanations.chain_of_thought import ChainOfThought

PLAIN = {"val_fraction": 0.0, "write_cot": True, "shuffle_labels": False, "captions": False, "seed": 0}


def table(count=40, **columns):
    labels = [list(Expression)[number % 4].value for number in range(count)]
    frame = pd.DataFrame({"image": [f"{number}.png" for number in range(count)], "expression": labels})
    for name, values in columns.items():
        frame[name] = pd.Series(values, dtype=object)
    return Manifest(frame, "root")


def units(count=40):
    return np.random.default_rng(0).uniform(0, 1, (count, 24)).round(3).tolist()


def test_missing_texts_are_written_from_action_units_and_marked():
    known = units()
    known[5] = None
    given = ["**Conclusion:** It is fear."] + [None] * 39
    manifest = table(action_units=known, cot=given, cot_source=["gpt-4o"] + [None] * 39)
    frame = prepare(manifest, **PLAIN).frame
    assert frame.at[0, "cot"] == given[0] and frame.at[0, "cot_source"] == "gpt-4o"
    assert frame.at[5, "cot"] is None and frame.at[5, "cot_source"] is None
    for row in (1, 2, 39):
        assert ChainOfThought.parse(frame.at[row, "cot"]).check(Expression(frame.at[row, "expression"])) == []
        assert frame.at[row, "cot_source"] == "offline"
    assert prepare(manifest, **PLAIN).frame.equals(frame)
    assert "offline" not in manifest.frame["cot_source"].tolist()  # what was read is not changed
    assert prepare(manifest, **{**PLAIN, "write_cot": False}).frame["cot"].notna().sum() == 1


def test_captions_are_key_observations():
    frame = prepare(table(action_units=units()), **{**PLAIN, "captions": True}).frame
    for row in (0, 17):
        assert frame.at[row, "caption"] == ChainOfThought.parse(frame.at[row, "cot"]).key_observations
    mine = table(action_units=units(), caption=["mine"] * 40)
    assert set(prepare(mine, **{**PLAIN, "captions": True}).frame["caption"]) == {"mine"}


def test_shuffled_labels_keep_their_counts_and_lose_their_texts():
    manifest = table(split=["train"] * 32 + ["test"] * 8, cot=["a text"] * 40)
    frame = prepare(manifest, **{**PLAIN, "shuffle_labels": True}).frame
    assert Counter(frame["expression"][:32]) == Counter(manifest.frame["expression"][:32])
    assert (frame["expression"][:32] != manifest.frame["expression"][:32]).any()
    assert frame["expression"][32:].equals(manifest.frame["expression"][32:])
    assert frame["cot"][:32].isna().all() and frame["cot"][32:].notna().all()


def test_rows_without_a_split_are_training_rows():
    assert set(prepare(table(), **PLAIN).frame["split"]) == {"train"}
    frame = prepare(table(split=[None] * 30 + ["test"] * 10), **PLAIN).frame
    assert Counter(frame["split"]) == {"train": 30, "test": 10}


def test_validation_is_held_out_only_if_missing():
    held = {**PLAIN, "val_fraction": 0.2}
    frame = prepare(table(), **held).frame
    assert Counter(frame["split"]) == {"train": 32, "val": 8}
    assert set(Counter(frame.loc[frame["split"] == "val", "expression"]).values()) == {2}
    assert Counter(prepare(table(split=["train"] * 39 + ["val"]), **held).frame["split"])["val"] == 1


def test_people_stay_together():
    frame = table(split=["train"] * 40, identity=[f"person {number // 4}" for number in range(40)]).frame
    hold_out_split(frame, "test", 0.3, seed=1)
    people = {split: set(rows["identity"]) for split, rows in frame.groupby("split")}
    assert len(people["test"]) == 3 and not people["test"] & people["train"]
    other = table(split=["train"] * 40, identity=[f"person {number // 4}" for number in range(40)]).frame
    hold_out_split(other, "test", 0.3, seed=2)
    assert not other.equals(frame)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 2])
def test_errors(fraction):
    with pytest.raises(ConfigError, match="`data.val_fraction` is"):
        hold_out_split(table(split=["train"] * 40).frame, "val", fraction, seed=0)


def test_unmeasured_units_are_not_mentioned():
    """Of 24 units only the jaw was measured: no word about brows, lids or lips, neither written nor trained."""
    jaw = [0.6 if name == "Jaw Drop" else 0.0 for name in NAMES]
    others = ",".join(name for name in NAMES if name != "Jaw Drop")
    known = table(60, action_units=[jaw] * 60, action_units_missing=[others] * 60)
    texts = [ChainOfThought.parse(cot).key_observations for cot in prepare(known, **PLAIN).frame["cot"]]
    assert all("jaw" in text.lower() or "mouth" in text.lower() for text in texts)
    part = re.compile(r"\b(brow|eyebrow|lid|eye|nose|cheek|lip corner|chin)s?\b", re.IGNORECASE)
    assert [text for text in texts if part.search(text)] == []
    # The pattern finds such parts in texts about faces on which they were measured.
    brows = [0.6 if "Brow Raise" in name else value for name, value in zip(NAMES, jaw, strict=True)]
    measured = prepare(table(60, action_units=[brows] * 60), **PLAIN).frame["cot"]
    assert all(part.search(ChainOfThought.parse(cot).key_observations) for cot in measured)
