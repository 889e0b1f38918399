"""Explaining whole photographs: the faces are found, cut out by the one rule, and told apart."""

import json
import os
import signal
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.nn.modules.module import register_module_forward_pre_hook

from explllm.commands import explain as command
from explllm.commands import pictures
from explllm.core.action_units import NAMES
from explllm.core.errors import ConfigError, InputError, MissingPathError
from explllm.explanations.chain_of_thought import ChainOfThought
from explllm.faces.boxes import iou
from explllm.faces.crop import face_crop
from explllm.faces.images import load_image
from explllm.models.au_export import export_onnx
from explllm.models.au_regressor import RegressorSettings, build_regressor, regressor_config
from explllm.models.explllm import ExpLLM
from explllm.report.json_lines import explain_schema


def explain_command(images, landmarker=None, onnx=None, **settings):
    """Run the command with Python values."""
    tokens = {"max_new_tokens": settings.pop("max_new_tokens")} if "max_new_tokens" in settings else {}
    estimator = command.EstimatorOptions(landmarker=landmarker, onnx=onnx)
    return command.explain(images, options=command.PictureOptions(**settings), estimator=estimator, **tokens)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Files that come with libraries: one face, six faces, none."""
    data = pytest.importorskip("skimage.data", reason="no scikit-image for its photographs")
    insightface = pytest.importorskip("insightface", reason='no insightface: pip install "explllm[faces]"')
    folder = tmp_path_factory.mktemp("photographs")
    for name in ("astronaut", "coffee"):
        Image.fromarray(getattr(data, name)()).save(folder / f"{name}.png")
    (folder / "six.jpg").write_bytes((Path(insightface.__file__).parent / "data/images/t1.jpg").read_bytes())
    return folder


@pytest.fixture
def detector_file(reference_data):
    pytest.importorskip("onnxruntime", reason='no onnxruntime: pip install "explllm[faces]"')
    return str(reference_data / "detector" / "scrfd_500m_bnkps.onnx")


@pytest.fixture
def landmarker_file(reference_data):
    pytest.importorskip("mediapipe", reason='no mediapipe: pip install "explllm[aus]"')
    return str(reference_data / "landmarker" / "face_landmarker.task")


@pytest.fixture
def explain(fitted, capsys):
    """Explain photographs; gives the status, the JSON lines and the rest."""

    def run(*images, **settings):
        capsys.readouterr()
        status = explain_command(
            [str(image) for image in images], model=str(fitted / "model"), max_new_tokens=4, **settings
        )
        printed = capsys.readouterr()
        if settings.get("as_json"):
            lines = [json.loads(line) for line in printed.out.splitlines()]
            for line in lines:
                jsonschema.validate(line, explain_schema())
            return status, lines
        return status, printed.out

    return run


def test_every_face_of_a_photograph(explain, photographs, detector_file, fitted):
    status, lines = explain(photographs / "six.jpg", detector=detector_file, as_json=True)
    assert status == 0 and [line["face"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert {line["faces"] for line in lines} == {6}
    assert [line["box"][0] for line in lines] == sorted(line["box"][0] for line in lines)
    # What is said of a face is what the model says of its crop alone.
    model = ExpLLM.from_pretrained(fitted / "model")
    image = Image.open(photographs / "six.jpg").convert("RGB")
    for line in (lines[0], lines[4]):
        crop = face_crop(image, line["box"])
        [expected] = model.recognize(crop)
        assert line["expression"] == expected.expression
        assert line["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)
        assert line["text"] == model.explain(crop, max_new_tokens=4).text
    assert len({json.dumps(line["probabilities"]) for line in lines}) == 6


def test_one_face_of_several_and_the_margin(explain, photographs, detector_file):
    _, [line] = explain(photographs / "six.jpg", detector=detector_file, which="largest", as_json=True)
    _, [wide] = explain(photographs / "six.jpg", detector=detector_file, which="largest", margin=0.5, as_json=True)
    assert line["box"] == wide["box"] and line["probabilities"] != wide["probabilities"]


def test_a_photograph_without_a_face(explain, photographs, detector_file):
    status, lines = explain(
        photographs / "coffee.png", photographs / "astronaut.png", detector=detector_file, as_json=True
    )
    assert status == 1 and lines[0] == {"image": str(photographs / "coffee.png"), "faces": 0}
    assert iou(tuple(lines[1]["box"]), (175, 70, 93, 93)) >= 0.5
    status, out = explain(photographs / "coffee.png", detector=detector_file)
    assert status == 1 and "no face found" in out.replace("\n", "")


def test_images_are_explained_in_batches(explain, photographs, detector_file):
    paths = [photographs / name for name in ("astronaut.png", "coffee.png", "six.jpg", "astronaut.png")]
    sizes = []
    remove = register_module_forward_pre_hook(
        lambda module, inputs: sizes.append(len(inputs[0])) if type(module).__name__ == "Projector" else None
    )
    status, together = explain(*paths, detector=detector_file, as_json=True)
    remove.remove()
    assert status == 1 and sizes == [8]  # 1 + 0 + 6 + 1 faces
    separate = [line for path in paths for line in explain(path, detector=detector_file, as_json=True)[1]]
    assert len(together) == len(separate) == 9
    for line, expected in zip(together, separate, strict=True):
        for name in ("probabilities", "confidence"):
            assert line.pop(name, 0) == pytest.approx(expected.pop(name, 0), abs=1e-5)
        assert line == expected


def test_without_a_detector_the_image_is_the_face(explain, photographs, fitted):
    status, [line] = explain(photographs / "astronaut.png", as_json=True)
    [expected] = ExpLLM.from_pretrained(fitted / "model").recognize(photographs / "astronaut.png")
    assert status == 0 and line["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)
    assert "box" not in line and "action_units" not in line
    assert line["training_data_note"].startswith("The faces are drawn by a program")
    assert "512 x 512 pixels may be a photograph" in line["warnings"][0]


def test_what_the_model_training_data_note_is_said(photographs, fitted, capsys, tmp_path):
    images = [str(photographs / "astronaut.png")]
    explain_command(images, model=str(fitted / "model"), max_new_tokens=4, picture=tmp_path / "noted.png")
    said = "Note: training data of this model: The faces are drawn by a program, not photographs."
    assert said in capsys.readouterr().err
    model = ExpLLM.from_pretrained(fitted / "model")
    model.config.training_data_note = None
    model.save_pretrained(tmp_path / "model", include_base=True)
    explain_command(images, model=str(tmp_path / "model"), max_new_tokens=4, picture=tmp_path / "plain.png")
    assert "Note" not in capsys.readouterr().err
    with Image.open(tmp_path / "noted.png") as noted, Image.open(tmp_path / "plain.png") as plain:
        assert noted.height > plain.height


@pytest.fixture
def wide(fitted, tmp_path):
    """The model, as if it had learned from faces cut out with a margin of 0.5."""
    model = ExpLLM.from_pretrained(fitted / "model")
    model.config.margin = 0.5
    model.save_pretrained(tmp_path / "wide", include_base=True)
    return tmp_path / "wide"


def test_faces_are_cut_out_as_in_training(explain, photographs, detector_file, wide, capsys):
    options = {"detector": detector_file, "which": "largest", "as_json": True}
    [told] = [explain(photographs / "six.jpg", margin=margin, **options)[1] for margin in (0.5,)]
    image = str(photographs / "six.jpg")
    for margin, same in ((None, True), (0.1, False)):
        explain_command([image], model=str(wide), max_new_tokens=4, margin=margin, **options)
        line = json.loads(capsys.readouterr().out)
        assert (line["probabilities"] == pytest.approx(told[0]["probabilities"], abs=1e-6)) == same


@pytest.fixture
def regressor(tmp_path):
    """An exported regressor that learned from drawn faces, cut out with a margin of 0.3."""
    pytest.importorskip("onnx", reason='no onnx, which insightface brings: pip install "explllm[faces]"')
    pytest.importorskip("onnxruntime", reason='no onnxruntime: pip install "explllm[aus]"')
    vision = {"model_type": "explllm_conv", "hidden_sizes": [8, 16], "depths": [1, 1]}
    settings = RegressorSettings(vision=vision, vision_train="full", image_preset="small", image_size=32, head_width=16)
    torch.manual_seed(0)
    model = build_regressor(regressor_config(settings))
    model.config.margin, model.config.training_data_note = 0.3, "The faces are drawn."
    export_onnx(model, tmp_path / "au.onnx")
    return model, str(tmp_path / "au.onnx")


def test_action_units_by_an_exported_regressor(explain, fitted, photographs, detector_file, regressor, capsys):
    """It sees the faces as it learned, whatever the model's margin is; a margin that is given holds for both."""
    model, path = regressor
    photograph = photographs / "astronaut.png"
    for given, margin in ((None, 0.3), (0.0, 0.0)):
        _, [line] = explain(photograph, detector=detector_file, onnx=path, margin=given, as_json=True)
        assert line["action_units_source"] == "onnx:au.onnx"
        [expected] = model.estimate(face_crop(Image.open(photograph), line["box"], margin))
        assert [*line["action_units"].values()] == pytest.approx(expected, abs=1e-4)
    explain_command([str(photograph)], model=str(fitted / "model"), max_new_tokens=1, onnx=path)
    printed = capsys.readouterr()
    assert "action units by onnx:au.onnx: " in printed.out
    assert "Note: training data of the estimator: The faces are drawn." in printed.err


