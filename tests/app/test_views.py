"""The page without a browser: highlighted phrases, the parts of a face, streams, and batches."""

import csv
import io
import re
import zipfile
from contextlib import closing
from itertools import pairwise

import pytest
from PIL import Image

from explllm.app import batch
from explllm.app.batch import describe_batch
from explllm.app.explainer import Explainer
from explllm.app.page import Page, Services
from explllm.app.photographs import Photograph, open_photograph
from explllm.app.views import FaceView, document, face_html, photograph_html, style
from explllm.core.action_units import NAMES
from explllm.core.errors import ImageError, InputError
from explllm.core.expressions import Expression
from explllm.explanations.mentions import mentions
from explllm.models.generation import Recognition

TEXT = (
    "**Key Observations:** The left brow is slightly raised, and the jaw is dropped. The nose is not wrinkled.\n\n"
    "**Overall Emotional Interpretation:** A broad <smile> suggests joy.\n\n**Conclusion:** This is happiness."
)


def test_mentions():
    """Phrases are short, keep their claims, and do not overlap; other words are left out."""
    found = mentions(TEXT)
    phrases = {TEXT[one.start : one.end]: ([NAMES[unit] for unit in one.units], one.present) for one in found}
    assert phrases["left brow is slightly raised"] == (["Left Brow Raise"], True)
    assert phrases["jaw is dropped"] == (["Jaw Drop"], True)
    assert phrases["nose is not wrinkled"] == (["Nose Wrinkle"], False)
    assert all(one.end <= other.start for one, other in pairwise(found))
    text = "Both lip corners are pulled up; the upper lip is lifted. The left brow rises and the right brow slightly."
    phrases = [(text[one.start : one.end], [NAMES[unit] for unit in one.units]) for one in mentions(text)]
    assert phrases == [
        ("Both lip corners are pulled", ["Left Lip Corner Pull", "Right Lip Corner Pull"]),
        ("upper lip is lifted", ["Upper Lip Raise"]),
        ("left brow rises", ["Left Brow Raise"]),
        ("right brow slightly", ["Right Brow Raise"]),
    ]
    text = "Jaw drop: 0, lip pucker: slight."
    assert [(text[one.start : one.end], one.present) for one in mentions(text)] == [
        ("Jaw drop: 0", False),
        ("lip pucker", True),
    ]
    assert mentions("") == mentions("The expression is happiness.") == []


def test_a_face_as_html():
    """Phrase, bar and region of a unit share its number, which the style sheet lights; text is escaped."""
    labels = (Expression.HAPPINESS, Expression.SADNESS)
    recognition = Recognition.of(labels, [0.9, 0.1])
    image = Image.new("RGB", (64, 64))
    view = FaceView(image, (0, 0, 1, 1), "<model>", recognition, TEXT, True, warnings=["No face was detected."])
    html = face_html(view)
    assert "<smile>" not in html and "&lt;smile&gt;" in html and "<model>" not in html
    for name in ("Left Brow Raise", "Jaw Drop", "Nose Wrinkle"):
        unit = NAMES.index(name)
        tagged = re.findall(r'<(mark|rect|tr)[^>]* data-u="([\d ]+)"', html)
        tags = {tag for tag, units in tagged if str(unit) in units.split()}
        assert tags == {"mark", "rect", "tr"}, name
        assert f'[data-u~="{unit}"]' in style()
    assert html.index("No face was detected.") < html.index("<h4>")
    assert [html.count(f"<h4>{title}") for title in ("Key Obs", "Overall", "Conclusion")] == [1, 1, 1]
    partial = face_html(FaceView(image, (0, 0, 1, 1), "m", recognition, TEXT[:60]))
    assert 'aria-busy="true"' in partial and "Conclusion" not in partial
    assert "Recognizing" in face_html(FaceView(image, (0, 0, 1, 1), "m"))
    outlined = photograph_html(image, [(0, 0, 16, 32), (32, 0, 16, 16)], 1)
    assert "2 outlined faces" in outlined and "width:25.00%;height:50.00%" in outlined
    assert re.findall(r"x-(chosen|other)", outlined) == ["other", "chosen"]
    assert "<p" not in document("Faces", []) and "&lt;drawn&gt;" in document("Faces", [], "<drawn>")


