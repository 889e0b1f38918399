"""`explllm models`: the shipped model, and downloads from a hub and a file host on loopback."""

import hashlib
import io
import json
import shutil
import socket
import zipfile
from collections import namedtuple
from dataclasses import replace

import pytest

from explllm.core import downloads
from explllm.models import known
from explllm.models.explllm import ExpLLM


@pytest.fixture
def host(hub_server, tmp_path, monkeypatch):
    """A hub and file host, with an empty cache."""
    server = hub_server(tmp_path / "hub")
    monkeypatch.setenv("EXPLLLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EXPLLLM_MIRROR", server.url)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(downloads.time, "sleep", lambda seconds: None)
    return server


def path_of(known_file):
    return known_file.file.url.split("/", 3)[3]


def partials(folder):
    return [path for path in folder.rglob(".*.partial")]


def test_a_broken_download_resumes(explllm, host, reference_data, tmp_path):
    """With the real file and its published checksum."""
    content = (reference_data / "landmarker/face_landmarker.task").read_bytes()
    host.files[path_of(known.KNOWN_FILES["landmarker"])] = content
    # Attempts without a single byte end the command; the next one continues.
    host.break_after = [1_000_000, 0, 0, 0]
    error = explllm("models", "get", "landmarker").error
    assert "the download failed" in error and "resumes where it stopped" in error
    [partial] = partials(tmp_path)
    assert partial.read_bytes() == content[:1_000_000]
    # Within a command, a broken connection is continued by itself.
    host.break_after = [500_000]
    done = explllm("models", "get", "landmarker")
    target = tmp_path / "cache/landmarker/face_landmarker.task"
    assert done.status == 0 and str(target) in done.out and "Apache-2.0" in done.out
    assert target.read_bytes() == content and partials(tmp_path) == []
    assert host.ranges[-2:] == ["bytes=1000000-", "bytes=1500000-"]
    requests = len(host.requests)
    assert "exists" in explllm("models", "get", "landmarker").out and len(host.requests) == requests
    rows = [json.loads(line) for line in explllm("models", "--json").out.splitlines()]
    assert {row["name"]: row["path"] for row in rows}["landmarker"] == str(target)


def test_a_wrong_checksum_is_refused(explllm, host, tmp_path):
    entry = known.KNOWN_FILES["landmarker"]
    host.files[path_of(entry)] = bytes(entry.file.size)
    error = explllm("models", "get", "landmarker").error
    assert "published checksum" in error and entry.file.sha256 in error
    assert not entry.path.exists() and partials(tmp_path) == []


def test_no_network(explllm, host, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{unused.getsockname()[1]}"  # bound, and not listening
        monkeypatch.setenv("EXPLLLM_MIRROR", closed)
        monkeypatch.setenv("HF_ENDPOINT", closed)
        assert "Check the network" in explllm("models", "get", "scrfd").error
        assert "the hub cannot be read" in explllm("models", "get", "released").error
    monkeypatch.setenv("EXPLLLM_MIRROR", host.url)
    assert "the server responds with 404" in explllm("models", "get", "scrfd").error


@pytest.fixture
def scrfd(host, reference_data, monkeypatch):
    """The detector in an archive like insightface's, whose checksums replace the published ones."""
    detector = (reference_data / "detector/scrfd_500m_bnkps.onnx").read_bytes()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("w600k_mbf.onnx", b"another model")
        archive.writestr("det_500m.onnx", detector)
    content = buffer.getvalue()
    entry = known.KNOWN_FILES["scrfd"]
    file = replace(entry.file, size=len(content), sha256=hashlib.sha256(content).hexdigest())
    entry = replace(entry, file=file, member_sha256=hashlib.sha256(detector).hexdigest())
    monkeypatch.setitem(known.KNOWN_FILES, "scrfd", entry)
    host.files[path_of(entry)] = content
    return entry


def test_a_cached_detector_is_used(explllm, host, scrfd, fitted, drawn_faces, tmp_path, monkeypatch):
    """By default: on photographs, and not on what is a face crop already."""
    data = pytest.importorskip("skimage.data", reason="no scikit-image for its photographs")
    pytest.importorskip("insightface", reason='no insightface: pip install "explllm[faces]"')
    from PIL import Image

    photograph, face = tmp_path / "astronaut.png", next(drawn_faces.glob("test/*.png"))
    Image.fromarray(data.astronaut()).save(photograph)
    Image.fromarray(data.astronaut()[45:195, 145:295]).save(tmp_path / "crop.png")
    images = [str(photograph), str(tmp_path / "crop.png"), str(face)]
    command = ("recognize", *images, "--model", fitted / "model", "--json")
    before = explllm(*command)
    assert "no face detector: each picture is treated as one face (`explllm models get scrfd`" in before.err
    whole = [json.loads(line) for line in before.out.splitlines()]
    assert "`explllm models get scrfd` downloads a detector" in whole[0]["warnings"][0]
    assert explllm("models", "get", "scrfd").status == 0
    assert sorted(path.name for path in scrfd.path.parent.iterdir()) == [".download.lock", "det_500m.onnx"]
    after = explllm(*command)
    assert "face detector: CPUExecutionProvider" in after.err and "treated as one face" not in after.err
    lines = [json.loads(line) for line in after.out.splitlines()]
    assert lines[0]["faces"] == 1 and lines[0]["box"][2] < 150 and lines[0]["warnings"] == []
    for line, expected in zip(lines[1:], whole[1:], strict=True):
        assert "box" not in line and line["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-6)
    assert lines[2]["warnings"] in ([], ["No face was detected; the whole picture is treated as one face."])
    without = explllm(*command, "--detector", "none")
    assert without.out.splitlines()[1:] == before.out.splitlines()[1:] and "detector" not in without.err
    # The same face from a URL and from standard input.
    host.files["face.png"] = face.read_bytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(face.read_bytes())))
    others = (f"{host.url}/face.png?size=1", "-", f"{host.url}/none.png")
    done = explllm("recognize", *others, "--allow_urls", "--model", fitted / "model", "--json")
    *read, missing = [json.loads(line) for line in done.out.splitlines()]
    assert done.status == 1 and [line["image"] for line in read] == [*others[:2]]
    assert [line["probabilities"] for line in read] == [pytest.approx(whole[2]["probabilities"], abs=1e-6)] * 2
    assert "cannot be fetched: Not Found" in missing["error"]