def test_action_units_are_measured_beside(explain, photographs, detector_file, landmarker_file):
    _, [line] = explain(photographs / "astronaut.png", detector=detector_file, landmarker=landmarker_file, as_json=True)
    assert list(line["action_units"]) == list(NAMES) and line["action_units_source"] == "mediapipe-blendshapes"
    assert line["action_units"]["Left Lip Corner Pull"] > 0.5 and line["action_units"]["Cheeks Puff"] is None
    _, out = explain(photographs / "six.jpg", detector=detector_file, landmarker=landmarker_file)
    assert "face 6 of 6" in out.replace("\n", "") and out.count("action units by mediapipe-blendshapes:") == 6


def test_a_picture_without_a_face_gets_a_warning(explain, photographs, landmarker_file, monkeypatch):
    """A cup of coffee, taken for a face: the estimator finds none."""
    monkeypatch.setenv("COLUMNS", "120")
    _, [line] = explain(photographs / "coffee.png", landmarker=landmarker_file, as_json=True)
    assert line["warnings"][0] == "The picture may show no face: mediapipe-blendshapes found none."
    _, out = explain(photographs / "coffee.png")
    said = " ".join(out.replace("│", " ").split())
    assert "Warning: The picture of 600 x 400 pixels may be a photograph rather than a face crop" in said
    assert "coffee.png" in said and "(model trained on drawn faces)" in said


