"""Errors say what was found, where, and what to do, on one line."""

import pickle
from pathlib import Path

import pytest

from explllm.core import errors

KINDS = [
    errors.MissingPathError,
    errors.ManifestError,
    errors.UnknownExpressionError,
    errors.ImageError,
    errors.CheckpointError,
    errors.ConfigError,
    errors.ChainOfThoughtError,
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_an_input_error_and_a_value_error(kind):
    assert issubclass(kind, errors.InputError)
    assert issubclass(kind, ValueError)


def test_message_holds_all_three_parts_on_one_line():
    error = errors.InputError("two\nlines", where=Path("faces") / "a.jpg", remedy="Mend  it.")
    assert str(error) == f"two lines [{Path('faces') / 'a.jpg'}]. Mend it."
    assert (error.found, error.where, error.remedy) == ("two lines", str(Path("faces") / "a.jpg"), "Mend it.")


def test_place_is_left_out_when_there_is_none():
    assert str(errors.ConfigError("a bad value", remedy="Use 1.")) == "a bad value. Use 1."


@pytest.mark.parametrize("kind", KINDS)
def test_survives_the_way_between_processes(kind):
    error = kind("something", where="a/b", remedy="Do it.")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error)
    assert copy.where == "a/b"
