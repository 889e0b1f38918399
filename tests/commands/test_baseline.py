"""The baseline: pictures go out only when told to, the first answer counts, nothing is paid for twice."""

import base64
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from hashlib import sha256

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from explllm.core.expressions import LABEL_SETS
from explllm.core.manifest import Manifest
from explllm.engine.baseline import FaceImage, encode_face, face_images
from explllm.engine.settings import BaselineSettings
from explllm.faces.crop import load_face
from explllm.llm.ledger import Ledger

KEY = "sk-proj-a-key-that-must-appear-nowhere-0123456789"
COT = {
    "key_observations": "The brows are clearly raised.",
    "overall_emotional_interpretation": "The face is alert.",
    "conclusion": "The expression is surprise.",
}
LABELS = LABEL_SETS["affectnet7"]


@pytest.fixture
def faces(drawn_faces, tmp_path):
    """A manifest of eight drawn faces, under names and labels that the server must not see."""
    frame = Manifest.read(drawn_faces / "manifest.parquet").frame
    rows = frame[frame["split"] == "test"].head(8).reset_index(drop=True)
    (tmp_path / "secret").mkdir()
    for row, image in enumerate(rows["image"]):
        shutil.copy(drawn_faces / image, tmp_path / "secret" / f"person{row}.png")
        rows.loc[row, "image"] = f"secret/person{row}.png"
    rows = rows[["image", "expression", "split", "action_units", "action_units_source"]]
    Manifest(rows, tmp_path).write(tmp_path / "faces.parquet")
    return tmp_path / "faces.parquet"


@pytest.fixture
def baseline(explllm, faces, monkeypatch):
    """Runs the command on the eight faces."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)

    def run(url, *options, send=True):
        told = ("--send-images",) if send else ()
        return explllm("baseline", faces, "--model", "scripted", "--base-url", url, *told, *options)

    return run


def picture(received):
    """The file that a request carries."""
    [_, part] = received.body["messages"][0]["content"]
    head, _, letters = part["image_url"]["url"].partition(",")
    assert head == "data:image/jpeg;base64"
    return base64.b64decode(letters)


def truths(manifest):
    """The true label by the hash of the picture that must be sent."""
    manifest = Manifest.read(manifest)
    settings = BaselineSettings(LABELS)
    return {
        encode_face(face, settings).sha256: manifest.frame["expression"].iloc[row]
        for row, face in face_images(manifest, LABELS)
    }


@pytest.fixture
def knowing(chat_server, faces):
    """A server that knows each picture's label, and says others where it is told to."""

    def script(said=None, cots=None):
        known = truths(faces)
        order = {name: row for row, name in enumerate(known)}

        def answer(received):
            name = sha256(picture(received)).hexdigest()
            row = order[name]
            if len(received.body["messages"]) == 1:
                reply = (said or {}).get(row, json.dumps({"expression": known[name]}))
            else:
                reply = (cots or {}).get(row, json.dumps(COT))
            return chat_server.Reply(reply) if isinstance(reply, str) else reply

        return answer

    return script


def table(path="faces_scripted.parquet"):
    return Manifest.read(path).frame


def test_nothing_is_sent_unless_told_to(baseline, chat_server, knowing, tmp_path):
    with chat_server.ChatServer(knowing()) as server:
        before = sorted(tmp_path.rglob("*"))
        error = baseline(server.url, send=False).error
        assert "8 pictures of faces would be sent to 127.0.0.1" in error
        assert "personal data" in error and "--send_images" in error
        told = baseline(server.url, "--estimate", "--price-in", 2.5, "--price-out", 10, send=False)
        assert told.status == 0 and "8 faces: 16 calls" in told.out and "255 tokens per image" in told.out
    assert server.received == server.others == []
    assert sorted(tmp_path.rglob("*")) == before