def test_a_conclusion_that_contradicts_the_headline_is_flagged(explain, drawn_faces, tmp_path, monkeypatch):
    """A weak model, which recognizes one expression and concludes another or none."""
    monkeypatch.setenv("COLUMNS", "200")
    faces = sorted(drawn_faces.glob("test/*.png"))[:3]
    recognize = ExpLLM.recognize_and_explain

    def concluding_contempt(self, *arguments):
        # Its texts after one epoch are noise: the second one gets a conclusion, which is not one of its labels.
        contempt = ChainOfThought.from_sections("The jaw is dropped.", "It is tense.", "The expression is contempt.")
        pairs = enumerate(recognize(self, *arguments))
        return [(found, contempt if place == 1 else cot) for place, (found, cot) in pairs]

    monkeypatch.setattr(ExpLLM, "recognize_and_explain", concluding_contempt)
    _, lines = explain(*faces, as_json=True)
    assert lines[1]["concluded"] == "Contempt"
    for line in lines:
        concluded = line["concluded"] or "no expression"
        warning = f"The model recognized {line['expression']}, but the text's conclusion names {concluded}."
        assert line["conclusion_agrees"] == (line["concluded"] == line["expression"])
        assert (warning in line["warnings"]) != line["conclusion_agrees"]
    _, out = explain(*faces)
    printed = [line.removeprefix("Warning: ") for line in out.splitlines() if line.startswith("Warning: ")]
    assert printed == [warning for line in lines for warning in line["warnings"]]
    # In the picture, warnings are the only red text.
    explain(faces[0], faces[1], picture=tmp_path / "drawn")
    with Image.open(tmp_path / "drawn" / faces[1].name) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert (np.abs(pixels[len(pixels) // 2 :] - (176, 48, 32)).max(axis=2) < 8).sum() > 100


def test_the_picture(explain, photographs, detector_file, landmarker_file, tmp_path):
    """The photograph stands in it, with lines along each box."""
    for name, landmarker in (("plain.png", None), ("bars.webp", landmarker_file)):
        status, lines = explain(
            photographs / "six.jpg", detector=detector_file, landmarker=landmarker, picture=tmp_path / name,
            as_json=True,
        )  # fmt: skip
        assert status == 0 and len(lines) == 6
    with Image.open(tmp_path / "plain.png") as picture:
        assert picture.width == 1200 and picture.height > 1500
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    scale = 1152 / 1280
    x, y, _, h = (side * scale for side in lines[0]["box"])
    edge = pixels[24 + round(y) + 30 : 24 + round(y + h) - 5, 24 + round(x) + 1]
    assert np.abs(edge - (31, 97, 196)).max() < 8
    photograph = Image.open(photographs / "six.jpg").resize((1152, 797), Image.Resampling.LANCZOS)
    corner = np.asarray(photograph).astype(int)[-60:, :300]
    assert np.abs(pixels[24 + 797 - 60 : 24 + 797, 24:324] - corner).mean() < 2
    with Image.open(tmp_path / "bars.webp") as bars:
        assert bars.size[1] > picture.size[1]


@pytest.fixture
def mixed(drawn_faces, tmp_path):
    """A folder of two faces, an empty file and a text with the name of an image."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for name, source in zip(("a.png", "z.png"), sorted(drawn_faces.glob("test/*.png")), strict=False):
        (folder / name).write_bytes(source.read_bytes())
    (folder / "empty.jpg").touch()
    (folder / "text.png").write_text("This is no image.")
    return folder


def test_recognize_many_pictures(explllm, fitted, mixed, tmp_path, monkeypatch):
    """A folder, a pattern and a missing file: a row each, the reasons among them, and no text is generated."""
    monkeypatch.setattr(ExpLLM, "recognize_and_explain", None)
    call = ("recognize", mixed, f"{mixed}/z*.png", mixed / "none.jpg", "--model", fitted / "model")
    model = ExpLLM.from_pretrained(fitted / "model")
    expected = {path: model.recognize(path)[0] for path in (mixed / "a.png", mixed / "z.png")}
    names = ["a.png", "empty.jpg", "text.png", "z.png", "z.png", "none.jpg"]
    done = explllm(*call, "--json", "--batch_size", 3)
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert done.status == 1 and [Path(line["image"]).name for line in lines] == names
    for line in lines:
        jsonschema.validate(line, explain_schema())
        path = Path(line["image"])
        if path in expected:
            assert line["expression"] == expected[path].expression and "text" not in line
            assert line["probabilities"] == pytest.approx(expected[path].probabilities, abs=1e-5)
        else:
            assert path.name in line["error"]
    for ending, read in ((".csv", pd.read_csv), (".parquet", pd.read_parquet)):
        done = explllm(*call, "-o", tmp_path / f"out{ending}")
        assert done.status == 1 and done.out == "" and "3 faces, 3 unreadable" in done.err
        table = read(tmp_path / f"out{ending}")
        assert [Path(name).name for name in table["image"]] == names
        assert table["error"].notna().tolist() == [False, True, True, False, False, True]
        assert table["p_Fear"][0] == pytest.approx(expected[mixed / "a.png"].probabilities["Fear"], abs=1e-5)
    assert "the manifest exists" in explllm(*call, "-o", tmp_path / "out.csv").error
    # In the same batches: in others, sums round differently.
    assert explllm(*call, "--batch_size", 3, "-o", tmp_path / "out.jsonl").status == 1
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == lines
    done = explllm(*call)
    printed = done.out.splitlines()
    assert f"{mixed}/a.png: {lines[0]['expression']} {lines[0]['confidence']:.1%}, " in printed[0]
    assert printed[1].startswith(f"{mixed}/empty.jpg: error: unreadable image")


@pytest.mark.parametrize("drawn", [False, True])
def test_few_large_pictures_at_once(explain, drawn_faces, tmp_path, monkeypatch, drawn):
    """A photograph is only kept if it will be drawn."""
    files = sorted(drawn_faces.glob("test/*.png"))[:5]
    _, expected = explain(*files, as_json=True)
    batches, answer = [], pictures._answer
    monkeypatch.setattr(pictures, "_answer", lambda batch, *rest: batches.append([*batch]) or answer(batch, *rest))
    width, height = load_image(files[0]).size
    monkeypatch.setattr(pictures, "_PIXELS_AT_ONCE", 2 * width * height * (1 + drawn))
    _, lines = explain(*files, as_json=True, picture=tmp_path / "drawn" if drawn else None)
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert all((picture.photograph is not None) == drawn for batch in batches for picture in batch)
    for line, other in zip(lines, expected, strict=True):
        assert line["image"] == other["image"] and line["text"] == other["text"]
        assert line["probabilities"] == pytest.approx(other["probabilities"], abs=1e-5)


def test_one_bad_picture_among_many_is_explained_as_such(explain, mixed, tmp_path):
    """Pictures are drawn into a folder, one for each that can be read."""
    status, lines = explain(mixed, as_json=True, picture=tmp_path / "drawn")
    assert status == 1 and ["error" in line for line in lines] == [False, True, True, False]
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == ["a.png", "z.png"]
    explain(mixed / "a.png", mixed / "a.png", picture=tmp_path / "drawn", out=tmp_path / "out.csv")
    assert (tmp_path / "drawn/a-2.png").is_file()
    table = pd.read_csv(tmp_path / "out.csv")
    assert list(table["text"]) == [lines[0]["text"]] * 2 and "claims contradicts" in table
    with pytest.raises(InputError, match="unreadable image"):
        explain(mixed / "empty.jpg")
    with pytest.raises(MissingPathError, match="the image does not exist"):
        explain(mixed / "one.jpg")


def test_only_a_single_picture_fails_the_command(explllm, fitted, mixed, tmp_path, monkeypatch):
    """A missing file, a name that is too long, a loop of links and a URL without a server become rows."""
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    bad = ["one.jpg", "x" * 300 + ".jpg", "loop.jpg", "http://127.0.0.1:9/face.jpg", "-"]
    monkeypatch.setattr(sys, "stdin", None)
    call = ("--model", fitted / "model", "--json", "--allow_urls", "--picture", "drawn")
    for good in ([], [mixed / "a.png"]):
        done = explllm("recognize", *bad, *good, *call)
        lines = [json.loads(line) for line in done.out.splitlines()]
        assert done.status == 1 and ["error" in line for line in lines] == [True] * 5 + [False] * len(good)
    assert "standard input is closed" in lines[4]["error"]
    done = explllm("recognize", "-", "--model", fitted / "model")
    assert done.status == 2 and "the standard input is closed [-]. Send" in done.error


@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_an_interruption_keeps_what_is_finished(explllm, fitted, mixed, tmp_path, monkeypatch, number, status, word):
    recognize, calls, stop_at = ExpLLM.recognize, [], 2
    call = ("recognize", mixed, "--model", fitted / "model", "--batch_size", 1, "-o", "out.csv")

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == stop_at:
            os.kill(os.getpid(), number)
        return recognize(*arguments)

    monkeypatch.setattr(ExpLLM, "recognize", interrupted)
    handler = signal.getsignal(signal.SIGTERM)
    done = explllm(*call)
    assert done.status == status and done.err.endswith(f"\n{word}. 1 of 4 pictures are done: out.csv.\n")
    [name] = pd.read_csv(tmp_path / "out.csv")["image"]
    assert Path(name).name == "a.png" and signal.getsignal(signal.SIGTERM) is handler
    # An earlier table is not replaced by an empty one.
    calls, stop_at = [], 1
    done = explllm(*call, "--overwrite")
    assert done.status == status and done.err.endswith(f"\n{word}. 0 of 4 pictures are done.\n")
    assert len(pd.read_csv(tmp_path / "out.csv")) == 1


def test_running_out_of_memory_keeps_what_is_finished(explllm, fitted, mixed, tmp_path, monkeypatch):
    recognize, calls = ExpLLM.recognize, []

    def short_of_memory(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("2 GiB are free.")
        return recognize(*arguments)

    monkeypatch.setattr(ExpLLM, "recognize", short_of_memory)
    done = explllm("recognize", mixed, "--model", fitted / "model", "--batch_size", 1, "-o", "out.csv")
    assert done.status == 2 and "out of memory: 2 GiB are free. 1 of 4 pictures are done: out.csv. Use" in done.err
    assert len(pd.read_csv(tmp_path / "out.csv")) == 1


def test_each_picture_has_its_own_drawing(explllm, fitted, mixed, tmp_path):
    names = ("x/a.png", "y/a-2.png", "y/a.png", "z/a.png")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((mixed / "a.png").read_bytes())
    assert explllm("recognize", *names, "--model", fitted / "model", "--picture", "drawn").status == 0
    drawn = sorted(path.name for path in (tmp_path / "drawn").iterdir())
    assert drawn == ["a-2.png", "a-3.png", "a-4.png", "a.png"]


def test_names_that_are_not_utf8(explllm, fitted, mixed, tmp_path):
    name = os.fsdecode(b"bad\xff.png")
    (mixed / "a.png").rename(tmp_path / name)
    for ending, read in ((".csv", pd.read_csv), (".parquet", pd.read_parquet)):
        done = explllm("recognize", name, mixed / "z.png", "--model", fitted / "model", "-o", f"out{ending}")
        assert done.status == 0 and read(tmp_path / f"out{ending}")["image"][0] == r"bad\udcff.png"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"picture": Path("out.txt")}, "--picture has the extension '.txt'"),
        ({"detector": "none.onnx"}, "the file does not exist"),
        ({"landmarker": "none.task"}, "the landmarker does not exist"),
        ({"onnx": "none.onnx"}, "the file does not exist"),
        ({"landmarker": "a.task", "onnx": "b.onnx"}, "both --landmarker and --onnx are given. Pass one of them."),
    ],
)
def test_mistakes(explain, photographs, settings, message):
    if "landmarker" in settings:
        pytest.importorskip("mediapipe", reason='no mediapipe: pip install "explllm[aus]"')
    with pytest.raises(InputError, match=message):
        explain(photographs / "astronaut.png", **settings)


def test_a_picture_is_of_one_image(explain, photographs):
    with pytest.raises(ConfigError, match="--picture is one file for 2 images .out.png.. Pass a folder."):
        explain(photographs / "astronaut.png", photographs / "six.jpg", picture=Path("out.png"))
