"""Expressions, their synonyms, and each data set's index order."""

import csv
import json

import pytest

from explllm.core.errors import ConfigError, UnknownExpressionError
from explllm.core.expressions import LABEL_SETS, SYNONYMS, Expression, LabelSet


def test_order_is_that_of_affectnet():
    assert [str(expression) for expression in Expression] == [
        "Neutral",
        "Happiness",
        "Sadness",
        "Surprise",
        "Fear",
        "Disgust",
        "Anger",
        "Contempt",
    ]
    assert tuple(LABEL_SETS["affectnet8"]) == tuple(Expression)


@pytest.mark.parametrize(
    ("word", "expression"),
    [
        ("Happiness", Expression.HAPPINESS),
        ("HAPPY", Expression.HAPPINESS),
        (" joyful.", Expression.HAPPINESS),
        ("sorrow", Expression.SADNESS),
        ("angry", Expression.ANGER),
        ("scared", Expression.FEAR),
        ("afraid", Expression.FEAR),
        ("surprised", Expression.SURPRISE),
        ("disgusted", Expression.DISGUST),
        ("neutral", Expression.NEUTRAL),
        ("Contempt", Expression.CONTEMPT),
    ],
)
def test_parse_takes_any_case_and_synonyms(word, expression):
    assert Expression.parse(word) is expression


@pytest.mark.parametrize("word", ["", "hungry", "4", None, 3])
def test_parse_refuses_other_words_by_name(word):
    with pytest.raises(UnknownExpressionError, match="unknown expression") as caught:
        Expression.parse(word)
    assert repr(word) in str(caught.value)


def test_every_expression_is_its_own_synonym_and_all_are_lower_case():
    assert {SYNONYMS[expression.lower()] for expression in Expression} == set(Expression)
    assert all(word == word.lower() for word in SYNONYMS)


# The numbers are those of each data set's own documentation.
@pytest.mark.parametrize(
    ("name", "index", "expression"),
    [
        ("rafdb", 1, Expression.SURPRISE),
        ("rafdb", 2, Expression.FEAR),
        ("rafdb", 3, Expression.DISGUST),
        ("rafdb", 4, Expression.HAPPINESS),
        ("rafdb", 5, Expression.SADNESS),
        ("rafdb", 6, Expression.ANGER),
        ("rafdb", 7, Expression.NEUTRAL),
        ("affectnet7", 6, Expression.ANGER),
        ("affectnet8", 7, Expression.CONTEMPT),
        ("fer2013", 0, Expression.ANGER),
        ("fer2013", 6, Expression.NEUTRAL),
        ("expw", 3, Expression.HAPPINESS),
    ],
)
def test_index_of_each_data_set(name, index, expression):
    labels = LabelSet.by_name(name)
    assert labels.expression(index) is expression
    assert labels.index(expression) == index
    assert labels.parse(index) is labels.parse(f" {index} ") is labels.parse(expression.lower()) is expression


@pytest.mark.parametrize("labels", LABEL_SETS.values(), ids=LABEL_SETS.keys())
def test_index_and_expression_are_inverse(labels):
    assert [labels.expression(labels.index(expression)) for expression in labels] == list(labels)
    assert len(labels) == len(set(labels))


@pytest.mark.parametrize("value", [0, 8, "0", "-1", "8", "contempt", "4.0", True, None, 1.5, "²"])
def test_label_set_refuses_what_is_not_among_its_classes(value):
    with pytest.raises(UnknownExpressionError) as caught:
        LABEL_SETS["rafdb"].parse(value)
    message = str(caught.value)
    assert str(value) in message
    assert "rafdb" in message
    assert "4 Happiness" in message


def test_label_set_names_a_foreign_expression():
    with pytest.raises(UnknownExpressionError, match="Contempt is not in the label set affectnet7"):
        LABEL_SETS["affectnet7"].index(Expression.CONTEMPT)
    assert Expression.CONTEMPT not in LABEL_SETS["affectnet7"]


def test_named_forgives_spelling_and_lists_the_names():
    assert LabelSet.by_name("RAF-DB") is LABEL_SETS["rafdb"]
    with pytest.raises(ConfigError, match="affectnet8"):
        LabelSet.by_name("imagenet")


def test_numpy_integers_are_numbers():
    numpy = pytest.importorskip("numpy")
    assert LABEL_SETS["fer2013"].parse(numpy.int64(3)) is Expression.HAPPINESS


def test_words_of_real_data_sets_are_understood(reference_data):
    faces = {row["file"].split("/")[1] for row in csv.DictReader((reference_data / "faces/action_units.csv").open())}
    assert len({LABEL_SETS["fer2013"].parse(word) for word in faces}) == 7
    records = json.loads((reference_data / "rafdb/rafdb_valid.json").read_text())
    assert {LABEL_SETS["rafdb"].parse(record["emo"]) for record in records} == set(LABEL_SETS["rafdb"])
