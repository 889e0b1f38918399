"""FEABench: figures equal scikit-learn's, and answers of no use get their honest zero."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score, recall_score

from explllm.core.action_units import BP4D_12, NAMES
from explllm.core.expressions import Expression
from explllm.core.facs import facs_set
from explllm.core.manifest import Manifest
from explllm.explanations.instructions import write_instructions
from explllm.explanations.rule_writer import RuleWriter
from explllm.metrics.fea_bench import (
    UnitTruth,
    bench_metrics,
    choose_thresholds,
    claimed_intensities,
    unit_truth,
    units_from_texts,
)

FACES = 40
LABELS = list(Expression)[:7]


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Faces with expressions, intensities and chains of thought; some units unmeasured."""
    random, writer = np.random.default_rng(3), RuleWriter()
    rows = []
    for number in range(FACES):
        units = (random.uniform(size=24) * (random.uniform(size=24) < 0.3)).round(2).tolist()
        label = LABELS[number % 7]
        cot = writer.write(units, label).text
        rows.append({"image": f"{number}.png", "expression": str(label), "action_units": units, "cot": cot})
    frame = pd.DataFrame(rows)
    frame["action_units_missing"] = "Nose Wrinkle"
    return Manifest(frame, tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def answers(faces):
    """The answers of a model that is often right: it describes every third face by its neighbor's units."""
    random, writer = np.random.default_rng(4), RuleWriter()
    rows = []
    for number, units in enumerate(faces.intensities()):
        seen = list(faces.intensities())[(number + 1) % FACES] if number % 3 == 0 else units
        label = random.choice(LABELS) if number % 4 == 0 else LABELS[number % 7]
        texts = write_instructions(writer, seen, Expression(label))
        noise = random.normal(0, 0.2, 24)
        noisy = {name: float(np.clip((seen[place] or 0) + noise[place], 0, 1)) for place, name in enumerate(NAMES)}
        rows.append(
            {"predicted": str(label), "units_text": texts["units"], "p_active": noisy, "cot": texts["reasoning"]}
        )
    return pd.DataFrame(rows)


def test_equals_scikit_learn(faces, answers):
    metrics = bench_metrics(faces, answers, LABELS, (faces, answers))
    truth, said = faces.frame["expression"], answers["predicted"]
    assert metrics["expression"]["accuracy"] == pytest.approx(accuracy_score(truth, said))
    assert metrics["expression"]["macro_recall"] == pytest.approx(recall_score(truth, said, average="macro"))
    units = unit_truth(faces)
    assert "Nose Wrinkle" not in units.names and len(units.names) == 23
    read = units_from_texts(answers["units_text"], units)
    expected = [f1_score(units.active[:, place], read[:, place]) for place in range(23)]
    assert [*metrics["units_text"]["f1"].values()] == pytest.approx(expected)
    assert metrics["units_text"]["mean_f1"] == pytest.approx(np.mean(expected)) and np.mean(expected) > 0.5
    thresholds = metrics["units_likelihood"]["thresholds"]
    assert metrics["units_likelihood"]["calibrated"] == list(units.names)
    for place, name in enumerate(units.names):
        scores = np.array([row[name] for row in answers["p_active"]])
        own = f1_score(units.active[:, place], scores >= thresholds[name])
        assert metrics["units_likelihood"]["f1"][name] == pytest.approx(own)
        # No other threshold is better on the faces that it was chosen on.
        assert own == pytest.approx(max(f1_score(units.active[:, place], scores >= value) for value in [0.5, *scores]))
    assert 0 < metrics["reasoning"]["parsed"] <= 1 and 0 < metrics["reasoning"]["exp_cot_score"] < 1
    assert metrics["reasoning"]["grounding_f1"] > 0.5


def test_facs_labels_equal_scikit_learn(faces):
    random = np.random.default_rng(5)
    frame = faces.frame[["image"]].copy()
    frame["facs"] = random.integers(0, 2, (FACES, 12)).tolist()
    frame["facs_set"] = "bp4d12"
    manifest = Manifest(frame, faces.root)
    shown = random.uniform(size=(FACES, 12)) < 0.5
    # AU6 and AU15 have no counterpart in the lexicon: their numbers count. The others are read from words.
    words = {12: "the lip corners are strongly pulled up", 4: "the brows are markedly lowered", 6: "AU6 is active"}
    words |= {15: "AU15 is clearly present", 17: "the chin is raised", 9: "the nose is wrinkled"}
    texts = [
        ". ".join(words[number] for place, number in enumerate(BP4D_12) if number in words and row[place]) + "."
        for row in shown
    ]
    texts[0] += " AU14 is not active."
    metrics = bench_metrics(manifest, pd.DataFrame({"units_text": texts}), LABELS)["units_text"]
    truth = np.array(frame["facs"].tolist())
    for place, number in enumerate(BP4D_12):
        [score] = [value for name, value in metrics["f1"].items() if name.startswith(f"AU{number} ")]
        expected = f1_score(truth[:, place], shown[:, place]) if number in words else 0
        assert score == pytest.approx(expected), number


@pytest.mark.parametrize(
    ("text", "active"),
    [
        ("AU1, AU2, AU4, AU6, AU12, AU25, AU26", {1, 2, 4, 6, 12}),
        ("Active: AU6 (0.7), AU7 (0.5), AU12 (0.8).", {6, 7, 12}),
        ("The lip corners are pulled up (AU12), with AU6. AU15 is not active.", {6, 12}),
        # Words decide how strong a unit is, and a denied number is inactive even if its name looks like a claim.
        ("Active action units: slight chin raise (AU17), strong upper lip raise (AU10).", {10}),
        ("AU4 (Brow Lowerer): 1, AU12 (Lip Corner Puller): 0", {4}),
    ],
)
def test_facs_numbers_and_words(text, active):
    units = facs_set("bp4d12")
    truth = UnitTruth(tuple(unit.label for unit in units), units, np.ones((1, 12)))
    [detected] = units_from_texts([text], truth)
    assert {unit.number for unit, found in zip(units, detected, strict=True) if found} == active


def test_a_list_of_intensities_in_words_and_numbers():
    found = claimed_intensities(
        "- Jaw Drop: slight\n- Nose Wrinkle: absent\n- Lip Pucker: 0\n- Chin Raise (strong, 0.7)"
    )
    claimed = {name: value for name, value in zip(NAMES, found, strict=True) if value}
    assert claimed == pytest.approx({"Jaw Drop": 0.15, "Chin Raise": 0.75})


@pytest.mark.parametrize(
    "text", ["", None, "xq zzrt 8172 ]]}", "Der Kiefer hängt herunter und die Person wirkt froh.", "😀" * 300, 3.5]
)
def test_useless_answers_get_zero(faces, text):
    table = pd.DataFrame({"predicted": [text] * FACES, "units_text": [text] * FACES, "cot": [text] * FACES})
    table["p_active"] = [text] * FACES
    metrics = bench_metrics(faces, table, LABELS, (faces, table))
    assert metrics["expression"]["accuracy"] == metrics["expression"]["macro_recall"] == 0
    assert metrics["expression"]["count"] == FACES
    assert metrics["units_text"]["mean_f1"] == metrics["units_likelihood"]["mean_f1"] == 0
    assert metrics["reasoning"]["parsed"] == 0


def test_units_without_active_validation_faces_keep_the_default_threshold(faces, answers):
    units = unit_truth(faces)
    assert np.isnan(choose_thresholds(np.full(units.active.shape, 0.5), replace(units, active=0 * units.active))).all()
    # The validation faces lack another unit than the test faces, and no face shows one of theirs.
    frame = faces.frame.assign(action_units_missing="Jaw Drop")
    frame["action_units"] = [[*row[:11], 0.0, *row[12:]] for row in frame["action_units"]]
    metrics = bench_metrics(faces, answers, LABELS, (Manifest(frame, faces.root), answers))["units_likelihood"]
    assert set(units.names) - set(metrics["calibrated"]) == {"Jaw Drop", NAMES[11]}
    assert metrics["thresholds"]["Jaw Drop"] == metrics["thresholds"][NAMES[11]] == 0.5
    own = bench_metrics(faces, answers, LABELS, (faces, answers))["units_likelihood"]["thresholds"]
    assert all(metrics["thresholds"][name] == own[name] for name in metrics["calibrated"])


def test_all_models_are_scored_on_the_same_faces(tmp_path):
    faces = Manifest(
        pd.DataFrame({"image": list("abc"), "expression": ["Happiness", "Happiness", "Contempt"]}), tmp_path
    )
    table = pd.DataFrame({"predicted": ["Happiness"] * 3})
    seven, eight = (bench_metrics(faces, table, labels)["expression"] for labels in (LABELS, list(Expression)))
    assert seven["not_a_label"] == {"Contempt": 1} and eight["not_a_label"] == {}
    for metrics in (seven, eight):
        assert (metrics["count"], metrics["left_out"]) == (3, {})
        assert (metrics["accuracy"], metrics["macro_recall"]) == (pytest.approx(2 / 3), 0.5)
    only = Manifest(faces.frame[2:].reset_index(drop=True), tmp_path)
    assert bench_metrics(only, table[:1], LABELS)["expression"]["accuracy"] == 0
    nothing = Manifest(faces.frame.assign(expression=None), tmp_path)
    assert bench_metrics(nothing, table, LABELS) == {}


def test_unreadable_probabilities_are_missing(faces, answers, caplog):
    table = answers.copy()
    cells = ["AU6: yes", ["x"], {"Jaw Drop": "high"}, {"Jaw Drop": 90}, {"Jaw Drop": None}, None, float("nan"), ""]
    table["p_active"] = [*cells, *table["p_active"][len(cells) :]]
    metrics = bench_metrics(faces, table, LABELS)["units_likelihood"]
    assert metrics["unreadable"] == 4 and "4 cells or values of p_active" in caplog.text
    empty = bench_metrics(
        faces, answers.assign(p_active=[None] * len(cells) + [*table["p_active"][len(cells) :]]), LABELS
    )
    assert metrics["f1"] == empty["units_likelihood"]["f1"]
