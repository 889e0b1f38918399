"""How builds end early or cannot begin, and that nothing is lost by it."""

import asyncio
import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import pytest

from explllm.core.manifest import Manifest
from explllm.engine import progress as progress_module
from explllm.engine.progress import read_progress
from explllm.llm.ledger import Ledger

QUOTA = {"code": "insufficient_quota"}


def progress(path="out.run"):
    return read_progress(Path(path))


def outcomes():
    """How the HTTP requests in the ledger ended, with their number."""
    base = sqlite3.connect("out.run/ledger.sqlite")
    return dict(base.execute("SELECT outcome, COUNT(*) FROM attempts GROUP BY outcome"))


@pytest.fixture
def refusing_after(chat_server, model_script):
    """A server that answers so many requests, after 100 ms, and refuses all others at once."""

    def make(count, status=429, **error):
        def script(received):
            if received.number > count:
                return chat_server.Reply("you exceeded your quota", status=status, error=error)
            return model_script.slow(received)

        return chat_server.ChatServer(script)

    return make


@pytest.mark.parametrize(
    ("status", "error", "remedy"),
    [(429, QUOTA, "Buy credit"), (401, {}, "key"), (402, {}, "Buy credit"), (404, {}, "model's name")],
)
def test_a_refusal_in_mid_run_loses_nothing(build, refusing_after, server, table, status, error, remedy):
    with refusing_after(60, status, **error) as refusing:
        done = build(refusing.url, "--concurrency", 8, count=24)
        answered = refusing.answered
    assert done.status == 2 and remedy in done.err.splitlines()[-1] and "Traceback" not in done.err
    assert "not done" in done.out and f"status {status}" in done.out
    made = table()
    assert len(made) == 24 and 0 < made["cot"].notna().sum() < 24
    assert progress()["state"] == "stopped" and progress()["done"] == made["cot_status"].notna().sum()
    # What was in flight has been waited for: each answer that was paid for is recorded.
    assert outcomes()["answered"] == answered == 60 and "canceled" not in outcomes()
    build(server.url)
    assert table()["cot_status"].notna().all()
    assert outcomes()["answered"] == answered + server.answered
    assert table()["cot"][made["cot"].notna()].equals(made["cot"].dropna())


def test_what_an_earlier_run_has_done_stays_when_a_later_one_cannot_go_on(
    build, chat_server, model_script, refusing_after, table
):
    def script(received):
        if received.number == 1:  # of the first face
            return chat_server.Reply("I do not understand", status=400)
        return chat_server.Reply(model_script.answer(received))

    with chat_server.ChatServer(script) as server:
        build(server.url, "--concurrency", 1, count=20)
    made = table()
    assert made["cot_status"][0] == "failed" and made["cot_status"].notna().all()
    with refusing_after(0, **QUOTA) as refusing:
        done = build(refusing.url, "--concurrency", 4)
        assert 1 <= len(refusing.received) <= 4
    assert done.status == 2
    now = table()
    assert pd.isna(now["cot_status"][0]) and now["cot"][1:].equals(made["cot"][1:])


def test_the_budget_too_leaves_what_an_earlier_run_has_done(build, server, chat_server, model_script, table):
    def script(received):
        if received.number == 1:
            return chat_server.Reply("I do not understand", status=400)
        return chat_server.Reply(model_script.answer(received))

    prices = ("--price-in", 1000, "--price-out", 1000)
    with chat_server.ChatServer(script) as first:
        build(first.url, *prices, "--concurrency", 1, count=12)
    made = table()
    done = build(server.url, *prices, "--max-cost", 0.1)
    assert done.status == 1 and "is spent" in done.out and server.received == []
    with Ledger("out.run/ledger.sqlite") as ledger:
        assert ledger.totals().cost > 0 and f"cost {ledger.totals().cost:.2f} USD" in done.out
    assert table()["cot"][1:].equals(made["cot"][1:])


def test_a_build_that_cannot_begin_leaves_the_status(build, server, chat_server, model_script, explllm):
    build(server.url, count=4)
    before = progress()
    assert before["state"] == "done"
    with chat_server.ChatServer(model_script.answer, models=chat_server.Reply("no", status=401)) as refusing:
        assert "key" in build(refusing.url).error
    assert "cannot be reached" in build("http://127.0.0.1:9/v1").error
    assert progress() == before
    assert "done: 4 of 4 faces" in explllm("cot", "status", "out.parquet").out


