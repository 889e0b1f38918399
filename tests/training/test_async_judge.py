"""Judging during training: training neither waits for the judge nor fails with it."""

import json
import shutil
import threading
import time

import pandas as pd
import pytest
import yaml
from PIL import Image

from explllm.core.expressions import Expression
from explllm.core.manifest import Manifest
from explllm.metrics.judges.rules import OfflineJudge
from explllm.training.callbacks.async_judge import AsyncJudge
from explllm.training.sample import fixed_sample

GOOD = '{"key_observations": 3, "overall_emotional_interpretation": 3, "conclusion": 0}'


@pytest.fixture
def fit(explllm, small_settings, tmp_path):
    """Train the small model with callbacks; return the finished command and its seconds."""

    def run(*callbacks, epochs=2, data=()):
        settings = json.loads(json.dumps(small_settings))
        if "class_path" in data:
            kept = ("batch_size", "micro_batch_size")
            own = {name: settings["data"]["init_args"][name] for name in kept}
            settings["data"] = {**data, "init_args": own | data["init_args"]}
        else:
            settings["data"]["init_args"] |= dict(data)
        settings["trainer"] |= {"max_epochs": epochs, "callbacks": list(callbacks)}
        (tmp_path / "judged.yaml").write_text(yaml.safe_dump(settings))
        start = time.monotonic()
        done = explllm("fit", "--config", "judged.yaml")
        return done, time.monotonic() - start

    return run


def judge(judge="offline", faces=3, drain_seconds=600.0, **chat):
    """Return the callback's settings; `chat` goes to its `ChatSettings`."""
    chat = {"timeout": 600.0, "max_retries": 2, **chat} if chat else None
    init_args = {"judge": judge, "faces": faces, "drain_seconds": drain_seconds, "chat": chat}
    return {"class_path": "AsyncJudge", "init_args": init_args}


@pytest.fixture
def at_the_end(monkeypatch):
    """Calls a function when training has ended, before the callback waits for pending scores."""

    def hook(action):
        end = AsyncJudge.on_fit_end
        monkeypatch.setattr(AsyncJudge, "on_fit_end", lambda *arguments: (action(), end(*arguments)))

    return hook


def noted(tmp_path):
    return [json.loads(line) for line in (tmp_path / "runs/small/judge.jsonl").read_text().splitlines()]


def logged(tmp_path):
    [path] = (tmp_path / "runs/small/logs").glob("*/metrics.csv")
    frame = pd.read_csv(path)
    return frame[frame["judge/score"].notna()] if "judge/score" in frame else frame.iloc[:0]


def test_scores_stand_under_the_step_that_made_them(fit, chat_server, tmp_path):
    with chat_server.ChatServer(lambda received: chat_server.Reply(GOOD, delay=0.3)) as server:
        done, _ = fit(judge(judge="scripted", base_url=server.url))
    assert (done.status, done.err) == (0, "")
    rows = noted(tmp_path)
    steps = sorted({row["step"] for row in rows})
    assert len(rows) == len(server.received) == 6 and len(steps) == 2
    assert [row["score"] for row in rows] == [pytest.approx(0.4)] * 6
    assert all(row["judge"].startswith("scripted, prompt ") for row in rows)
    # The same faces after every validation.
    assert len({tuple(sorted(row["image"] for row in rows if row["step"] == step)) for step in steps}) == 1
    table = logged(tmp_path)
    assert table["judge/score"].tolist() == [pytest.approx(0.4)] * 2
    # The loggers show them with the metrics of the same validation, whose step numbers start at 0.
    [path] = (tmp_path / "runs/small/logs").glob("*/metrics.csv")
    validated = pd.read_csv(path).dropna(subset="val/accuracy")["step"].tolist()
    assert table["step"].tolist() == validated == [step - 1 for step in steps]
    metrics = json.loads((tmp_path / "runs/small/metrics.json").read_text())
    assert metrics["judge/score"] == pytest.approx(0.4) and metrics["judge/step"] == steps[-1]
    assert metrics["judge/name"].startswith("scripted, prompt ") and "fit/steps" in metrics


