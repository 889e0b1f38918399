"""Which faces and answers are scored, also where model and data know different expressions."""

import numpy as np
import pandas as pd
import pytest

from explllm.core.errors import ConfigError, ManifestError
from explllm.core.expressions import LABEL_SETS, Expression
from explllm.metrics.answers import Answers
from explllm.metrics.recognition import NO_LABEL

EIGHT, SEVEN = LABEL_SETS["affectnet8"], LABEL_SETS["affectnet7"]
FEAR, ANGER, CONTEMPT = Expression.FEAR, Expression.ANGER, Expression.CONTEMPT


def table(*rows, labels=(FEAR, ANGER, CONTEMPT)):
    """Rows of true expression and probabilities; the likeliest is predicted."""
    return pd.DataFrame(
        [
            {
                "expression": str(truth),
                "predicted": str(labels[int(np.argmax(shares))]),
                **{f"p_{label}": share for label, share in zip(labels, shares, strict=True)},
            }
            for truth, *shares in rows
        ]
    )


def test_by_default_every_class_of_the_model_may_be_the_answer():
    answers = Answers.from_table(table((FEAR, 0.3, 0.2, 0.5), (ANGER, 0.1, 0.8, 0.1)))
    assert answers.labels == (FEAR, ANGER, CONTEMPT) and answers.dropped == ()
    assert answers.names == ["Contempt", "Anger"] and answers.correct.tolist() == [False, True]
    assert answers.truth_probability == pytest.approx([0.3, 0.8])


def test_contempt_is_shared_out_where_the_data_lacks_it():
    answers = Answers.from_table(table((FEAR, 0.3, 0.2, 0.5), (ANGER, 0.1, 0.8, 0.1)), answer_labels=SEVEN)
    assert answers.labels == (FEAR, ANGER) and answers.dropped == (CONTEMPT,)
    assert answers.names == ["Fear", "Anger"] and answers.correct.all()
    assert answers.probabilities == pytest.approx(np.array([[0.6, 0.4], [1 / 9, 8 / 9]]))


def test_an_answer_that_is_no_label_stays_none_where_a_class_is_dropped():
    faces = table((FEAR, 0.6, 0.2, 0.2), (FEAR, 0.6, 0.2, 0.2), (FEAR, 0.6, 0.2, 0.2))
    faces["predicted"] = ["I cannot tell", "Contempt", None]
    answers = Answers.from_table(faces, answer_labels=SEVEN)
    assert answers.predictions.tolist() == [NO_LABEL, 0, NO_LABEL] and answers.correct.tolist() == [False, True, False]


def test_probabilities_that_add_up_stay_as_they_are():
    """Dividing them by a sum of nearly 1 would tell equal ones apart."""
    shares = np.random.default_rng(0).multinomial(10, [0.2, 0.3, 0.5], 200) / 10
    answers = Answers.from_table(table(*((FEAR, *row) for row in shares)))
    assert (answers.probabilities == shares).all()


def test_a_model_sure_of_contempt_alone_has_no_preference_among_the_others():
    answers = Answers.from_table(table((FEAR, 0.0, 0.0, 1.0)), answer_labels=SEVEN)
    assert answers.probabilities.tolist() == [[0.5, 0.5]]


def test_faces_that_the_model_has_no_word_for():
    faces = table((FEAR, 0.9, 0.1), (CONTEMPT, 0.5, 0.5), (CONTEMPT, 0.2, 0.8), labels=(FEAR, ANGER))
    with pytest.raises(ConfigError, match=r"the data contain Contempt, which is not a possible answer \(Fear, Anger\)"):
        Answers.from_table(faces)
    answers = Answers.from_table(faces, unknown_labels="leave_out")
    assert answers.left_out == {"Contempt": 2}
    assert answers.rows == [0] and answers.targets.tolist() == [0]


def test_orders_of_labels_do_not_matter():
    """A model in RAF-DB's order, on a table in another order of columns."""
    labels = tuple(LABEL_SETS["rafdb"])
    shares = np.random.default_rng(0).dirichlet(np.ones(7), size=5)
    one = table(*((labels[place], *row) for place, row in enumerate(shares)), labels=labels)
    turned = one[sorted(one.columns)]
    first, second = (Answers.from_table(frame, labels) for frame in (one, turned))
    assert first.probabilities == pytest.approx(second.probabilities)
    assert (first.predictions == second.predictions).all() and (first.predictions == shares.argmax(1)).all()
    expw = Answers.from_table(one, labels, LABEL_SETS["expw"])
    assert expw.dropped == () and expw.names == first.names


def test_answers_in_words():
    """A table of generated texts has no probabilities; what names no expression counts and is wrong."""
    faces = pd.DataFrame(
        {
            "expression": ["Fear", "happy", "Anger", "Fear", "Anger"],
            "predicted": ["scared", "Happiness", "I cannot tell.", None, "contempt"],
        }
    )
    with pytest.raises(ConfigError, match="the classes of the model are unknown"):
        Answers.from_table(faces)
    answers = Answers.from_table(faces, tuple(SEVEN))
    assert answers.names == ["Fear", "Happiness", None, None, None]
    assert (answers.predictions == NO_LABEL).sum() == 3
    assert np.isnan(answers.probabilities).all() and np.isnan(answers.truth_probability).all()


def test_rows_that_could_not_be_read_do_not_count():
    faces = table((FEAR, 0.9, 0.1), (ANGER, 0.4, 0.6), labels=(FEAR, ANGER))
    faces["unreadable"] = [None, "torn.png: unreadable image"]
    faces.loc[1, ["predicted", "p_Fear", "p_Anger"]] = None
    assert Answers.from_table(faces).rows == [0]


def test_errors():
    with pytest.raises(ManifestError, match="no column predicted"):
        Answers.from_table(pd.DataFrame({"expression": ["Fear"]}))
    with pytest.raises(ManifestError, match="1 of 2 faces have no expression"):
        Answers.from_table(pd.DataFrame({"expression": ["Fear", None], "predicted": ["Fear", "Fear"]}), [FEAR])
    with pytest.raises(ConfigError, match="the model's labels Contempt have nothing in common with rafdb"):
        Answers.from_table(table((CONTEMPT, 1.0), labels=(CONTEMPT,)), answer_labels=LABEL_SETS["rafdb"])


@pytest.mark.parametrize("cell", [-0.1, np.inf, -np.inf, "n/a", "inf"])
def test_cells_that_are_no_probabilities(cell):
    faces = table((FEAR, 0.3, 0.2, 0.5), (ANGER, 0.1, 0.8, 0.1)).astype({"p_Anger": object})
    faces.loc[1, "p_Anger"] = cell
    with pytest.raises(ManifestError, match=rf"^{cell} is not a probability \[column p_Anger\]"):
        Answers.from_table(faces)
    for missing in (None, np.nan, pd.NA):
        faces.loc[1, "p_Anger"] = missing
        assert np.isnan(Answers.from_table(faces).probabilities).any(axis=1).tolist() == [False, True]
