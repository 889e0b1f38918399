"""A server with all faults: every row ends accepted or failed with a reason, and a healthy rerun completes the rest."""

import json
import re
import signal

import pytest

from explllm.core.manifest import Manifest
from explllm.engine.build import with_outcomes
from explllm.engine.face import Outcome, Status
from explllm.engine.outcomes import OutcomeStore
from explllm.engine.progress import BuildIdentity
from explllm.llm.ledger import Ledger

UNPRINTABLE = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]")


def faults(chat_server, model_script, key):
    """Each fault and the status that it leads to; a fault is met by one face, in every request about it."""
    answer, reply = model_script.answer, chat_server.Reply

    def content(change):
        """Change the message's content in the server's JSON."""

        def script(received):
            body = json.loads(reply(answer(received)).body("scripted"))
            body["choices"][0]["message"]["content"] = change(answer(received))
            return reply(raw=json.dumps(body))

        return script

    def usage(number):
        """Report a number, as JSON, of tokens."""

        def script(received):
            return reply(
                raw=reply(answer(received))
                .body("scripted")
                .replace('"prompt_tokens": 100', f'"prompt_tokens": {number}')
            )

        return script

    def inside(text):
        """Insert text into the strings of structured answers, as JSON escapes, and of plain answers."""

        def script(received):
            said = answer(received)
            if model_script.purpose(received.body) == "refinement":
                return reply(said.replace('{"key_observations": "', '{"key_observations": "' + text))
            return reply(said)

        return script

    def always(**fields):
        return lambda received: reply(**{"text": answer(received), **fields})

    def only(purpose, **fields):
        return lambda received: reply(
            **{"text": answer(received), **(fields if model_script.purpose(received.body) == purpose else {})}
        )

    def once(**fields):
        received_before = []

        def script(received):
            received_before.append(received)
            return reply(**{"text": answer(received), **(fields if len(received_before) == 1 else {})})

        return script

    accepted, failed = ("accepted",), ("failed",)
    either = ("accepted", "failed")
    return {
        "lone surrogate inside JSON": (inside("\\ud83d "), either),
        "escape sequences inside JSON": (inside("\\u0000\\u001b[31m\\u202e"), accepted),
        "control characters": (content(lambda said: f"\x1b[2J\0\u202e{said}"), either),
        "lone surrogate": (content(lambda said: f"{said}\ud83d"), either),
        "content in parts": (content(lambda said: [{"type": "text", "text": said}]), accepted),
        "content is a number": (content(lambda said: 7), failed),
        "content is null": (content(lambda said: None), failed),
        "empty content": (always(text=""), failed),
        "oversized answer": (only("au2des", text="x " * 2_500_000), failed),
        "usage of a billion": (always(usage=(10**9, 10**9)), accepted),
        "negative usage": (always(usage=(-1, -1)), accepted),
        "usage as strings": (always(usage=("100", "20")), accepted),
        "usage is missing": (always(usage=None), accepted),
        "always truncated": (always(finish_reason="length"), failed),
        "truncated once": (once(finish_reason="length"), accepted),
        "400": (always(status=400), failed),
        "403 of a content policy": (always(status=403), failed),
        "413": (always(status=413), failed),
        "422": (always(status=422, raw='{"detail": [{"msg": "no"}]}'), failed),
        "408": (always(status=408), failed),
        "409": (always(status=409), failed),
        "429 forever": (always(status=429, headers={"Retry-After": "0"}), failed),
        "429 for an hour": (once(status=429, headers={"Retry-After": "3600"}), accepted),
        "500": (always(status=500), failed),
        "502 with HTML": (always(status=502, raw="<html>bad gateway</html>"), failed),
        "503 with a date": (once(status=503, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}), accepted),
        "504": (always(status=504), failed),
        "error with the key": (always(status=500, text=f"x{key}y"), failed),
        "dropped connection": (always(drop=True), failed),
        "half an answer": (always(cut=40), failed),
        "half an answer once": (once(cut=40), accepted),
        "no JSON": (always(raw="<html>busy</html>"), failed),
        "JSON null": (always(raw="null"), failed),
        "no choices": (always(raw='{"choices": []}'), failed),
        "choices are null": (always(raw='{"choices": null}'), failed),
        "error as 200": (always(raw='{"error": {"message": "upstream"}}'), failed),
        "no message": (always(raw='{"choices": [{"finish_reason": "stop"}]}'), failed),
        "not UTF-8": (always(raw="\udcff"), failed),
        "timeout": (always(delay=3600.0), failed),
        "never a label": (only("des2exp", text="It could be many things."), failed),
        "never a verdict": (only("verification", text="maybe"), failed),
        "sections are numbers": (only("refinement", text='{"key_observations": 1, "conclusion": NaN}'), failed),
        "deeply nested JSON": (only("refinement", text="[" * 100_000), failed),
        "only reasoning": (always(text="<think>I wonder"), failed),
        "deeply nested body": (always(raw="[" * 100_000), failed),
        "choices by name": (always(raw='{"choices": {"0": {}}}'), failed),
        "content is an object": (content(lambda said: {"text": said}), failed),
        "content of bare strings": (content(lambda said: [said]), failed),
        "a number of 5,000 digits": (always(raw=f'{{"choices": {"9" * 5000}}}'), failed),
        "usage is infinite": (usage("1e999"), accepted),
        "event stream": (always(raw="data: {}\n\n"), failed),
        "204": (always(status=204, raw=""), failed),
        "error is a string": (always(status=400, raw='{"error": "no"}'), failed),
        "error of wrong types": (
            always(
                status=400,
                raw='{"error": {"message": {"a": 1}, "code": ["unsupported_value"], "param": ["max_tokens"]}}',
            ),
            failed,
        ),
        "deeply nested error": (always(status=500, raw="[" * 100_000), failed),
        "not gzip": (always(headers={"Content-Encoding": "gzip"}), failed),
        "429 until infinity": (once(status=429, headers={"Retry-After": "1e999"}), accepted),
    }