def test_a_second_build_leaves_the_status_of_the_first(
    build, chat_server, model_script, explllm, write_faces, tmp_path, process, wait_for
):
    write_faces(tmp_path / "faces.parquet", 30)
    looked = threading.Event()

    def script(received):
        # The first build waits in the middle while the second one is refused.
        assert received.number < 50 or looked.wait(600)
        return chat_server.Reply(model_script.answer(received))

    with chat_server.ChatServer(script) as server:
        first = process(
            "cot", "build", tmp_path / "faces.parquet", "-o", tmp_path / "out.parquet", "--model", "scripted",
            "--base-url", server.url, "--concurrency", 2,
        )  # fmt: skip
        wait_for(lambda: progress().get("done", 0) > 3)
        assert "another run is writing this file" in build(server.url).error
        printed = explllm("cot", "status", "out.parquet").out
        assert printed.startswith("running:") and 3 < progress()["done"] < 30, printed
        looked.set()
        first.communicate(timeout=600)
    assert progress()["state"] == "done"


def test_a_run_gives_signs_of_life_while_no_face_ends(build, chat_server, model_script, monkeypatch, wait_for):
    monkeypatch.setattr(progress_module, "_HEARTBEAT", 0.05)
    seen = []

    def script(received):
        if received.number == 1:
            for _ in range(3):
                seen.append((progress()["updated"], progress()["done"]))
                wait_for(lambda: progress()["updated"] > seen[-1][0])
        return chat_server.Reply(model_script.answer(received))

    with chat_server.ChatServer(script) as server:
        build(server.url, count=1)
    assert [done for _, done in seen] == [0, 0, 0]
    assert seen[0][0] < seen[1][0] < seen[2][0]
    assert progress()["state"] == "done"


class LoopWithoutSignals(asyncio.SelectorEventLoop):
    """Like that of Windows."""

    def add_signal_handler(self, *_):
        raise NotImplementedError


@pytest.mark.parametrize("loop", [None, LoopWithoutSignals])
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_on_every_system(build, chat_server, model_script, monkeypatch, table, send_signal, loop, times):
    """A second one waits for nothing, not for the answer in flight either."""
    if loop is not None:
        monkeypatch.setattr(asyncio, "new_event_loop", loop)
    before = signal.getsignal(signal.SIGINT)

    def script(received):
        if received.number == 6:
            for _ in range(times):
                send_signal(signal.SIGINT)
            return chat_server.Reply(model_script.answer(received), delay=0.0 if times == 1 else 3600.0)
        return chat_server.Reply(model_script.answer(received))

    with chat_server.ChatServer(script) as server:
        start = time.monotonic()
        done = build(server.url, "--concurrency", 1, count=8)
        assert time.monotonic() - start < 1800
        assert len(server.received) == 6
    assert done.status == 130 and "Traceback" not in done.err and "interrupted" in done.err
    assert signal.getsignal(signal.SIGINT) is before
    assert progress()["state"] == "stopped"
    if times == 1:
        assert "1 of 8 faces are done. Run the same command again to resume." in done.err
        assert table()["cot_status"].notna().sum() == 1 and outcomes() == {"answered": 6}


def test_nothing_is_overwritten_without_being_asked(build, server, explllm, tmp_path, table):
    build(server.url, count=4)
    made = (tmp_path / "out.parquet").read_bytes()
    offline = ("cot", "build", "faces.parquet", "--offline", "-o")
    assert "made by scripted, not by offline" in explllm(*offline, "out.parquet").error
    assert "--out is the input manifest" in explllm(*offline, "faces.parquet").error
    assert "--out is the input manifest" in explllm(*offline, tmp_path / "x" / ".." / "faces.parquet").error
    table().to_parquet("other.parquet")
    assert "the manifest exists" in explllm(*offline, "other.parquet").error
    assert (tmp_path / "out.parquet").read_bytes() == made
    assert table("faces.parquet").columns.tolist() == ["image", "expression", "action_units", "action_units_source"]
    assert explllm(*offline, "other.parquet", "--overwrite").status == 0
    assert set(table("other.parquet")["cot_source"]) == {"offline"}
    # Its own folder is there now.
    assert explllm(*offline, "other.parquet").status == 0