def test_labels_and_texts_and_then_the_figures(baseline, chat_server, knowing, explllm, faces, tmp_path):
    said = {1: "I cannot tell.", 2: json.dumps({"expression": "Contempt"}), 3: "Happy.", 4: ""}
    cots = {5: "It is a face and nothing more can be said about it."}
    with chat_server.ChatServer(knowing(said, cots)) as server:
        done = baseline(server.url, "--label-set", "affectnet7", "--price-in", 1, "--price-out", 10)
    assert done.status == 0, done
    frame, given = table(), table(faces)
    assert len(server.received) == 15  # an empty answer cannot be gone on from
    right = [row for row in (0, 3, 5, 6, 7) if row != 3 or given["expression"][3] == "Happiness"]
    predicted = frame["predicted"].fillna("").tolist()
    assert predicted == [given["expression"][0], "", "Contempt", "Happiness", "", *given["expression"][5:]]
    assert frame["cot_status"].tolist() == [
        "answered",
        "no label",
        "no label",
        "answered",
        "no label",
        *["answered"] * 3,
    ]
    assert frame["answer"][1] == "I cannot tell." and "I cannot tell" in frame["cot_reason"][1]
    assert frame["cot"][0].startswith("**Key Observations:** The brows") and frame["cot"][5] == cots[5]
    assert frame["cot"].isna().tolist() == [False] * 4 + [True] + [False] * 3
    assert set(frame["cot_source"].dropna()) == {"scripted"} and frame["unreadable"].isna().all()
    assert frame["cot_cost"].tolist() == pytest.approx([2 * 300e-6 if row != 4 else 300e-6 for row in range(8)])

    # The conversation of the second round goes on from the first, and carries the picture too.
    second = next(one for one in server.received if len(one.body["messages"]) == 3)
    question, answer, again = second.body["messages"]
    assert [one["role"] for one in (question, answer, again)] == ["user", "assistant", "user"]
    assert ", ".join(LABELS) in question["content"][0]["text"] and "130 words" in again["content"]
    first = next(one for one in server.received if len(one.body["messages"]) == 1)
    schema = first.body["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["expression"]["enum"] == [str(label) for label in LABELS]

    scored = json.loads(explllm("score", "faces_scripted.parquet", "--json").out)
    assert scored["recognition"]["accuracy"] == len(right) / 8 and scored["recognition"]["count"] == 8
    assert (
        scored["recognition"]["no_label"] == 3 and scored["count"] == 7 and scored["complete"] == pytest.approx(6 / 7)
    )
    assert f"accuracy {len(right) / 8:.3f}" in explllm("score", "faces_scripted.parquet").out
    metrics = json.loads((tmp_path / "faces_scripted.run/metrics.json").read_text())
    assert metrics["test/accuracy"] == len(right) / 8 and metrics["test/no_label"] == 3
    assert "drawn by a program" in metrics["training_data_note"] and "scripted" in metrics["training_data_note"]
    assert f"test accuracy {len(right) / 8:.3f}" in done.out

    with chat_server.ChatServer(knowing()) as better:
        assert baseline(better.url, "-o", "better.parquet", "--label-set", "affectnet7").status == 0
    compared = explllm("compare", "faces_scripted.run", "better.run", "-o", "compared")
    assert compared.status == 0 and f"only better.run {8 - len(right)}" in " ".join(compared.out.split())

    assert "done: 8 of 8 faces" in explllm("cot", "status", "faces_scripted.parquet").out
    shown = explllm("cot", "show", "faces_scripted.parquet", 1).out
    # The pictures arrive in any order; `show 1` names that of the first row.
    assert "baseline_label, round 0" in shown and next(iter(truths(faces))) in re.sub(r"[\s│]", "", shown)


def test_the_server_sees_the_right_crop_and_no_more(explllm, chat_server, tmp_path, monkeypatch):
    """A photograph on its side with a place and a comment in its file, and two faces on it."""
    random = np.random.default_rng(0)
    scene = Image.fromarray(random.integers(0, 255, (30, 40, 3), np.uint8)).resize(
        (1600, 1200), Image.Resampling.BICUBIC
    )
    exif = Image.Exif()
    exif[0x0112], exif[0x8825] = 6, {1: "N", 2: (52.0, 31.0, 12.0)}
    scene.save(tmp_path / "holiday.jpg", quality=95, exif=exif, comment=b"MY HOLIDAY")
    boxes = [[100.0, 150.0, 900.0, 800.0], [50.0, 60.0, 80.0, 90.0]]
    frame = pd.DataFrame({"image": ["holiday.jpg"] * 2, "expression": ["Fear", "Anger"], "box": boxes})
    Manifest(frame, tmp_path).write(tmp_path / "faces.jsonl")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    reply = lambda received: chat_server.Reply("Fear" if len(received.body["messages"]) == 1 else json.dumps(COT))  # noqa: E731
    with chat_server.ChatServer(reply) as server:
        options = ("--model", "scripted", "--base-url", server.url, "--send-images", "--size", 256)
        assert explllm("baseline", "faces.jsonl", *options).status == 0
    sent = {Image.open(io.BytesIO(picture(one))).size: picture(one) for one in server.received}
    assert set(sent) == {(256, 256), (108, 108)}  # the smaller one as it is, with its margin
    for size, box in ((256, boxes[0]), (108, boxes[1])):
        expected = np.asarray(load_face(tmp_path / "holiday.jpg", box, max_size=256), float)
        found = np.asarray(Image.open(io.BytesIO(sent[size, size])), float)
        assert np.abs(found - expected).mean() < 3
        assert b"HOLIDAY" not in sent[size, size] and b"Exif" not in sent[size, size]
    for received in server.received:
        assert "holiday" not in json.dumps(received.body) and "holiday" not in json.dumps(received.headers)
    # The truth is told by nobody: the label stands in the list of classes and in answers alone.
    asked = [one.body["messages"][0]["content"][0]["text"] for one in server.received]
    assert len(set(asked)) == 1


def test_real_faces(explllm, chat_server, reference_data, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    source = sorted((reference_data / "faces/test/happy").glob("*.jpg"))[:3]
    names = [path.name for path in source]
    Manifest(pd.DataFrame({"image": names}), source[0].parent).write(tmp_path / "faces.csv")
    reply = lambda received: chat_server.Reply("joy" if len(received.body["messages"]) == 1 else json.dumps(COT))  # noqa: E731
    with chat_server.ChatServer(reply) as server:
        options = ("--model", "scripted", "--base-url", server.url, "--send-images", "--root", source[0].parent)
        done = explllm("baseline", "faces.csv", *options)
    # Without labels all eight are asked for, and there are no figures.
    assert done.status == 0 and "no metrics" in done.out
    assert "Contempt" in server.received[0].body["messages"][0]["content"][0]["text"]
    assert table("faces_scripted.csv")["predicted"].tolist() == ["Happiness"] * 3
    sent = {sha256(picture(one)).hexdigest() for one in server.received}
    assert len(sent) == 3
    for one in server.received:
        assert Image.open(io.BytesIO(picture(one))).size in {Image.open(path).size for path in source}


def test_a_second_run_asks_nothing_and_a_changed_picture_anew(baseline, chat_server, knowing, faces, tmp_path):
    with chat_server.ChatServer(knowing()) as server:
        baseline(server.url)
        first = table()
        assert baseline(server.url).status == 0 and len(server.received) == 16
        assert table()["cot"].tolist() == first["cot"].tolist()
        shutil.copy(tmp_path / "secret/person3.png", tmp_path / "secret/person6.png")
        assert baseline(server.url).status == 0
    assert len(server.received) == 18
    assert sha256(picture(server.received[16])).hexdigest() == list(truths(faces))[3]
    assert table()["predicted"][6] == first["predicted"][3]


def test_a_sample_goes_on_from_a_smaller_one(baseline, chat_server, knowing):
    with chat_server.ChatServer(knowing()) as server:
        baseline(server.url, "--sample", 3, "-o", "out.parquet")
        small = table("out.parquet")["image"].tolist()
        baseline(server.url, "--sample", 5, "-o", "out.parquet", "--split", "test")
    large = table("out.parquet")["image"].tolist()
    assert len(small) == 3 and len(large) == 5 and set(small) < set(large) and large == sorted(large)
    assert len(server.received) == 10


def test_broken_pictures_and_refusals(baseline, chat_server, knowing, explllm, faces, tmp_path):
    refused = chat_server.Reply(refusal="I can't help with identifying people.")
    script = knowing({1: refused}, {2: refused, 7: chat_server.Reply("no", status=400)})
    (tmp_path / "secret/person0.png").unlink()
    (tmp_path / "secret/person4.png").write_bytes(b"no picture")
    with chat_server.ChatServer(script) as server:
        done = baseline(server.url, "--max-retries", 0)
    frame = table()
    assert done.status == 1
    assert frame["cot_status"].tolist() == [
        *("failed", "refused", "refused", "answered", "failed", "answered", "answered", "failed")
    ]
    assert "row 1: the image does not exist" in done.err and "row 5: unreadable image" in done.err
    assert frame["cot_reason"][7].startswith("chain of thought: status 400")
    # What a model would not say is a wrong answer; what nobody could look at is none.
    assert frame["unreadable"].notna().tolist() == [True, False, False, False, True, False, False, False]
    assert frame["answer"][1] == refused.refusal and frame["predicted"].notna().sum() == 5
    scored = json.loads(explllm("score", "faces_scripted.parquet", "--json").out)["recognition"]
    assert (scored["count"], scored["no_label"], scored["unanswered"]) == (6, 1, 2)
    assert scored["accuracy"] == pytest.approx(5 / 6)
    metrics = json.loads((tmp_path / "faces_scripted.run/metrics.json").read_text())
    assert metrics["test/unreadable"] == ["secret/person0.png", "secret/person4.png"]


def test_a_model_that_thinks_long_is_given_room(baseline, chat_server, knowing):
    inner = knowing()

    def script(received):
        thinks = received.body["max_tokens"] <= 512
        return chat_server.Reply("", finish_reason="length") if thinks else inner(received)

    with chat_server.ChatServer(script) as server:
        assert baseline(server.url, "--concurrency", 1).status == 0
    assert table()["cot_status"].tolist() == ["answered"] * 8
    with chat_server.ChatServer(lambda received: chat_server.Reply("The", finish_reason="length")) as server:
        done = baseline(server.url, "-o", "never.parquet")
    assert done.status == 1 and "max_tokens" in done.err and table("never.parquet")["unreadable"].notna().all()


def test_a_server_without_schemas_answers_in_words(baseline, chat_server, knowing, faces):
    known = truths(faces)
    words = "### Key Observations\nThe brows.\n### Overall Emotional Interpretation\nAlert.\n### Conclusion\nSurprise."

    def script(received):
        if "response_format" in received.body:
            return chat_server.Reply("unknown field response_format", status=400)
        label = known[sha256(picture(received)).hexdigest()]
        return chat_server.Reply(f"**{label}**" if len(received.body["messages"]) == 1 else words)

    with chat_server.ChatServer(script) as server:
        assert baseline(server.url).status == 0
    frame = table()
    assert frame["predicted"].tolist() == frame["expression"].tolist()
    assert frame["cot"][0].startswith("**Key Observations:** The brows.")


def test_neither_key_nor_picture_is_left_behind(baseline, chat_server, knowing, tmp_path):
    inner = knowing()

    def script(received):
        if received.number % 3 == 0:
            sent = received.body["messages"][0]["content"][1]["image_url"]["url"]
            told = f"bad picture {sent} of {received.headers['authorization']}"
            return chat_server.Reply(told, status=400 if received.number % 2 else 500)
        return inner(received)

    with chat_server.ChatServer(script) as server:
        done = baseline(server.url, "--max-retries", 1)
    written = [path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != "secret"]
    assert any(path.name == "ledger.sqlite" for path in written)
    held = b"".join(path.read_bytes() for path in written) + done.out.encode() + done.err.encode()
    assert server.received[0].headers["authorization"] == f"Bearer {KEY}" and KEY.encode() not in held
    for file in {picture(one) for one in server.received}:
        letters = base64.b64encode(file)
        # The first bytes are those of every JPEG.
        assert file[700:716] not in held and letters[1000:1024] not in held and letters[:24] not in held
    with Ledger(tmp_path / "faces_scripted.run/ledger.sqlite") as ledger:
        [kept] = ledger.conversation("secret/person0.png")[0].request.images
    assert kept.sha256 in {sha256(picture(one)).hexdigest() for one in server.received}


@pytest.mark.parametrize(
    ("models", "message"), [(("another",), "no model 'scripted'"), (401, "key"), (None, "cannot be reached")]
)
def test_what_must_fail_fails_before_a_picture_is_sent(baseline, chat_server, models, message, tmp_path):
    listed = chat_server.Reply("no", status=401) if models == 401 else models or ()
    with chat_server.ChatServer(models=listed) as server:
        done = baseline(server.url if models else "http://127.0.0.1:9/v1")
    assert message in done.error and server.received == []
    assert not (tmp_path / "faces_scripted.parquet").exists()


def test_mistakes(baseline, explllm, faces, tmp_path, capsys):
    url = "http://127.0.0.1:9/v1"
    assert "no model given" in explllm("baseline", faces, "--send-images").error
    assert "unknown label set 'emo'" in baseline(url, "--label-set", "emo").error
    assert "the split 'dev' has no rows" in baseline(url, "--split", "dev").error
    assert "extension '.txt'" in baseline(url, "-o", "out.txt").error
    assert "the price of 'scripted' on" in baseline(url, "--max-cost", 1).error
    assert "the folder does not exist" in baseline(url, "--root", "gone").error
    (tmp_path / "empty").mkdir()
    error = baseline(url, "--root", "empty").error
    assert "none of the 8 images exists" in error and "--root" in error
    with pytest.raises(SystemExit) as ended:
        explllm("baseline", "--help")
    told = capsys.readouterr().out
    assert ended.value.code == 0
    assert "personal data" in told and "explllm score" in told
    unlabeled = table(faces).assign(expression="Contempt")
    Manifest(unlabeled, tmp_path).write(tmp_path / "contempt.parquet")
    options = ("--model", "scripted", "--base-url", url, "--send-images")
    error = explllm("baseline", "contempt.parquet", *options, "--label-set", "rafdb").error
    assert "no row is labeled with a class of rafdb" in error


def test_rows_of_other_classes_are_left_out_and_said(baseline, chat_server, knowing, faces, explllm, tmp_path):
    frame = table(faces)
    frame.loc[[0, 5], "expression"] = "Contempt"
    Manifest(frame, tmp_path).write(faces)
    script = lambda received: chat_server.Reply("Fear" if len(received.body["messages"]) == 1 else json.dumps(COT))  # noqa: E731
    with chat_server.ChatServer(script) as server:
        done = baseline(server.url, "--label-set", "rafdb")
        assert done.status == 0 and len(server.received) == 12
        assert "label is not a class of rafdb 2" in " ".join(done.out.split())
        metrics = json.loads((tmp_path / "faces_scripted.run/metrics.json").read_text())
        assert metrics["test/count"] == 6 and metrics["test/left_out"] == {"Contempt": 2}
        # Without a word of it, Contempt among the labels makes it a class.
        baseline(server.url, "-o", "eight.parquet")
    assert len(server.received) == 28 and set(table("eight.parquet")["label_set"]) == {"affectnet8"}
    asked = [one.body["messages"][0]["content"][0]["text"] for one in server.received]
    assert ["Contempt" in one for one in asked] == [False] * 12 + [True] * 16
    found = json.loads(explllm("score", "eight.parquet", "--json").out)["recognition"]
    assert found["count"] == 8 and found["left_out"] == {} and found["recall"]["Contempt"] == 0
    assert found["accuracy"] == (frame["expression"] == "Fear").sum() / 8


def test_an_out_of_anything_else_is_not_lost(baseline, chat_server, knowing, faces, explllm, tmp_path):
    def contents():
        return {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    with chat_server.ChatServer(knowing(), models=("scripted", "other")) as server:
        assert explllm("cot", "build", faces, "-o", "built.parquet", "--offline").status == 0
        shutil.copy(faces, tmp_path / "mine.parquet")
        before = contents()
        error = baseline(server.url, "-o", faces, "--sample", 3).error
        assert "--out is the input manifest" in error and "--overwrite" in error
        assert "the manifest exists" in baseline(server.url, "-o", "mine.parquet").error
        assert "was made by offline, not by scripted as a baseline" in baseline(server.url, "-o", "built.parquet").error
        assert server.received == [] and contents() == before
        assert baseline(server.url, "-o", "mine.parquet", "--overwrite").status == 0
        # The same run goes on; another model's answers are other ones.
        assert baseline(server.url, "-o", "mine.parquet").status == 0 and len(server.received) == 16
        before = contents()
        error = baseline(server.url, "-o", "mine.parquet", "--model", "other").error
        assert "was made by scripted as a baseline, not by other as a baseline" in error
        error = baseline(server.url, "-o", "new.parquet", "--run-dir", "mine.run", "--model", "other").error
        assert "the run folder belongs to scripted as a baseline" in error
        assert len(server.received) == 16 and contents() == before
        assert baseline(server.url, "-o", "mine.parquet", "--model", "other", "--overwrite").status == 0
    assert set(table("mine.parquet")["cot_source"]) == {"other"}


def test_figures_stay_until_the_server_answers(baseline, chat_server, knowing, tmp_path, monkeypatch):
    with chat_server.ChatServer(knowing()) as server:
        assert baseline(server.url).status == 0
        figures = [tmp_path / "faces_scripted.run" / name for name in ("metrics.json", "predictions.parquet")]
        before = [path.read_bytes() for path in figures]
        assert "cannot be reached" in baseline("http://127.0.0.1:9/v1").error
        monkeypatch.delenv("OPENAI_API_KEY")
        assert "holds no API key" in baseline("https://api.openai.com/v1").error
        assert [path.read_bytes() for path in figures] == before
        # A run folder of a training is none of a baseline, whatever may be overwritten.
        (tmp_path / "runs/rafdb").mkdir(parents=True)
        for name in ("metrics.json", "predictions.parquet"):
            (tmp_path / "runs/rafdb" / name).write_text("a test's")
        for more in ((), ("--overwrite",)):
            error = baseline(server.url, "-o", "new.parquet", "--run-dir", "runs/rafdb", *more).error
            assert "contains files, but not those of a baseline" in error and "--run_dir" in error
        held = {path.name: path.read_text() for path in (tmp_path / "runs/rafdb").iterdir()}
        assert held == dict.fromkeys(("metrics.json", "predictions.parquet"), "a test's")
        assert len(server.received) == 16


def test_a_photograph_without_a_face_is_not_sent(baseline, chat_server, knowing, faces, tmp_path):
    frame = table(faces)
    frame["face_status"] = ["found"] * 6 + ["no face found"] * 2
    frame["box"] = [[2.0, 2.0, 60.0, 60.0]] * 6 + [None] * 2
    Manifest(frame, tmp_path).write(faces)
    with chat_server.ChatServer(knowing()) as server:
        assert "6 pictures of faces would be sent" in baseline(server.url, send=False).error
        done = baseline(server.url, "--label-set", "affectnet7")
        assert done.status == 0 and "skipped: no face found 2" in " ".join(done.out.split())
        whole = [FaceImage("", tmp_path / image, None) for image in frame["image"][6:]]
        unwanted = {encode_face(face, BaselineSettings(LABELS)).sha256 for face in whole}
        sent = {sha256(picture(one)).hexdigest() for one in server.received}
        assert len(server.received) == 12 and len(sent) == 6 and not sent & unwanted
        # They are neither right nor wrong.
        assert table()["unreadable"].fillna("").tolist() == [""] * 6 + ["no face found"] * 2
        metrics = json.loads((tmp_path / "faces_scripted.run/metrics.json").read_text())
        assert metrics["test/count"] == 6 and metrics["test/accuracy"] == 1
        assert metrics["test/unreadable"] == frame["image"][6:].tolist()
        Manifest(frame.iloc[6:], tmp_path).write(faces)
        assert "no row has a detected face" in baseline(server.url, "--overwrite").error
    assert len(server.received) == 12


def test_thoughts_before_an_answer(baseline, chat_server, knowing, faces):
    """They are neither taken for the answer nor sent back."""
    inner = knowing()

    def script(received):
        reply = inner(received)
        return chat_server.Reply(f"<think>Is it Fear? {{}}</think>\n{reply.text}")

    with chat_server.ChatServer(script) as server:
        assert baseline(server.url).status == 0
    frame = table()
    assert frame["predicted"].tolist() == frame["expression"].tolist()
    assert frame["cot"].str.startswith("**Key Observations:** The brows").all()
    assert not any("think" in json.dumps(one.body) for one in server.received)


def test_the_budget_ends_the_run_and_a_larger_one_goes_on(baseline, chat_server, knowing, tmp_path):
    prices = ("--price-in", 1000, "--price-out", 1000, "--concurrency", 1)
    with chat_server.ChatServer(knowing()) as server:
        done = baseline(server.url, *prices, "--max-cost", 6)
        assert done.status == 1 and "not done" in done.out
        assert table()["unreadable"].tolist()[-1] == "not asked yet"
        assert not (tmp_path / "faces_scripted.run/metrics.json").exists()
        sent = len(server.received)
        assert 0 < sent < 16
        assert baseline(server.url, *prices, "--max-cost", 100).status == 0
    assert len(server.received) == 16
    assert (tmp_path / "faces_scripted.run/metrics.json").exists()


def test_ctrl_c_finishes_what_is_in_flight(chat_server, knowing, faces, tmp_path):
    inner, running = knowing(), None

    def script(received):
        if received.number == 5:
            running.send_signal(signal.SIGINT)
        reply = inner(received)
        reply.delay = 0.3
        return reply

    with chat_server.ChatServer(script) as server:
        command = [sys.executable, "-m", "explllm", "baseline", str(faces), "--model", "scripted", "--send-images"]
        command += ["--base-url", server.url, "--concurrency", "2"]

        def start():
            environment = {**os.environ, "OPENAI_API_KEY": KEY}
            return subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )

        running = start()
        out, _ = running.communicate(timeout=600)
        assert running.returncode == 130, out
        assert "of 8 faces are done. Run the same command again to resume" in out and "Traceback" not in out
        assert server.answered == len(server.received) < 16
        assert 0 < table(tmp_path / "faces_scripted.parquet")["cot_status"].notna().sum() < 8
        again = start()
        out, _ = again.communicate(timeout=600)
        assert again.returncode == 0, out
    assert len(server.received) == 16
    assert table(tmp_path / "faces_scripted.parquet")["cot_status"].tolist() == ["answered"] * 8
