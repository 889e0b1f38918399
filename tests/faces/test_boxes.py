"""Which face of several."""

import pytest

from explllm.faces.boxes import Detection, iou, match_faces, select_faces

SMALL, LARGE, MIDDLE = (0, 0, 10, 10), (60, 0, 40, 40), (45, 20, 20, 20)
FACES = [Detection(box, 0.9) for box in (LARGE, SMALL, MIDDLE)]


def boxes(faces):
    return [face.box for face in faces]


@pytest.mark.parametrize(
    ("first", "second", "share"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1),
        ((0, 0, 10, 10), (5, 0, 10, 10), 50 / 150),
        ((0, 0, 10, 10), (2, 2, 5, 5), 0.25),
        ((0, 0, 10, 10), (10, 0, 10, 10), 0),
        ((0, 0, 10, 10), (50, 50, 10, 10), 0),
    ],
)
def test_overlap(first, second, share):
    assert iou(first, second) == iou(second, first) == pytest.approx(share)


def test_choice_among_several():
    assert boxes(select_faces(FACES, "largest", (100, 60))) == [LARGE]
    assert boxes(select_faces(FACES, "central", (100, 60))) == [MIDDLE]
    assert boxes(select_faces(FACES, "all", (100, 60))) == [SMALL, MIDDLE, LARGE]
    for which in ("largest", "central", "all"):
        assert select_faces([], which, (100, 60)) == []


def test_rows_of_one_image_keep_to_their_faces():
    near_small, near_large = (1, 1, 10, 10), (58, 2, 40, 40)
    found = match_faces(FACES, [near_large, near_small], "largest", (100, 60))
    assert [boxes(faces) for faces in found] == [[LARGE], [SMALL]]
    # What no other row means is left for the row without a box.
    assert boxes(match_faces(FACES, [near_large, None], "all", (100, 60))[1]) == [SMALL, MIDDLE]
    # A face goes to one row, that which overlaps it more; a box where no face is gets none.
    found = match_faces(FACES, [(0, 0, 14, 10), SMALL, (0, 50, 5, 5)], "largest", (100, 60))
    assert [boxes(faces) for faces in found] == [[], [SMALL], []]


def test_a_single_row_with_a_box_keeps_to_its_face():
    assert [boxes(faces) for faces in match_faces(FACES, [SMALL], "largest", (100, 60))] == [[SMALL]]
    assert match_faces(FACES, [(0, 50, 5, 5)], "largest", (100, 60)) == [[]]