@pytest.fixture
def faulty(chat_server, model_script, write_faces, tmp_path, key):
    """A server in which each face of ``faces.parquet`` meets another fault, and the faults by face."""
    cases = faults(chat_server, model_script, key)
    write_faces(tmp_path / "faces.parquet", len(cases), seed=5)
    units = [list(row) for row in Manifest.read(tmp_path / "faces.parquet").frame["action_units"]]
    scripts = dict(zip(map(str, units), cases.values(), strict=True))
    assert len(scripts) == len(cases)

    def script(received):
        # Every request about a face states its units; the label is asked for from a description alone.
        text = received.body["messages"][0]["content"]
        if model_script.purpose(received.body) == "des2exp":
            face = described[text.partition("Description: ")[2].partition("\n\nAn earlier answer to this")[0].strip()]
            return scripts[face][0](received)
        face = str(model_script.units_of(text))
        described[model_script.WRITER.write(units_of_face[face], model_script.guess(units_of_face[face])).text] = face
        return scripts[face][0](received)

    described, units_of_face = Described(), dict(zip(scripts, units, strict=True))
    with chat_server.ChatServer(script) as server:
        yield server, cases


class Described(dict):
    """The face by its description; a description that a fault has changed still contains the original."""

    def __missing__(self, description):
        letters = re.sub(r"\W", "", description)
        return next((face for text, face in self.items() if re.sub(r"\W", "", text)[:80] in letters), "")