@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_rows_that_are_not_done_keep_their_texts(explllm, write_faces, tmp_path, table, ending):
    frame = Manifest.read(write_faces(tmp_path / "faces.parquet", 4)).frame
    frame["cot"] = [f"paid {row}" for row in range(4)]
    frame["cot_source"] = "gpt-4o"
    frame["cot_rounds"], frame["cot_cost"] = [1, 2, 3, 4], [0.1, 0.2, 0.3, 0.4]
    frame["cot_status"] = "accepted"
    frame.at[1, "action_units"] = None
    frame.at[2, "expression"] = None
    Manifest(frame, tmp_path).write(tmp_path / f"faces{ending}")
    done = explllm("cot", "build", f"faces{ending}", "-o", f"out{ending}", "--offline", "--json", "out.json")
    assert done.status == 0
    made = table(f"out{ending}")
    assert made["cot_source"].tolist() == ["offline", "gpt-4o", "gpt-4o", "offline"]
    assert made["cot"].tolist()[1:3] == ["paid 1", "paid 2"]
    assert made["cot_rounds"].tolist() == [0, 2, 3, 0] and made["cot_cost"].tolist() == [0, 0.2, 0.3, 0]
    assert len(json.loads((tmp_path / "out.json").read_text())) == 2


@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_square_brackets_are_no_markup(explllm, write_faces, tmp_path, ending):
    frame = Manifest.read(write_faces(tmp_path / "faces.parquet", 3)).frame
    frame["image"] = ["a[red].jpg", "[/b].jpg", "c.jpg"]
    frame["cot"] = ["**Key Observations:** [/i] **Conclusion:** joy", None, None]
    frame["cot_source"] = ["[bold]model[/bold]", None, None]
    frame["cot_status"] = ["accepted", "failed", None]
    frame["cot_reason"] = [None, "des2exp: no parsable answer in 3 attempts, last: '[/b][red]'", None]
    place = tmp_path / f"[red]{ending}"
    Manifest(frame, tmp_path).write(place)
    first, second, third = (explllm("cot", "show", place, row).out for row in (1, 2, 3))
    assert first.startswith("a[red].jpg: ") and "accepted" in first and "nan" not in first
    assert "[/i]" in first and "([bold]model[/bold])" in first
    assert "last: '[/b][red]'" in second and "[/b].jpg" in second
    assert "not done" in third and "nan" not in third
    assert "[red]" in explllm("cot", "check", place).out
    assert "[/b]/out" in explllm("cot", "build", "faces.parquet", "-o", f"[/b]/out{ending}", "--offline").out
    assert "[/b]model" in explllm("cot", "estimate", place, "--model", "[/b]model").out


def test_units_that_were_not_measured_are_shown_as_such(explllm, write_faces, tmp_path, table):
    frame = Manifest.read(write_faces(tmp_path / "faces.parquet", 20)).frame
    dead = "Nose Wrinkle, Chin Raise"
    frame["action_units"] = [[*units[:20], 0.0, *units[21:23], 0.0] for units in frame["action_units"]]
    frame["action_units_missing"] = dead
    Manifest(frame, tmp_path).write(tmp_path / "faces.parquet")
    assert explllm("cot", "build", "faces.parquet", "-o", "out.parquet", "--offline").status == 0
    assert not any("nose" in cot or "chin" in cot for cot in table()["cot"])
    assert f"not measured: {dead}" in explllm("cot", "show", "out.parquet", 1).out


