"""The ledger: durable, readable while it is written, and written by one process."""

import asyncio
import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
import threading

import pytest

from explllm.core.errors import InputError, MissingPathError
from explllm.llm.client import ChatClient
from explllm.llm.ledger import Ledger
from explllm.llm.ledger_file import AttemptResult
from explllm.llm.request import ChatMessage

CLIENT = """
import asyncio, sys
from explllm.llm.client import ChatClient
from explllm.llm.ledger import Ledger
from explllm.llm.request import ChatMessage, ChatRequest
from explllm.llm.settings import ChatSettings

url, path, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
requests = [ChatRequest(f"face {n}", "au2des", 0, (ChatMessage("user", f"question {n}"),)) for n in range(count)]

async def main():
    settings = ChatSettings("scripted", url, concurrency=16, price_in=1.0, price_out=1.0, timeout=600.0)
    with Ledger(path) as ledger:
        async with ChatClient(settings, ledger) as client:
            print("started", flush=True)
            answers = await asyncio.gather(*(client.ask(request) for request in requests))
    assert [answer.text for answer in answers] == [f"answer to: question {n}" for n in range(count)]
    print("done", flush=True)

asyncio.run(main())
"""


def start_client(url, path, count):
    return subprocess.Popen(
        [sys.executable, "-c", CLIENT, url, str(path), str(count)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def attempts(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        return connection.execute("SELECT a.*, r.scope FROM attempts a JOIN requests r ON r.id = a.request").fetchall()


@pytest.mark.parametrize("dropped", [None, 9])
def test_a_killed_run_goes_on_and_pays_for_nothing_twice(chat_server, tmp_path, dropped):
    """Each client but the last is killed when the server has sent so many answers; some answers may be dropped."""
    path, clients, goals = tmp_path / "ledger.sqlite", [], [70, 140, 210]
    count, kills = 300, len(goals)

    def script(received):
        if goals and server.answered >= goals[0]:
            goals.pop(0)
            clients[-1].kill()
        if dropped is not None and received.number % dropped == 0:
            return chat_server.Reply(drop=True)
        return chat_server.Reply(f"answer to: {received.question}", delay=0.02)

    with chat_server.ChatServer(script) as server:
        for _ in range(kills + 1):
            clients.append(start_client(server.url, path, count))
            out, err = clients[-1].communicate(timeout=600)
    assert [client.returncode for client in clients] == [-signal.SIGKILL] * kills + [0], err
    assert out.endswith("done\n")
    rows = attempts(path)
    # Whatever reached the server had been recorded before; what was recorded and cut off before it left is named so.
    recorded = {row["sent_as"]: row for row in rows}
    assert len(recorded) == len(rows)
    sent = [one.key for one in server.received]
    assert len(set(sent)) == len(sent)
    assert set(sent) <= set(recorded)
    assert {recorded[name]["outcome"] for name in set(recorded) - set(sent)} <= {"lost"}
    lost = [row for row in rows if row["outcome"] == "lost"]
    assert len(lost) <= kills * 16
    # Each request has one answer, and none was sent again after its answer was recorded.
    with_answer = [row for row in rows if row["outcome"] == "answered"]
    assert len(with_answer) == len({row["scope"] for row in with_answer}) == count
    last = {}
    for row in sorted(rows, key=lambda row: row["id"]):
        assert last.get(row["scope"]) != "answered"
        last[row["scope"]] = row["outcome"]
    # What was answered in full and not recorded was in flight when the client died.
    answered = [recorded[one.key]["outcome"] for one in server.received if one.answered]
    assert sum(outcome != "answered" for outcome in answered) <= len(lost)
    with Ledger(path, create=False) as ledger:
        totals = ledger.totals()
    assert (totals.answers, totals.open, totals.failures) == (count, 0, 0)
    assert totals.cost == pytest.approx(count * 120e-6)
    assert totals.cost_upper_bound >= totals.cost + len(lost) * 1024e-6


def test_totals_are_readable_while_another_process_writes(chat_server, tmp_path):
    path, seen = tmp_path / "ledger.sqlite", []

    def script(received):
        if received.number % 40 == 0:
            with Ledger(path, create=False) as ledger:
                seen.append(ledger.totals())
        return chat_server.Reply(f"answer to: {received.question}")

    with chat_server.ChatServer(script) as server:
        client = start_client(server.url, path, 400)
        _, err = client.communicate(timeout=600)
    assert client.returncode == 0, err
    assert len(seen) == 10
    for totals in seen:
        assert 0 < totals.open <= 16
        assert totals.requests == totals.answers + totals.open
    answers = [totals.answers for totals in seen]
    assert answers == sorted(answers) and all(0 < count < 400 for count in answers)


def test_a_second_process_is_refused(chat_server, tmp_path):
    path, refused = tmp_path / "ledger.sqlite", threading.Event()

    def script(received):
        assert refused.wait(600)
        return chat_server.Reply(f"answer to: {received.question}")

    with chat_server.ChatServer(script) as server:
        first = start_client(server.url, path, 20)
        first.stdout.readline()
        second = start_client(server.url, path, 20)
        _, err = second.communicate(timeout=600)
        refused.set()
        assert second.returncode == 1
        assert "another run is writing this ledger" in err
        _, err = first.communicate(timeout=600)
        assert first.returncode == 0, err


def test_a_second_ledger_of_one_process_is_refused_and_the_lock_ends(serve, settings, question, tmp_path):
    path = tmp_path / "ledger.sqlite"
    server = serve()

    async def main():
        with Ledger(path) as one, Ledger(path) as other:
            async with ChatClient(settings(server), one) as client:
                await client.ask(question())
                with pytest.raises(InputError, match="another run is writing"):
                    await ChatClient(settings(server), other).__aenter__()
                assert other.answer(question().key("scripted")).text == "answer to: question 0"
            async with ChatClient(settings(server), other) as client:
                assert (await client.ask(question())).recorded

    asyncio.run(main())


def test_conversations_are_kept_in_order(serve, settings, question, ask_all, tmp_path, chat_server):
    server = serve(
        lambda received: chat_server.Reply("no", status=400 if received.question == "third" else 200, usage=(5, 7))
    )
    first = question(messages=(ChatMessage("system", "S"), ChatMessage("user", "first")))
    second = question(
        round=1,
        purpose="judge",
        schema={"type": "object"},
        temperature=0.5,
        max_tokens=9,
        attempt=2,
        messages=(*first.messages, ChatMessage("assistant", "no"), ChatMessage("user", "second")),
    )
    third = question(round=2, messages=(ChatMessage("user", "third"),))
    priced = settings(server, price_in=1.0, price_out=2.0)
    for request in (first, second, third, question(9), first):
        ask_all(priced, [request])
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        found = ledger.conversation("faces/0.jpg")
        assert [entry.request for entry in found] == [first, second, third]
        assert [entry.text for entry in found] == ["no", "no", ""]
        assert [entry.failure for entry in found] == [None, None, "status 400: no"]
        assert [entry.sent for entry in found] == [1, 1, 1]
        assert [entry.purpose for entry in found] == ["au2des", "judge", "au2des"]
        assert found[1].cost == found[1].answer.cost == pytest.approx(19e-6)
        assert (found[1].round, found[1].messages[-1].content, found[1].model) == (1, "second", "scripted")
        assert ledger.conversation("faces/1.jpg") == []
        totals = ledger.totals()
    assert (totals.requests, totals.answers, totals.failures) == (4, 3, 1)
    assert (totals.prompt_tokens, totals.completion_tokens) == (15, 21)
    assert list(totals.by_purpose) == ["au2des", "judge"]
    judge = totals.by_purpose["judge"]
    assert (judge.requests, judge.answers, judge.prompt_tokens) == (1, 1, 5)
    assert judge.cost == pytest.approx(19e-6)


def test_texts_are_kept_once(serve, settings, question, ask_all, tmp_path):
    instructions = ChatMessage("system", "x" * 10_000)
    requests = [question(n, messages=(instructions, ChatMessage("user", f"{n}"))) for n in range(100)]
    ask_all(settings(serve()), requests)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 300_000


def test_files_that_are_no_ledger_are_left_alone(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("some notes " * 100)
    with pytest.raises(InputError, match="not a database"):
        Ledger(text)
    other = tmp_path / "other.sqlite"
    with contextlib.closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE things (a)")
        connection.commit()
    before = other.read_bytes()
    with pytest.raises(InputError, match="not a ledger"):
        Ledger(other)
    assert other.read_bytes() == before
    with pytest.raises(MissingPathError):
        Ledger(tmp_path / "none.sqlite", create=False)
    assert not (tmp_path / "none.sqlite").exists()
    with pytest.raises(InputError, match="cannot be opened"):
        Ledger(tmp_path)


def test_a_ledger_of_another_release_is_refused(tmp_path):
    path = tmp_path / "deep" / "ledger.sqlite"
    Ledger(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(InputError, match="format 99"):
        Ledger(path)


def test_a_full_disk_ends_the_run(serve, settings, question, tmp_path):
    server = serve()

    async def main():
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            async with ChatClient(settings(server, concurrency=2), ledger) as client:
                await client.ask(question())
                # SQLite's own way of running out of room.
                pages = ledger._writer._connection.execute("PRAGMA page_count").fetchone()[0]
                ledger._writer._connection.execute(f"PRAGMA max_page_count = {pages}")
                big = [question(n, messages=(ChatMessage("user", f"{n}" * 5000),)) for n in range(1, 30)]
                outcomes = await asyncio.gather(*(client.ask(request) for request in big), return_exceptions=True)
                return outcomes, len(server.received), ledger.totals()

    outcomes, sent, totals = asyncio.run(main())
    assert {type(outcome) for outcome in outcomes} == {InputError}
    assert "cannot be written: database or disk is full" in str(outcomes[0])
    # Nothing was sent that could not be recorded.
    assert sent == totals.requests == 1


@pytest.mark.parametrize("replaced", [False, True])
def test_a_ledger_deleted_during_the_run_is_an_error(serve, settings, question, tmp_path, replaced):
    server = serve()
    path = tmp_path / "ledger.sqlite"

    async def main():
        with Ledger(path) as ledger:
            async with ChatClient(settings(server), ledger) as client:
                await client.ask(question(0))
                path.rename(tmp_path / "elsewhere")
                if replaced:
                    path.write_bytes(b"")
                return await asyncio.gather(client.ask(question(1)), return_exceptions=True)

    [error] = asyncio.run(main())
    assert isinstance(error, InputError) and "deleted or replaced" in str(error)
    assert len(server.received) == 1


def test_discarded_answers_are_asked_for_again(chat_server, serve, settings, question, client_on, totals):
    server = serve(lambda received: chat_server.Reply(f"answer {received.number}", usage=(1, 1)))

    async def main():
        async with client_on(settings(server, price_in=1e6, price_out=0.0)) as client:
            await asyncio.gather(client.ask(question(0)), client.ask(question(1)))
            assert client.ledger.sent("faces/0.jpg") == 1
            await client.ledger.discard("faces/0.jpg")
            return [await client.ask(question(number)) for number in (0, 1)]

    again, kept = asyncio.run(main())
    assert (again.text, again.recorded, kept.recorded) == ("answer 3", False, True)
    assert (totals().answers, totals().requests, totals().cost) == (2, 3, 3.0)


def test_what_was_begun_is_finished_when_the_ledger_is_closed(question, tmp_path):
    async def main():
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            ledger.open_for_writing()
            number, name = await ledger.begin(question(), "scripted", 0.5)
            assert ledger.totals().open == 1
            assert ledger.totals().cost_upper_bound == 0.5
            task = asyncio.create_task(ledger.finish(number, AttemptResult("answered", answer="late", model="m")))
            await asyncio.sleep(0)
            task.cancel()
            await ledger.close_writer()
            return name

    name = asyncio.run(main())
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.answer(question().key("scripted")).text == "late"
        assert ledger.totals().open == 0
    assert name.startswith("explllm-")
    assert json.dumps(name)


def test_many_requests_share_a_commit(serve, settings, question, tmp_path):
    async def main():
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            ledger.open_for_writing()
            commits = []
            ledger._writer._connection.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
            await asyncio.gather(*(ledger.begin(question(number), "scripted", 0.0) for number in range(200)))
            count = len(commits)
            await ledger.close_writer()
            return count

    assert asyncio.run(main()) <= 3