def test_all_faults(faulty, build, server, table, explllm, key, tmp_path, monkeypatch):
    import tenacity

    monkeypatch.setattr("explllm.llm.client._BACKOFF", tenacity.wait_fixed(0.01))
    bad, cases = faulty
    prices = ("--price_in", 1, "--price_out", 1, "--max_cost", 2)
    done = build(bad.url, *prices, "--timeout", 8, "--max_retries", 1, "--max_wait", 0.1, "--json", "out.json")
    frame = table()
    assert done.status == 1 and "Traceback" not in done.err
    outcomes = dict(zip(cases, frame["cot_status"], strict=True))
    reasons = dict(zip(cases, frame["cot_reason"].fillna(""), strict=True))
    for name, (_, expected) in cases.items():
        assert outcomes[name] in expected, (name, outcomes[name], reasons[name])
        assert (outcomes[name] == "failed") == bool(reasons[name]), name
    assert "characters" in reasons["oversized answer"] and "status 403" in reasons["403 of a content policy"]
    texts = [*frame["cot"].dropna(), *frame["cot_reason"].dropna(), done.out, done.err]
    assert not any(UNPRINTABLE.search(text) for text in texts)
    # Every format holds the table; nothing is sent for it that was answered.
    for ending in (".csv", ".jsonl"):
        explllm("cot", "build", "faces.parquet", "-o", f"out{ending}", "--run_dir", "out.run", "--model", "scripted",
                "--base_url", server.url, *prices, "--max_cost", 0, "--overwrite")  # fmt: skip
        assert table(f"out{ending}")["cot_status"].notna().sum() >= (frame["cot_status"] == "accepted").sum()
    for row in range(1, 5):
        assert not UNPRINTABLE.search(explllm("cot", "show", "out.parquet", row).out)
    # A healthy server completes what the faults failed, and is asked nothing else.
    before = [name for name in cases if outcomes[name] == "failed"]
    assert server.received == []
    again = build(server.url, *prices)
    healed = table()
    assert again.status == 0 and healed["cot_status"].str.startswith("accepted").all(), healed["cot_reason"].dropna()
    assert len(server.received) <= 6 * len(before)
    kept = frame["cot_status"] == "accepted"
    assert healed["cot"][kept].tolist() == frame["cot"][kept].tolist()
    with Ledger("out.run/ledger.sqlite") as ledger:
        assert ledger.totals().cost_upper_bound <= 2
    assert not any(key.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_unusable_answers_are_requested_in_three_runs_and_redo_forces_more(build, chat_server, server, table):
    empty = chat_server.ChatServer(lambda received: chat_server.Reply(""))
    with empty:
        received = []
        for _ in range(4):
            done = build(empty.url, count=2)
            received.append(len(empty.received))
            assert done.status == 1 and table()["cot_status"].eq("failed").all()
        assert received == [6, 12, 18, 18] and "--redo failed" in done.err
    assert build(server.url).status == 1 and server.received == []
    assert build(server.url, "--redo", "failed").status == 0
    assert table()["cot_status"].eq("accepted").all() and server.received
    # Accepted rows are not redone.
    before = len(server.received)
    assert build(server.url, "--redo", "failed").status == 0 and len(server.received) == before


def test_refusals_are_final_until_redo(build, chat_server, server, table):
    with chat_server.ChatServer(lambda received: chat_server.Reply(refusal="no faces, please")) as refusing:
        build(refusing.url, count=2)
    assert build(server.url).status == 1 and server.received == []
    assert build(server.url, "--redo", "failed").status == 0


def test_an_unwritable_text_fails_no_table(tmp_path, write_faces):
    outcomes = OutcomeStore()
    outcomes.add(0, Outcome(Status.ACCEPTED, "bad \ud83d\0\x1b[31m text", 0, "", 0.0))
    outcomes.add(1, Outcome(Status.FAILED, None, 0, "reason \udcff\x07", 0.0))
    manifest = Manifest.read(write_faces(tmp_path / "faces.parquet", 2))
    for ending in (".parquet", ".csv", ".jsonl"):
        manifest.write(tmp_path / f"out{ending}", lambda part: with_outcomes(part, outcomes, "model"))
        frame = Manifest.read(tmp_path / f"out{ending}").frame
        assert frame["cot"][0] == "bad \ufffd text" and frame["cot_reason"][1] == "reason \ufffd"


def test_json_is_guarded_like_out(explllm, write_faces, tmp_path):
    manifest = write_faces(tmp_path / "faces.parquet", 2)
    before = manifest.read_bytes()
    command = ("cot", "build", "faces.parquet", "-o", "out.parquet", "--offline", "--json")
    (tmp_path / "notes.json").write_text("mine")
    for overwrite in ((), ("--overwrite",)):
        assert "--json is the input manifest" in explllm(*command, "faces.parquet", *overwrite).error
        assert "--json is --out" in explllm(*command, tmp_path / "x" / ".." / "out.parquet", *overwrite).error
    assert "the file exists" in explllm(*command, "notes.json").error
    assert (tmp_path / "notes.json").read_text() == "mine" and manifest.read_bytes() == before
    for _ in range(2):  # its own file is written again
        assert explllm(*command, "out.json").status == 0
    assert explllm(*command, "notes.json", "--overwrite").status == 0
    assert len(json.loads((tmp_path / "notes.json").read_text())) == 2


def test_runs_on_one_output_exclude_each_other(build, chat_server, model_script, explllm, tmp_path):
    """Whatever their mode and run folder."""
    identity = BuildIdentity(tmp_path / "faces.parquet", tmp_path / "out.parquet", "x", tmp_path / "out.json")
    with chat_server.ChatServer(lambda received: chat_server.Reply(model_script.answer(received))) as server:
        with identity.lock():
            assert "another run is writing this file" in build(server.url, count=2).error
            offline = ("cot", "build", "faces.parquet", "--offline", "-o")
            assert "another run" in explllm(*offline, "out.parquet", "--run_dir", "other.run").error
            assert "another run" in explllm(*offline, "other.parquet", "--json", "out.json").error
        assert server.received == [] and not (tmp_path / "out.parquet").exists()
        assert build(server.url).status == 0


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_other_signals_end_like_ctrl_c(request, build, chat_server, model_script, table, send_signal, name):
    number = getattr(signal, name)
    original = signal.signal(number, signal.SIG_DFL)  # nohup ignores SIGHUP
    request.addfinalizer(lambda: signal.signal(number, original))

    def script(received):
        if received.number == 6:
            for _ in range(2):  # the second one changes nothing
                send_signal(number)
        return chat_server.Reply(model_script.answer(received))

    with chat_server.ChatServer(script) as server:
        done = build(server.url, "--concurrency", 1, count=6)
        assert server.answered == len(server.received) == 6
    assert done.status == 130 and "1 of 6 faces are done" in done.err and "Traceback" not in done.err
    assert table()["cot_status"].notna().sum() == 1
    assert signal.getsignal(number) is signal.SIG_DFL


def test_a_ledger_deleted_during_a_run(build, chat_server, model_script, table, tmp_path):
    def script(received):
        if received.number == 8:
            (tmp_path / "out.run/ledger.sqlite").unlink()
        return chat_server.Reply(model_script.answer(received))

    with chat_server.ChatServer(script) as server:
        done = build(server.url, "--concurrency", 1, count=6)
    assert done.status == 2 and "the ledger was deleted or replaced" in done.err and "Traceback" not in done.err
    assert table()["cot_status"].notna().sum() == 1


@pytest.mark.parametrize("content", ["[]", '{"state"', '{"state": "done"}', "\0"])
def test_a_damaged_progress_file_is_named(explllm, tmp_path, content):
    (tmp_path / "out.run").mkdir()
    (tmp_path / "out.run/progress.json").write_text(content)
    error = explllm("cot", "status", "out.parquet").error
    assert "the progress file" in error and "progress.json" in error and "Traceback" not in error


def test_an_unknown_price_is_not_zero(build, server, explllm):
    done = build(server.url, count=2)
    assert "cost unknown (8 answers without a price)" in done.out and "0.00" not in done.out
    assert "cost unknown" in explllm("cot", "status", "out.parquet").out
    assert "cost 0.00 USD" in explllm("cot", "build", "faces.parquet", "-o", "rules.parquet", "--offline").out


@pytest.mark.parametrize("strong", [-0.1, 1.5, "nan"])
def test_strong_is_an_intensity(explllm, write_faces, tmp_path, strong):
    write_faces(tmp_path / "faces.parquet", 2)
    done = explllm("cot", "build", "faces.parquet", "-o", "out.parquet", "--offline", "--strong", strong)
    assert done.status == 2 and "strong is" in done.error


def test_progress_without_a_terminal(build, server, monkeypatch):
    monkeypatch.setattr("explllm.core.progress.REPORT_SECONDS", 0.0)
    done = build(server.url, count=3)
    assert re.search(r"^chains of thought: 3 of 3, [\d.]+/(s|min), 0:00:00 left, failed 0$", done.err, re.MULTILINE)