def test_an_out_of_another_manifest_is_not_replaced(explllm, write_faces, tmp_path):
    write_faces(tmp_path / "few.parquet", 3)
    write_faces(tmp_path / "more.parquet", 5)
    assert explllm("cot", "build", "few.parquet", "-o", "out.parquet", "--offline").status == 0
    error = explllm("cot", "build", "more.parquet", "-o", "out.parquet", "--offline").error
    assert "few.parquet, not of" in error and "--overwrite" in error
    # The run folder is that of all endings; a file that it did not make is none of its own.
    (tmp_path / "out.jsonl").write_text('{"image": "mine.jpg"}\n')
    assert "exists" in explllm("cot", "build", "few.parquet", "-o", "out.jsonl", "--offline").error
    assert "mine.jpg" in (tmp_path / "out.jsonl").read_text()
    # What it made stays its own, in every ending.
    assert explllm("cot", "build", "few.parquet", "-o", "out.csv", "--offline").status == 0
    assert explllm("cot", "build", "few.parquet", "-o", "out.parquet", "--offline").status == 0
    # A file of the same name elsewhere is none of it.
    (tmp_path / "other").mkdir()
    (tmp_path / "other/out.csv").write_text("image\nmine.jpg\n")
    elsewhere = ("cot", "build", "few.parquet", "-o", "other/out.csv", "--run-dir", "out.run", "--offline")
    assert "exists" in explllm(*elsewhere).error
    # A progress file that nobody can read says nothing.
    (tmp_path / "out.run/progress.json").write_text("[]")
    assert "exists" in explllm("cot", "build", "few.parquet", "-o", "out.parquet", "--offline").error
    (tmp_path / "out.run/progress.json").write_text('{"state"')
    assert "exists" in explllm("cot", "build", "few.parquet", "-o", "out.parquet", "--offline").error


def test_what_cannot_be_written_is_said_before_anything_is_sent(build, server, explllm, write_faces, tmp_path):
    write_faces(tmp_path / "faces.parquet", 3)
    frame = Manifest.read("faces.parquet").frame
    frame["subject"] = [1, "s4", 2]
    Manifest(frame, tmp_path).write("mixed.jsonl")
    asked = ("cot", "build", "mixed.jsonl", "--model", "scripted", "--base-url", server.url)
    assert "cannot represent" in explllm(*asked, "-o", "mixed.parquet").error
    (tmp_path / "folder.json").mkdir()
    assert "a folder" in build(server.url, "--json", "folder.json").error
    (tmp_path / "file").write_text("")
    assert "the file cannot be written" in build(server.url, "--run-dir", "file/run").error
    assert server.received == []


def test_a_disk_that_fills_up(write_faces, tmp_path):
    """The answers are in the ledger; what cannot be written is one line, and the run is not said to go on."""
    import resource

    write_faces(tmp_path / "faces.parquet", 300)
    most = 80_000  # more than the manifest takes without texts
    done = subprocess.run(
        [sys.executable, "-m", "explllm", *["cot", "build", "faces.parquet", "-o", "out.jsonl", "--offline"]],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)),
    )
    assert done.returncode == 2 and done.stderr.startswith("error: the manifest cannot be written (File too large)")
    assert len(done.stderr.splitlines()) == 1 and not (tmp_path / "out.jsonl").exists()
    assert read_progress(tmp_path / "out.run")["state"] == "stopped"


def test_faces_of_one_image_in_the_released_layout(explllm, write_faces, tmp_path):
    frame = Manifest.read(write_faces(tmp_path / "faces.parquet", 2)).frame
    frame["image"], frame["box"] = "party.jpg", [[0, 0, 9, 9], [20, 0, 9, 9]]
    Manifest(frame, tmp_path).write("faces.parquet")
    assert explllm("cot", "build", "faces.parquet", "-o", "o.parquet", "--json", "o.json", "--offline").status == 0
    found = json.loads(explllm("cot", "check", "o.json", "--json").out)
    assert found["texts"] == found["sound"] == found["grounded"] == 2


def test_what_a_row_held_before_is_kept_whatever_it_is(explllm, write_faces, tmp_path, table):
    frame = Manifest.read(write_faces(tmp_path / "faces.parquet", 3)).frame
    frame["cot_status"], frame["cot_rounds"] = [1, 2, None], [1, 2.5, None]
    frame["action_units"] = [None, None, frame["action_units"][2]]
    Manifest(frame, tmp_path).write("faces.parquet")
    assert explllm("cot", "build", "faces.parquet", "-o", "out.parquet", "--offline").status == 0
    made = table()
    assert made["cot_status"].tolist() == ["1.0", "2.0", "accepted"]
    assert made["cot_rounds"].astype(object).where(made["cot_rounds"].notna(), None).tolist() == [1, None, 0]
