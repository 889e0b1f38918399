"""Detection and action units in Python, test-time flipping, and the reliability of units."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import ImageOps

from explllm import ActionUnits, FaceDetector
from explllm.core.action_units import NAMES, mirror_action_units
from explllm.core.errors import ConfigError
from explllm.core.expressions import Expression
from explllm.core.manifest import Manifest
from explllm.core.reliability import UnitReliability
from explllm.faces.action_units import estimate_with_flip
from explllm.faces.crop import face_crop
from explllm.faces.estimators import Estimator
from explllm.faces.reliability import unit_reliability

UNMEASURED = ["Jaw Thrust", "Cheeks Puff", "Nose Wrinkle"]


def test_faces_and_action_units_of_a_photograph(photographs, detector_file, landmarker_file):
    content = io.BytesIO()
    photographs["six"].save(content, "PNG")
    faces = FaceDetector(detector_file, threads=1).detect(content.getvalue())
    frame = faces.to_frame()
    assert list(frame.columns) == ["x", "y", "w", "h", "score"] and len(frame) == 6
    assert tuple(frame.loc[0, ["x", "y", "w", "h"]]) == faces[0].box
    boxes = [face.box for face in faces]
    with ActionUnits(landmarker_file) as action_units:
        table = action_units.measure(np.asarray(photographs["six"]), boxes).to_frame()
        expected = action_units.estimator.estimate([face_crop(photographs["six"], boxes[0])])[0]
        assert action_units.measure(content, []).to_frame().shape == (0, 24)
        assert action_units.measure(photographs["coffee"]).to_frame().isna().all(axis=None)
    assert table.shape == (6, 24) and list(table.columns) == list(NAMES)
    assert list(table.columns[table.isna().all()]) == UNMEASURED and table.notna().sum(axis=None) >= 5 * 21
    assert np.allclose(table.loc[0].dropna(), [value for value in expected if value is not None], atol=1e-4)


def test_flipping_averages_a_face_and_its_mirror_image(blendshapes, photographs, landmarker_file):
    image = face_crop(photographs["astronaut"], (175, 70, 93, 93))
    plain, flipped = blendshapes.estimate([image, ImageOps.mirror(image)])
    back = mirror_action_units(flipped)
    [mean] = estimate_with_flip(blendshapes, [image])
    for name, a, b, average in zip(NAMES, plain, back, mean, strict=True):
        assert average is None if name in UNMEASURED else average == pytest.approx((a + b) / 2, abs=1e-4)
    # The mean does not depend on the side that the image shows first.
    [other] = estimate_with_flip(blendshapes, [ImageOps.mirror(image)])
    pairs = zip(mean, mirror_action_units(other), strict=True)
    assert all(a == pytest.approx(b, abs=1e-3) for a, b in pairs if a is not None)
    with ActionUnits(landmarker_file, tta=True) as action_units:
        [measured] = action_units.measure(image)
    assert measured == pytest.approx(mean, abs=1e-3)


def test_a_face_that_is_seen_from_one_side_only_keeps_that_estimate(photographs):
    class OneSided(Estimator):
        name = "one-sided"

        def estimate(self, images):
            return [None if index == 0 else [0.0] * 23 + [index / 4] for index, _ in enumerate(images)]

    faces = [photographs["coffee"]] * 2
    assert [units[23] for units in estimate_with_flip(OneSided(), faces)] == [0.5, 0.5]


def test_the_command_marks_the_source_and_the_unmeasured_units(run, folder, manifest_of, landmarker_file, tmp_path):
    manifest_of(tmp_path / "m.jsonl", [{"image": "astronaut.png"}])
    _, out, _ = run("aus", "m.jsonl", "-o", "flip.jsonl", "--landmarker", landmarker_file, "--root", folder, "--tta")
    row = Manifest.read("flip.jsonl").frame.iloc[0]
    means = {line[:33].strip(): line[33:].strip() for line in out.splitlines() if line.startswith("  ")}
    assert means["Left Lip Corner Pull (AU12)"] == f"{row['action_units'][11]:.3f}"
    assert means["Cheeks Puff (AD34)"] == "not measured"
    assert row["action_units_source"] == "mediapipe-blendshapes+flip"
    assert row["action_units_missing"].split(", ") == UNMEASURED


def test_reliability_of_made_up_units():
    """Unit 1 is exact, 2 is noise, 3 is on the wrong side after a flip, 24 is not measured."""
    random = np.random.default_rng(0)
    labels = ["Happiness", "Sadness"] * 100
    plain = random.random((200, 24))
    plain[:, 8] = [0.9 if label == "Happiness" else 0.1 for label in labels] + random.normal(0, 0.01, 200)
    flipped = np.array([mirror_action_units(list(row)) for row in plain])
    flipped[:, 15] = random.random(200)
    plain[:, 21] = np.where(np.arange(200) % 4 == 0, 0.3, 0)  # in the image alone, or above 0.3 in both
    flipped[:, 21] = 0
    plain[:10, 21] = flipped[:10, 21] = 0.4
    prototypes = {Expression.HAPPINESS: ["Jaw Drop", "Upper Lip Suck", "Chin Raise"]}
    units = [[*row[:23], None] for row in plain.tolist()]
    table = unit_reliability([*units, None], [[*row[:23], None] for row in flipped.tolist()] + [None], [*labels, None],
                             prototypes)  # fmt: skip
    assert table.loc["Jaw Drop", "auc"] == 1 and table.loc["Jaw Drop", "weight"] > 0.99
    assert abs(table.loc["Upper Lip Suck", "flip_correlation"]) < 0.25 and table.loc["Upper Lip Suck", "weight"] < 0.1
    assert table.loc["Chin Raise", "flip_difference"] == 0 and abs(table.loc["Chin Raise", "auc"] - 0.5) < 0.1
    assert table.loc["Left Eye Close", "weight"] == pytest.approx(1)  # of no prototype: the correlation alone
    assert pd.isna(table.loc["Nose Wrinkle", ["mean", "flip_correlation", "auc", "weight", "threshold"]]).all()
    assert table.loc["Jaw Drop", "threshold"] == 0.05 and table.loc["Lip Pucker", "threshold"] == 0.35
    assert set(table["faces"]) == {200}
    with pytest.raises(ConfigError, match="no face has an estimate for both"):
        unit_reliability([None], [None], ["Happiness"], prototypes)


def test_reliability_of_real_faces(explllm, reference_data, landmarker_file, manifest_of, tmp_path):
    faces = [path for name in ("happy", "surprise") for path in
             sorted((reference_data / "faces" / "test" / name).glob("*.jpg"))[:12]]  # fmt: skip
    rows = [{"image": str(path), "expression": path.parent.name} for path in faces]
    manifest_of(tmp_path / "m.jsonl", [*rows, {"image": "unlabeled.jpg"}])
    done = explllm("reliability", "m.jsonl", "--landmarker", landmarker_file, "--out", "table.csv")
    assert done.status == 0, done.err
    table = pd.read_csv("table.csv", index_col="unit")
    assert table.loc["Left Lip Corner Pull", "auc"] > 0.9 and table.loc["Left Lip Corner Pull", "weight"] > 0.5
    assert list(table.index[table["weight"].isna()]) == UNMEASURED
    trusted = UnitReliability.read("table.csv")
    assert set(UNMEASURED) <= set(trusted.untrusted) and trusted.thresholds[NAMES.index("Left Lip Corner Pull")] >= 0.05
    assert "flip corr." in done.out and "Nose Wrinkle" in done.out
