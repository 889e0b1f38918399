import random

import numpy as np
import pytest

from explllm.core.action_units import NAMES
from explllm.core.errors import ConfigError
from explllm.data.transforms import Augment, ReleasedAugment

OFF = dict.fromkeys(("flip", "rotation", "scale", "shift", "brightness", "contrast", "saturation", "hue", "erase"), 0.0)
IMAGE = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
UNITS = [round(i / 24, 4) for i in range(24)]
COT = "The left brow is raised; the right eye is closed."


def smooth_image():
    rows, columns = np.mgrid[0:64, 0:64]
    return np.stack([rows * 2 + 60, columns * 2 + 60, 255 - rows - columns], 2).astype(np.uint8)


def test_all_off_gives_equal_copies():
    image, units, cot = Augment(**OFF)(IMAGE, UNITS, COT, 1)
    assert np.array_equal(image, IMAGE)
    assert image is not IMAGE
    assert (units, cot) == (UNITS, COT)


def test_flip_mirrors_image_units_and_words_together():
    image, units, cot = Augment(**(OFF | {"flip": 1.0}))(IMAGE, UNITS, COT, 1)
    assert np.array_equal(image, IMAGE[:, ::-1])
    assert units[NAMES.index("Left Brow Raise")] == UNITS[NAMES.index("Right Brow Raise")]
    assert units[NAMES.index("Jaw Slide Right")] == UNITS[NAMES.index("Jaw Slide Left")]
    assert units[NAMES.index("Jaw Drop")] == UNITS[NAMES.index("Jaw Drop")]
    assert cot == "The right brow is raised; the left eye is closed."


def test_image_and_text_flip_together():
    augment = Augment(**(OFF | {"flip": 0.5}))
    flips = 0
    for seed in range(200):
        image, units, cot = augment(IMAGE, UNITS, COT, seed)
        flipped = np.array_equal(image, IMAGE[:, ::-1])
        assert flipped or np.array_equal(image, IMAGE)
        assert (units != UNITS) == (cot != COT) == flipped
        flips += flipped
    assert 70 < flips < 130


def test_missing_units_and_text_stay_missing():
    flip = Augment(**(OFF | {"flip": 1.0}))
    assert flip(IMAGE, None, None, 3)[1:] == (None, None)
    left, right = NAMES.index("Left Brow Raise"), NAMES.index("Right Brow Raise")
    partly = [*UNITS[:left], None, *UNITS[left + 1 :]]
    _, units, _ = flip(IMAGE, partly, None, 3)
    assert units[right] is None and units.count(None) == 1 and units[left] == UNITS[right]


@pytest.mark.parametrize("name", ["rotation", "scale", "shift", "brightness", "contrast", "saturation", "hue", "erase"])
def test_each_change_works_alone_and_leaves_text_and_input(name):
    strength = {"rotation": 20.0, "erase": 1.0, "hue": 0.2}.get(name, 0.3)
    image = smooth_image()
    before = image.copy()
    changed, units, cot = Augment(**(OFF | {name: strength}))(image, UNITS, COT, 5)
    assert changed.shape == image.shape
    assert changed.dtype == np.uint8
    assert np.abs(changed.astype(int) - image).mean() > 0.5
    assert (units, cot) == (UNITS, COT)
    assert np.array_equal(image, before)


def test_erased_area_is_a_rectangle_within_the_limits():
    augment = Augment(**(OFF | {"erase": 1.0}), erase_area=(0.05, 0.1))
    shares = []
    for seed in range(40):
        erased = (augment(np.zeros((100, 100, 3), np.uint8), None, None, seed)[0] > 0).all(2)
        rows, columns = erased.any(1).sum(), erased.any(0).sum()
        assert erased.sum() == rows * columns
        shares.append(erased.mean())
    assert min(shares) >= 0.04
    assert max(shares) <= 0.11
    assert max(shares) - min(shares) > 0.02


def test_equal_seeds_give_equal_results_after_any_other_calls():
    first, second = Augment(), Augment()
    expected = [first(IMAGE, UNITS, COT, seed) for seed in range(30)]
    random.seed(1)
    np.random.seed(1)
    for seed in reversed(range(30)):
        image, units, cot = second(IMAGE, UNITS, COT, seed)
        assert np.array_equal(image, expected[seed][0])
        assert (units, cot) == expected[seed][1:]
    assert len({image.tobytes() for image, _, _ in expected}) == 30


def test_changes_are_drawn_independently_of_each_other():
    augment = Augment(**(OFF | {"flip": 0.5, "erase": 0.5, "brightness": 0.5}))
    gray = np.full((32, 32, 3), 100, np.uint8)
    gray[:, 16:] += 20
    seen = []
    for seed in range(400):
        image = augment(gray, None, None, seed)[0].astype(int)
        # The brightest and the darkest corner survive any erasing of at most an eighth of the image's area.
        levels, counts = np.unique(image, return_counts=True)
        erased = len(levels) > 2
        plain = image[[0, -1]][:, [0, -1]].reshape(4, 3)[:, 0]
        flipped = np.sort(plain[::2]).sum() > np.sort(plain[1::2]).sum()
        seen.append((flipped, erased, float(levels[counts.argmax()])))
    flipped, erased, level = (np.array(values, float) for values in zip(*seen, strict=True))
    correlation = np.corrcoef([flipped, erased, level])
    assert np.abs(correlation[np.triu_indices(3, 1)]).max() < 0.2


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"flip": 1.5}, "flip` is 1.5"),
        ({"rotation": -1.0}, "rotation` is -1.0"),
        ({"hue": 0.7}, "hue` is 0.7"),
        ({"erase_area": (0.5, 0.1)}, "erase_area"),
        ({"scale": float("nan")}, "scale` is nan"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(ConfigError, match=message):
        Augment(**setting)


def test_the_released_augmentation():
    augment = ReleasedAugment()
    image = smooth_image()
    seen = [augment(image, UNITS, COT, seed) for seed in range(300)]
    assert all(made.shape == image.shape and made.dtype == np.uint8 for made, _, _ in seen)
    again = augment(image, UNITS, COT, 7)[0]
    assert np.array_equal(again, seen[7][0])
    flipped = [cot != COT for _, _, cot in seen]
    assert 0.4 < np.mean(flipped) < 0.6
    assert all((units != UNITS) == turned for (_, units, _), turned in zip(seen, flipped, strict=True))
    # Gray comes in half of the draws with 0.2, an erased area in half of them.
    gray = np.mean([np.ptp(made.astype(int), axis=2).max() == 0 for made, _, _ in seen])
    assert 0.05 < gray < 0.16
    black = [(made == 0).all(2).mean() for made, _, _ in seen]
    assert 0.4 < np.mean([share > 0.04 for share in black]) < 0.85  # borders that are moved in are black too


@pytest.mark.parametrize("size", [32, 64, 336])
def test_the_released_augmentation_follows_the_image_size(size):
    augment, image = ReleasedAugment(), np.full((size, size, 3), 200, np.uint8)
    assert all(augment(image, None, None, seed)[0].shape == image.shape for seed in range(60))