def test_the_released_weights(explllm, host, golden, tmp_path, monkeypatch):
    """A hub with two checkpoints in the released format: one is chosen, downloaded, converted and checked."""
    for name in ("RAFDB_91.03", "AffectNet_65.93"):
        folder = tmp_path / "hub/starhiking/ExpLLM/ckpts" / name
        shutil.copytree(golden / "checkpoint", folder, copy_function=shutil.copyfile)
        (folder / "training_args.bin").write_bytes(b"a pickle")
    # Enough room is checked before the download.
    usage = namedtuple("Usage", "total used free")(10**9, 10**9, 10**6)
    with monkeypatch.context() as full:
        full.setattr(downloads.shutil, "disk_usage", lambda path: usage)
        assert "needed, 1.0 MB free" in explllm("models", "get", "released").error
    assert not [path for _, path in host.requests if "pytorch_model" in path]
    assert "ckpts/AffectNet_65.93, ckpts/RAFDB_91.03" in explllm("models", "get", "released", "--checkpoint", "x").error
    host.break_after = [1000] * 3 + [2_000_000]  # in pytorch_model.bin, the fourth file
    done = explllm("models", "get", "released")
    model = tmp_path / "cache/models/RAFDB_91.03"
    assert done.status == 0, done.err
    assert str(model) in done.out and "recognized a gray image as one of 8 classes" in done.out
    assert host.ranges == ["bytes=2000000-"]
    assert not [path for _, path in host.requests if "training_args" in path]
    assert not list((tmp_path / "cache/released").iterdir())  # the downloaded files are deleted
    assert len(ExpLLM.from_pretrained(model).labels) == 8
    requests = len(host.requests)
    assert "exists" in explllm("models", "get", "released").out and len(host.requests) == requests
    assert "RAFDB_91.03" in explllm("models").out
    # A file that is not what the hub states.
    file = tmp_path / "hub/starhiking/ExpLLM/ckpts/AffectNet_65.93/tokenizer.model"
    checkpoint = known.choose_checkpoint(known.released_checkpoints(), "affectnet")
    file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(downloads.DownloadError, match=r"tokenizer\.model.*Run the command again"):
        known.download_checkpoint(checkpoint)


def test_list(explllm, fitted, tmp_path):
    shutil.copytree(fitted, tmp_path / "runs/small")
    rows = [json.loads(line) for line in explllm("models", "list", "--json").out.splitlines()]
    by_name = {row["name"]: row for row in rows}
    assert by_name["runs/small"]["path"] == "runs/small/model"
    assert by_name["scrfd"]["path"] is None and by_name["scrfd"]["use"] == "explllm models get scrfd"
    table = explllm("models").out
    assert all(row["use"] in table for row in rows)


def test_the_shipped_model(explllm, drawn_faces, tmp_path):
    try:
        folder = known.shipped_model()
    except known.MissingPathError:
        pytest.skip("explllm/pretrained/pocket holds no weights in this checkout")
    face = next(drawn_faces.glob("test/*.png"))
    done = explllm("explain", face, "--json", "--max_new_tokens", 200)
    assert done.status == 0 and f"model: {folder}" in done.err
    line = json.loads(done.out)
    [expected] = ExpLLM.from_pretrained().recognize(face)
    assert line["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)
    assert "pocket" in explllm("models").out


def test_an_installation_without_weights(explllm, drawn_faces, tmp_path, monkeypatch):
    monkeypatch.setattr(known.resources, "files", lambda name: tmp_path)
    error = explllm("explain", next(drawn_faces.glob("test/*.png"))).error
    assert "does not include the packaged model" in error and "--model DIR" in error
    with pytest.raises(known.MissingPathError, match="config.json is missing"):
        ExpLLM.from_pretrained()
