"""Action units from MediaPipe's blendshapes: the numbers, the sides, and what is not measured."""

import csv
import random
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from explllm.core.action_units import FEAFA, NAMES, mirror_action_units
from explllm.core.errors import CheckpointError, MissingPathError
from explllm.faces.crop import face_crop
from explllm.faces.estimators import fill_unmeasured, unmeasured_units
from explllm.faces.estimators.blendshapes import BLENDSHAPES, UNMEASURED, MediaPipeBlendshapes


@pytest.fixture(scope="module")
def sample(reference_data):
    """150 real faces with the intensities that were estimated elsewhere."""
    with (reference_data / "faces" / "action_units.csv").open() as file:
        rows = random.Random(0).sample(list(csv.DictReader(file)), 150)
    images = [Image.open(reference_data / "faces" / row["file"]).convert("RGB") for row in rows]
    return images, np.array([[float(row[f"au{number}"]) for number in range(24)] for row in rows])


def test_intensities_are_those_of_an_independent_estimate(blendshapes, sample):
    """The reference is rounded to four decimals; measured: no live unit differs by more than that."""
    images, expected = sample
    found = blendshapes.estimate(images)
    assert all(intensities is not None for intensities in found)
    live = [name not in UNMEASURED for name in NAMES]
    difference = np.abs(np.array([fill_unmeasured(intensities) for intensities in found]) - expected)[:, live]
    assert difference.mean(axis=0).max() < 0.001 and difference.max() < 0.02


def test_units_that_are_not_measured_are_named(blendshapes, sample):
    [intensities] = blendshapes.estimate(sample[0][:1])
    assert unmeasured_units(intensities) == ["Jaw Thrust", "Cheeks Puff", "Nose Wrinkle"]
    # In the reference, which holds what the model says of them, they are dead indeed.
    assert sample[1][:, [NAMES.index(name) for name in UNMEASURED]].max() < 0.05


def test_every_unit_is_mapped_to_shapes_of_its_own_side():
    assert list(BLENDSHAPES) == list(NAMES)
    for unit in FEAFA:
        shapes, other = BLENDSHAPES[unit.name], BLENDSHAPES[FEAFA[unit.mirror].name]
        if unit.side:
            wrong = "Right" if unit.side == "left" else "Left"
            assert not any(shape.endswith(wrong) for shape in shapes)
            assert {shape.replace("Left", "Right") for shape in shapes} == {
                shape.replace("Left", "Right") for shape in other
            }


def test_a_flipped_image_swaps_left_and_right(blendshapes, sample):
    """Sidedness goes with the flip: it fits the mirrored intensities and contradicts those that are not mirrored."""
    pairs = [blendshapes.estimate([image, ImageOps.mirror(image)]) for image in sample[0][:60]]
    plain = np.array([fill_unmeasured(a) for a, b in pairs if a and b])
    flipped = np.array([fill_unmeasured(b) for a, b in pairs if a and b])
    mirrored = np.array([mirror_action_units(row) for row in flipped])
    assert len(plain) > 50
    assert np.abs(plain - mirrored).mean() < 0.05
    left = [unit.number - 1 for unit in FEAFA if unit.side == "left"]
    right = [FEAFA[place].mirror for place in left]

    def sidedness(values):
        return (values[:, left] - values[:, right]).ravel()

    assert np.corrcoef(sidedness(plain), sidedness(mirrored))[0, 1] > 0.2
    assert np.corrcoef(sidedness(plain), sidedness(flipped))[0, 1] < -0.2


def squeezed(image, center, size):
    """Close an eye: squeeze a patch of the image vertically."""
    pixels = np.asarray(image)
    y, x = np.mgrid[: pixels.shape[0], : pixels.shape[1]].astype(np.float32)
    inside = np.clip(1 - ((x - center[0]) / (0.4 * size)) ** 2 - ((y - center[1]) / (0.28 * size)) ** 2, 0, 1) ** 0.5
    return Image.fromarray(
        cv2.remap(pixels, x, (y + (y - center[1]) * 4 * inside).astype(np.float32), cv2.INTER_LINEAR)
    )


def test_left_is_the_persons_own_left(blendshapes, detector, photographs):
    """The eye in the left half of a photograph is the person's right one."""
    image = photographs["astronaut"]
    [face] = detector.detect(image)
    size = face.landmarks[1][0] - face.landmarks[0][0]
    closed = {}
    for half, eye in (("left half", face.landmarks[0]), ("right half", face.landmarks[1])):
        [intensities] = blendshapes.estimate([face_crop(squeezed(image, eye, size), face.box, 0.25)])
        closed[half] = dict(zip(NAMES, intensities, strict=True))
    assert closed["left half"]["Right Eye Close"] > closed["left half"]["Left Eye Close"] + 0.05
    assert closed["right half"]["Left Eye Close"] > closed["right half"]["Right Eye Close"] + 0.05


def test_images_without_a_face(blendshapes, photographs):
    blank = Image.new("RGB", (224, 224), (128, 128, 128))
    assert blendshapes.estimate([photographs["coffee"], blank, Image.new("RGB", (1, 1))]) == [None, None, None]
    assert blendshapes.estimate([]) == []


def test_files_that_are_no_landmarker(landmarker_file, detector_file, tmp_path, capfd):
    with pytest.raises(MissingPathError, match="the landmarker does not exist"):
        MediaPipeBlendshapes(tmp_path / "none.task")
    (tmp_path / "text.task").write_text("no model")
    (tmp_path / "short.task").write_bytes(landmarker_file.read_bytes()[:1000])
    for path in (tmp_path / "text.task", tmp_path / "short.task", detector_file):
        with pytest.raises(CheckpointError, match="not a face landmarker with blendshapes"):
            MediaPipeBlendshapes(path)
    # Nor do its libraries write to the terminal.
    assert capfd.readouterr().err == ""


def test_the_process_outlives_whoever_restores_signals(landmarker_file, reference_data):
    """Lightning does so at the end of each run, with the handlers that Python knows of."""
    code = f"""
import signal
from PIL import Image
from explllm.faces.estimators.blendshapes import MediaPipeBlendshapes
first = MediaPipeBlendshapes({str(landmarker_file)!r})
signal.signal(signal.SIGPROF, signal.getsignal(signal.SIGPROF))
second = MediaPipeBlendshapes({str(landmarker_file)!r})
image = Image.open({str(next((reference_data / "faces" / "test" / "happy").glob("*.jpg")))!r})
for _ in range(40):
    first.estimate([image]), second.estimate([image])
first.close(), second.close()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done
