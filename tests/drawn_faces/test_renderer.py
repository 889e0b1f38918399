from dataclasses import replace

import numpy as np
import pytest

from explllm.core.action_units import FEAFA, NAMES, mirror_action_units
from explllm.core.errors import InputError
from explllm.drawn_faces.renderer import Identity, Scene, draw_face

PEOPLE = (0, 4, 9, 17)
"""Seeds of people with different hair, skin, beard and glasses."""


def person(seed):
    return Identity.sample(np.random.default_rng(seed))


def units(**intensities):
    values = [0.0] * len(NAMES)
    for name, intensity in intensities.items():
        values[NAMES.index(name.replace("_", " "))] = intensity
    return values


def difference(first, second):
    return np.abs(first.astype(int) - second).max(2)


@pytest.mark.parametrize("seed", PEOPLE)
def test_each_unit_changes_the_image_on_its_own_side_and_more_when_stronger(seed):
    identity, scene = person(seed), Scene()
    neutral = draw_face([0.0] * 24, identity, scene)
    for unit in FEAFA:
        slight, strong = (
            difference(draw_face([x * (name == unit.name) for name in NAMES], identity, scene), neutral)
            for x in (0.35, 1.0)
        )
        assert (slight > 8).sum() >= 5, f"{unit.name}: a defining intensity must be visible"
        assert (strong > 16).sum() >= 15, unit.name
        assert strong.sum() > slight.sum(), unit.name
        if unit.side is not None and "Jaw" not in unit.name:  # the jaw moves as one piece
            halves = {"left": strong[:, 48:].sum(), "right": strong[:, :48].sum()}
            other = "right" if unit.side == "left" else "left"
            assert halves[unit.side] > 4 * halves[other], f"{unit.name}: the person's left is the right half"


def test_jaw_slides_to_the_persons_own_side():
    identity, scene = person(0), Scene(background=(255.0, 0.0, 255.0))

    def middle_of_jaw(action_units):
        jaw = draw_face(action_units, identity, scene)[68:82].astype(int)
        columns = np.nonzero(np.abs(jaw - (255, 0, 255)).max(2) > 60)[1]
        return columns.mean()

    still = middle_of_jaw(units())
    assert abs(still - 47.5) < 0.5
    assert middle_of_jaw(units(Jaw_Slide_Left=1.0)) > still + 1.5
    assert middle_of_jaw(units(Jaw_Slide_Right=1.0)) < still - 1.5


@pytest.mark.parametrize("seed", range(3))
def test_flipped_picture_is_the_picture_of_the_mirrored_face(seed):
    random = np.random.default_rng([seed, 1])
    identity, scene = person(seed), replace(Scene.sample(random), noise=0.0)
    action_units = random.random(24).tolist()
    flipped = draw_face(action_units, identity, scene)[:, ::-1]
    mirrored = draw_face(mirror_action_units(action_units), identity.mirrored(), scene.mirrored())
    assert difference(flipped, mirrored).mean() < 0.3
    assert difference(flipped, mirrored).max() < 16
    unmirrored_units = draw_face(action_units, identity.mirrored(), scene.mirrored())
    assert difference(flipped, unmirrored_units).mean() > 1


def test_closed_eye_hides_the_white_and_raised_lid_shows_more_of_it():
    identity, scene = person(0), Scene()

    def white(action_units):
        eyes = draw_face(action_units, identity, scene)[34:58, 50:75].min(2)
        return int((eyes > 215).sum())

    closed, relaxed, raised = (
        white(units(**change)) for change in ({"Left_Eye_Close": 1.0}, {}, {"Left_Lid_Raise": 1.0})
    )
    assert closed == 0 < relaxed < raised


def test_dropped_jaw_opens_the_mouth():
    identity, scene = person(0), Scene()

    def cavity(jaw_drop):
        mouth = draw_face(units(Jaw_Drop=jaw_drop), identity, scene)[58:92, 30:66].astype(int)
        return int(((mouth.sum(2) < 200) & (mouth[..., 0] > mouth[..., 1] + 20)).sum())

    assert cavity(0.0) < cavity(0.5) < cavity(1.0)


def test_same_arguments_give_the_same_picture_and_other_noise_another():
    identity, scene = person(1), Scene.sample(np.random.default_rng(1))
    first = draw_face(units(Chin_Raise=0.5), identity, scene)
    np.random.default_rng(0).random(5)
    assert np.array_equal(first, draw_face(units(Chin_Raise=0.5), identity, scene))
    assert not np.array_equal(first, draw_face(units(Chin_Raise=0.5), identity, replace(scene, noise_seed=99)))


@pytest.mark.parametrize("size", [16, 33, 224])
def test_any_size_shows_the_same_face(size):
    identity, scene = person(2), Scene()
    picture = draw_face(units(Jaw_Drop=1.0), identity, scene, size)
    assert picture.shape == (size, size, 3)
    assert picture.dtype == np.uint8
    middle, corner = picture[size // 2, size // 2].astype(int), picture[2, 2].astype(int)
    assert np.abs(corner - scene.background).max() < 8
    assert np.abs(middle - corner).max() > 20


@pytest.mark.parametrize(
    ("change", "shows"),
    [
        ({"light_gain": 1.2}, lambda new, old: new.mean() > old.mean() + 10),
        (
            {"light_direction": 0.0, "light_contrast": 0.4},
            lambda new, old: new[:, 80:].mean() > old[:, 80:].mean() + 10,
        ),
        ({"light_warmth": 0.2}, lambda new, old: new[..., 2].mean() < old[..., 2].mean() - 10),
        (
            {"blur": 2.0},
            lambda new, old: np.abs(np.diff(new, axis=1)).mean() < 0.8 * np.abs(np.diff(old, axis=1)).mean(),
        ),
        (
            {"noise": 8.0},
            lambda new, old: np.abs(np.diff(new, axis=1)).mean() > 1.2 * np.abs(np.diff(old, axis=1)).mean(),
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_conditions_show(change, shows):
    identity = person(3)
    old = draw_face(units(), identity, Scene()).astype(float)
    assert shows(draw_face(units(), identity, Scene(**change)).astype(float), old)


def test_pose_moves_the_face():
    identity = person(3)
    frontal = draw_face(units(), identity, Scene())
    for scene in (Scene(roll=0.2), Scene(yaw=0.3), Scene(pitch=0.15), Scene(scale=0.9), Scene(shift=(0.05, 0.0))):
        assert difference(frontal, draw_face(units(), identity, scene)).mean() > 2


def test_wrong_action_units_and_sizes_are_refused():
    with pytest.raises(InputError, match="expected 24 action units, got 23"):
        draw_face([0.0] * 23, person(0), Scene())
    with pytest.raises(InputError, match="at least 16 pixels"):
        draw_face(units(), person(0), Scene(), size=8)


def test_people_differ():
    pictures = [draw_face(units(), person(seed), Scene()) for seed in range(8)]
    for i, first in enumerate(pictures):
        for second in pictures[:i]:
            assert difference(first, second).mean() > 5