def test_the_offline_judge(fit, drawn_faces, tmp_path):
    done, _ = fit({"class_path": "Gallery", "init_args": {"faces": 3}}, judge(), epochs=1)
    assert (done.status, done.err) == (0, "")
    # The gallery has the texts of the same step, the manifest the references.
    written = pd.read_csv(tmp_path / "runs/small/gallery/explained.csv").set_index("image")["cot"].fillna("")
    manifest = Manifest.read(drawn_faces / "manifest.parquet")
    rows = {str(manifest.image_path(row)): manifest.frame["cot"][row] for row in range(len(manifest))}
    found = noted(tmp_path)
    assert len(found) == 3
    for row in found:
        expected = OfflineJudge().compare(written[row["image"]], rows[row["image"]])
        assert row["score"] == pytest.approx(expected.score) and row["judge"].startswith("offline")


def test_a_key_that_is_missing_is_told_before_training(fit, monkeypatch, tmp_path):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    assert "OPENAI_API_KEY holds no API key" in fit(judge(judge="gpt-4o"))[0].error
    assert not (tmp_path / "runs").exists()


def test_nothing_waits_for_the_judge(fit, chat_server, at_the_end, tmp_path):
    """Three validations of three faces each end before the first answer can arrive."""
    with chat_server.ChatServer(lambda received: chat_server.Reply(GOOD, delay=3600.0)) as server:
        at_the_end(lambda: server.wait_for(lambda server: len(server.received) == 9))
        done, seconds = fit(judge(judge="scripted", base_url=server.url, drain_seconds=0.5), epochs=3)
    assert done.status == 0 and seconds < 1800
    assert len(server.received) == 9 and server.answered == 0
    assert [row["missing"] for row in noted(tmp_path)] == ["no answer before the end of training"] * 9
    # Client and ledger are closed: SQLite has removed its log.
    assert not list((tmp_path / "runs/small").glob("judge.sqlite-*al"))


def test_what_is_late_is_waited_for_at_the_end(fit, chat_server, at_the_end, tmp_path):
    ended = threading.Event()
    at_the_end(ended.set)

    def script(received):
        assert ended.wait(600)
        return chat_server.Reply(GOOD, delay=0.1)

    with chat_server.ChatServer(script) as server:
        done, _ = fit(judge(judge="scripted", base_url=server.url), epochs=1)
    assert (done.status, done.err) == (0, "")
    assert [row["score"] for row in noted(tmp_path)] == [pytest.approx(0.4)] * 3


def test_a_budget_of_another_server(fit, chat_server, tmp_path):
    with chat_server.ChatServer(lambda received: chat_server.Reply(GOOD)) as server:
        there = {"judge": "scripted", "base_url": server.url, "max_cost": 0.02}
        assert "price_in" in fit(judge(**there))[0].error
        # A request is sent only if the budget covers its maximum cost.
        done, _ = fit(judge(**there, price_in=1.0, price_out=1.0, concurrency=1), epochs=2)
        assert (done.status, done.err) == (0, "") and len(server.received) == 6
        done, _ = fit(judge(**there, price_in=100.0, price_out=100.0, concurrency=1), epochs=3)
    assert done.status == 0 and "gave no score" in done.err and "are missing" in done.err
    assert len(server.received) == 6


@pytest.mark.parametrize("callback", ["AsyncJudge", "Gallery"])
def test_a_face_of_the_sample_that_cannot_be_read(fit, drawn_faces, tmp_path, callback):
    shutil.copytree(drawn_faces, tmp_path / "broken")
    manifest = Manifest.read(tmp_path / "broken/manifest.parquet")
    faces = manifest.frame[manifest.frame["split"] == "val"]
    first, second = fixed_sample(faces, 2)
    manifest.image_path(first).write_bytes(b"no image")
    broken = {"folder": str(tmp_path / "broken"), "max_unreadable": 1}
    done, _ = fit({"class_path": callback, "init_args": {"faces": 2}}, data=broken)
    assert done.status == 0, done.err
    assert "image 1 of at most 1 that cannot be read" in done.err
    if callback == "AsyncJudge":
        shown = [row["image"] for row in noted(tmp_path)]
    else:
        shown = pd.read_csv(tmp_path / "runs/small/gallery/explained.csv")["image"].tolist()
    assert shown == [str(manifest.image_path(second))] * 2