def luminance(color):
    values = [int(color[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    linear = [value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in values]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_contrast():
    """WCAG's ratio of every pair of text and ground, in both schemes, is at least 4.5."""
    schemes = re.findall(r"\{(--ink:[^}]*?--warn-ink:#[0-9a-f]+)", style())
    assert len(schemes) == 2
    for scheme in schemes:
        colors = {}
        for name, color in re.findall(r"--([\w-]+):#([0-9a-f]+)", scheme):
            colors[name] = color if len(color) == 6 else "".join(2 * digit for digit in color)
        pairs = [("ink", "paper"), ("soft", "paper"), ("mark-ink", "mark"), ("ink", "denied"), ("lit-ink", "lit")]
        for text, ground in [*pairs, ("warn-ink", "warn")]:
            high, low = sorted((luminance(colors[text]), luminance(colors[ground])), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)


def test_the_faces_of_a_picture(detector, group, reference_data):
    """A detector finds the faces of a photograph; a face crop stays as it is."""
    assert len(open_photograph(group.read_bytes(), detector).boxes) == 6
    assert len(open_photograph(group.read_bytes(), detector, "largest").boxes) == 1
    crop = next((reference_data / "faces/test").rglob("*.jpg"))
    assert open_photograph(crop.read_bytes(), detector).boxes == (None,)
    wall = io.BytesIO()
    Image.new("RGB", (800, 600), "white").save(wall, "PNG")
    with pytest.raises(ImageError, match="no face found"):
        open_photograph(wall.getvalue(), detector)


@pytest.fixture
def services(explainer):
    return Services({"one": explainer, "two": explainer}, max_new_tokens=12)


def test_two_models_stream_side_by_side(services, pictures, expected, tmp_path):
    page = Page(services)
    (tmp_path / "face.png").write_bytes(pictures[0])
    photograph, message = page.look(str(tmp_path / "face.png"))
    assert message == "" and isinstance(photograph, Photograph)
    states = list(page.explain(photograph, 0, ["one", "two"]))
    assert all(len(state) == 2 for state in states) and "Recognizing" in states[0][0]
    recognition, _ = expected[0]
    for html in states[-1]:
        assert 'aria-busy="false"' in html
        assert re.search(r'role="status">(\w+) ', html)[1] == recognition.expression
    (tmp_path / "broken.png").write_bytes(pictures[0][:40])
    assert page.look(str(tmp_path / "broken.png"))[0] is None
    assert 'role="alert"' in page.look(str(tmp_path / "broken.png"))[1] and page.look(None) == (None, "")


def test_batches(services, pictures, expected, tmp_path):
    """Files and zip files; a broken picture is a row with the reason."""
    (tmp_path / "a.png").write_bytes(pictures[0])
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        for name, content in (("x/b.png", pictures[1]), ("x/c.png", b"broken"), ("x/notes.txt", b"no picture")):
            archive.writestr(name, content)
    steps = []
    files = [str(tmp_path / name) for name in ("a.png", "more.zip")]
    text, table, report = describe_batch(files, services, "one", True, lambda *step: steps.append(step))
    assert text.startswith("2 faces in 3 pictures. Unusable pictures: 1;") and steps == [(1, 3), (2, 3), (3, 3)]
    rows = list(csv.DictReader(table.open()))
    assert [row["image"] for row in rows] == ["a.png", "x/b.png", "x/c.png"] and rows[2]["error"]
    for row, (recognition, cot) in zip(rows, expected, strict=False):
        if not row["error"]:
            assert row["expression"] == recognition.expression and row["text"] == cot.text
    assert report.read_text(encoding="utf-8").count("<article") == 2
    (tmp_path / "bad.zip").write_bytes(b"PK\x03\x04")
    for wrong, message in (("bad.zip", "cannot be read"), ("none.txt", "no pictures")):
        with pytest.raises(InputError, match=message):
            describe_batch([str(tmp_path / wrong)], services, "one", False, lambda *_: None)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_entry_of_a_zip_file(services, pictures, tmp_path, method):
    """It is a row with the reason; the other pictures are recognized."""
    packed = tmp_path / "some.zip"
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, content in zip("abc", pictures, strict=False):
            archive.writestr(f"{name}.png", content)
        entry = archive.getinfo("b.png")
    content = bytearray(packed.read_bytes())
    start = entry.header_offset + 30 + len("b.png")
    content[start + 30 : start + 90] = b"\xff" * 60
    packed.write_bytes(content)
    text, table, _ = describe_batch([str(packed)], services, "one", False, lambda *_: None)
    assert text.startswith("2 faces in 3 pictures. Unusable pictures: 1;")
    assert ["damaged" in row["error"] for row in csv.DictReader(table.open())] == [False, True, False]


def test_more_faces_than_may_wait(model, pictures, expected, tmp_path):
    files = [tmp_path / f"{number}.png" for number in range(12)]
    for number, file in enumerate(files):
        file.write_bytes(pictures[number % 6])
    with closing(Explainer(model, batch_size=2, max_waiting=8)) as small:
        text, table, _ = describe_batch(list(map(str, files)), Services({"one": small}), "one", False, lambda *_: None)
    assert text == "12 faces in 12 pictures."
    found = [row["expression"] for row in csv.DictReader(table.open())]
    assert found == [str(recognition.expression) for recognition, _ in expected * 2]


def test_few_large_pictures_at_once(services, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("explllm.app.batch._PIXELS_AT_ONCE", 2 * 64 * 64)
    in_memory, answers = [], batch._answers
    monkeypatch.setattr(batch, "_answers", lambda chunk, *rest: in_memory.append(len(chunk)) or answers(chunk, *rest))
    for number, content in enumerate(pictures[:5]):
        (tmp_path / f"{number}.png").write_bytes(content)
    files = sorted(map(str, tmp_path.glob("*.png")))
    assert describe_batch(files, services, "one", False, lambda *_: None)[0] == "5 faces in 5 pictures."
    assert in_memory == [2, 2, 1]