def test_two_faces_of_one_image(fit, drawn_faces, tmp_path):
    """Both are judged, each with its own crop of the image."""
    frame = Manifest.read(drawn_faces / "manifest.parquet").frame
    faces = frame[frame["split"] == "val"].index[:2]
    wide = Image.new("RGB", (128, 64))
    for place, row in enumerate(faces):
        wide.paste(Image.open(drawn_faces / frame["image"][row]), (64 * place, 0))
    wide.save(tmp_path / "wide.png")
    frame["image"] = [str(drawn_faces / name) for name in frame["image"]]
    frame["box"] = None
    for place, row in enumerate(faces):
        frame.at[row, "image"], frame.at[row, "box"] = str(tmp_path / "wide.png"), [64 * place + 6, 6, 52, 52]
    kept = frame[(frame["split"] != "val") | frame.index.isin(faces)]
    Manifest(kept, tmp_path).write(tmp_path / "two.parquet")
    data = {"class_path": "ManifestFaces", "init_args": {"manifest": str(tmp_path / "two.parquet")}}
    done, _ = fit(judge(faces=2), epochs=1, data=data)
    assert (done.status, done.err) == (0, "")
    assert [(row["image"], row["box"][0]) for row in noted(tmp_path)] == [
        (str(tmp_path / "wide.png"), 6),
        (str(tmp_path / "wide.png"), 70),
    ]


@pytest.mark.parametrize("kind", ["hangs", "dies", "unreachable", "refuses", "talks"])
def test_a_judge_that_fails_is_warned_of_once(fit, chat_server, tmp_path, kind):
    replies = {
        "hangs": chat_server.Reply(GOOD, delay=3600),
        "dies": chat_server.Reply("no", status=401),
        "refuses": chat_server.Reply(refusal="I will not."),
        "talks": chat_server.Reply("Very good."),
    }
    with chat_server.ChatServer(lambda received: replies[kind]) as server:
        url = "http://127.0.0.1:9/v1" if kind == "unreachable" else server.url
        # The judge that hangs is given up soon; the others fail by themselves.
        drain = 1.0 if kind == "hangs" else 600.0
        done, seconds = fit(judge(judge="scripted", base_url=url, drain_seconds=drain))
    assert done.status == 0 and seconds < 1800
    warnings = done.err.splitlines()
    assert sum("gave no score" in line for line in warnings) == (0 if kind == "hangs" else 1), warnings
    assert sum("6 of 6 judgments are missing" in line for line in warnings) == 1, warnings
    assert (tmp_path / "runs/small/model").is_dir()
    assert len(noted(tmp_path)) == 6 and all(row["missing"] for row in noted(tmp_path))


def test_a_gallery(fit, tmp_path):
    done, _ = fit({"class_path": "Gallery", "init_args": {"faces": 2}}, judge())
    assert done.status == 0
    pages = sorted((tmp_path / "runs/small/gallery").glob("step_*.html"))
    assert len(pages) == 2
    page = pages[0].read_text()
    assert page.count("<article>") == 2 and "data:image/jpeg;base64," in page
    assert "drawn by a program" in page
    table = pd.read_csv(tmp_path / "runs/small/gallery/explained.csv")
    assert len(table) == 4 and table["image"].nunique() == 2
    assert set(table["predicted"]) <= {str(label) for label in Expression}
    assert all(f"{row.predicted}" in pages[place // 2].read_text() for place, row in enumerate(table.itertuples()))
    assert table["probability"].between(0, 1).all()


def test_bad_settings(fit):
    assert "`faces` must be at least 1 and `drain_seconds` at least 0, got 0" in fit(judge(faces=0))[0].error
    assert "`faces` must be at least 1, got 0" in fit({"class_path": "Gallery", "init_args": {"faces": 0}})[0].error
