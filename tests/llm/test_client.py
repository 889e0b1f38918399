"""The client against a real server on loopback."""

import asyncio
import copy
import json
import sqlite3
import threading
import time
from dataclasses import replace

import pytest
import tenacity

from explllm.core.errors import InputError
from explllm.llm.client import ChatClient
from explllm.llm.ledger import Ledger
from explllm.llm.request import ChatFailure, ChatMessage, OutOfBudget, Stopped, clean_text

SCHEMA = {"type": "object", "properties": {"label": {"type": "string"}}, "required": ["label"]}


def test_answer_is_recorded_and_not_paid_for_again(chat_server, serve, settings, question, ask_all, totals):
    server = serve()
    priced = settings(server, price_in=2.0, price_out=10.0)
    [first] = ask_all(priced, [question()])
    assert first.text == "answer to: question 0"
    assert (first.prompt_tokens, first.completion_tokens, first.model) == (100, 20, "scripted")
    assert first.cost == pytest.approx((100 * 2 + 20 * 10) / 1e6)
    assert not first.recorded
    sent = server.received[0]
    assert sent.body["messages"][0] == {"role": "system", "content": "You see faces."}
    assert (sent.body["temperature"], sent.body["max_tokens"], sent.body["model"]) == (0.0, 1024, "scripted")
    [again] = ask_all(priced, [question()])
    assert again.recorded
    assert (again.text, again.cost, again.prompt_tokens) == (first.text, first.cost, 100)
    assert len(server.received) == 1
    assert totals().cost == first.cost


def test_each_part_of_a_request_makes_a_new_entry(question):
    plain = question()
    others = [
        question(scope="other"),
        question(purpose="judge"),
        question(round=1),
        question(attempt=1),
        question(temperature=0.5),
        question(max_tokens=10),
        question(schema=SCHEMA),
        question(schema={**SCHEMA, "title": "x"}),
        question(messages=(*plain.messages, ChatMessage("assistant", ""))),
        question(messages=(ChatMessage("user", "You see faces."), plain.messages[1])),
    ]
    keys = {request.key("a") for request in [plain, *others]} | {plain.key("b")}
    assert len(keys) == len(others) + 2
    assert plain.key("a") == copy.deepcopy(plain).key("a")


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504])
def test_statuses_that_pass_are_sent_again(chat_server, serve, settings, question, ask_all, totals, quick, status):
    server = serve(
        lambda received: chat_server.Reply("fine") if received.number == 3 else chat_server.Reply("busy", status=status)
    )
    [answer] = ask_all(settings(server), [question()])
    assert answer.text == "fine"
    assert len(server.received) == totals().requests == 3
    assert totals().answers == 1


@pytest.mark.parametrize(
    "fault",
    [
        {"drop": True},
        {"cut": 40},
        {"raw": '{"choices": [{"message": {"content": "half'},
        {"raw": "<html>busy</html>", "headers": {"Content-Type": "text/html"}},
        {"raw": '{"error": {"message": "upstream"}}'},
        {"raw": '{"choices": []}'},
        {"raw": "null"},
        {"raw": ""},
        {"delay": 3600.0},
    ],
    ids=["dropped", "cut", "half JSON", "HTML", "error as 200", "no choice", "null", "empty", "timeout"],
)
def test_answers_that_are_lost_are_asked_for_again(
    chat_server, serve, settings, question, ask_all, totals, quick, fault
):
    server = serve(lambda received: chat_server.Reply("fine", **(fault if received.number < 3 else {})))
    # Two seconds are ample for the third request, even on a busy machine.
    timeout = 2.0 if "delay" in fault else 600.0
    [answer] = ask_all(settings(server, timeout=timeout, price_in=1.0, price_out=1.0), [question()])
    assert answer.text == "fine"
    assert len(server.received) == totals().requests == 3
    # Each of the two may have been charged for: the 1,024 tokens that were allowed, and the prompt.
    assert totals().cost == pytest.approx(120e-6)
    assert totals().cost_upper_bound - totals().cost > 2 * 1024e-6


def test_a_server_that_is_gone_is_not_charged_for(chat_server, serve, settings, question, ask_all, totals, quick):
    with chat_server.ChatServer() as server:
        gone = settings(server, max_retries=2, price_in=1.0, price_out=1.0)
    [failure] = ask_all(gone, [question()])
    assert isinstance(failure, ChatFailure)
    assert "sent 3 times" in failure.reason
    assert (totals().requests, totals().failures, totals().cost_upper_bound) == (3, 1, 0)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_rejected_requests_fail_alone(chat_server, serve, settings, question, ask_all, totals, status):
    server = serve(
        lambda received: (
            chat_server.Reply("too long", status=status)
            if received.question == "question 1"
            else chat_server.Reply(received.question)
        )
    )
    first, second, third = ask_all(settings(server), [question(number) for number in range(3)])
    assert (first.text, third.text) == ("question 0", "question 2")
    assert isinstance(second, ChatFailure)
    assert second.reason == f"status {status}: too long"
    assert len(server.received) == 3
    assert (totals().answers, totals().failures) == (2, 1)


def test_retries_used_up_fail_the_request_alone_and_are_tried_anew_later(
    chat_server, serve, settings, question, ask_all, totals, quick
):
    broken = True

    def script(received):
        return chat_server.Reply("fine", status=500 if broken and received.question == "question 0" else 200)

    server = serve(script)
    failure, answer = ask_all(settings(server, max_retries=3), [question(0), question(1)])
    assert isinstance(failure, ChatFailure)
    assert failure.reason == "status 500: fine, sent 4 times"
    assert answer.text == "fine"
    assert (len(server.received), totals().failures) == (5, 1)
    broken = False
    [answer] = ask_all(settings(server), [question(0)])
    assert answer.text == "fine"
    assert totals().failures == 0


def test_requests_wait_their_turn_at_a_rate_limit(chat_server, serve, settings, question, ask_all, monkeypatch):
    """A limit of 40 requests per second, of which the server tells each how long one of them takes, for 64 at once."""
    monkeypatch.setattr("explllm.llm.client._BACKOFF", tenacity.wait_exponential_jitter(0.05, 0.4, jitter=0.05))
    bucket = {"requests": 1.0, "time": 0.0}

    def script(received):
        now = time.monotonic()
        bucket["requests"] = min(1.0, bucket["requests"] + 40 * (now - bucket["time"]))
        bucket["time"] = now
        if bucket["requests"] < 1:
            wait = 1000 * (1 - bucket["requests"]) / 40
            return chat_server.Reply(status=429, headers={"retry-after-ms": f"{wait:.0f}"})
        bucket["requests"] -= 1
        return chat_server.Reply("fine")

    answers = ask_all(settings(serve(script), concurrency=64), [question(number) for number in range(80)])
    assert [answer for answer in answers if isinstance(answer, Exception)] == []


def test_refusals_are_paid_for_once(chat_server, serve, settings, question, ask_all, totals):
    server = serve(
        lambda received: (
            chat_server.Reply(refusal="I cannot help with that.")
            if received.question == "question 0"
            else chat_server.Reply("", finish_reason="content_filter")
        )
    )
    for _ in range(2):
        refused, filtered = ask_all(settings(server, price_in=1, price_out=1), [question(0), question(1)])
        assert refused.reason == "I cannot help with that."
        assert "content filter" in filtered.reason
    assert len(server.received) == 2
    assert (totals().failures, totals().answers) == (2, 0)
    assert totals().cost == pytest.approx(240e-6)


@pytest.mark.parametrize(
    ("status", "error", "remedy"),
    [
        (401, {}, "environment variable"),
        (402, {}, "Buy credit"),
        (404, {}, "model's name"),
        (429, {"code": "insufficient_quota"}, "Buy credit"),
        (307, {}, "new address"),
    ],
)
def test_what_no_request_survives_ends_the_run(
    chat_server, serve, settings, question, ask_all, totals, status, error, remedy
):
    server = serve(lambda received: chat_server.Reply("no", status=status, error=error))
    outcomes = ask_all(settings(server, concurrency=2), [question(number) for number in range(50)])
    assert {type(outcome) for outcome in outcomes} == {InputError}
    assert remedy in outcomes[-1].remedy
    assert len(server.received) == totals().requests <= 4


def test_answers_cut_off_say_so(chat_server, serve, settings, question, ask_all):
    server = serve(lambda received: chat_server.Reply("A long", finish_reason="length"))
    assert [ask_all(settings(server), [question()])[0].finish_reason for _ in range(2)] == ["length"] * 2


def test_concurrency_is_used_and_kept(chat_server, serve, settings, question, ask_all):
    full = lambda: server.most_in_flight >= 7  # noqa: E731
    server = serve(lambda received: chat_server.Reply("fine", delay=0.05, until=full))
    ask_all(settings(server, concurrency=7), [question(number) for number in range(40)])
    assert server.most_in_flight == 7


def test_the_same_request_twice_at_once_is_sent_once(chat_server, serve, settings, question, tmp_path):
    server = serve(lambda received: chat_server.Reply("fine", delay=0.1))

    async def main():
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            async with ChatClient(settings(server), ledger) as one, ChatClient(settings(server), ledger) as other:
                return await asyncio.gather(*(client.ask(question()) for client in (one, one, other)))

    answers = asyncio.run(main())
    assert [answer.text for answer in answers] == ["fine"] * 3
    assert sorted(answer.recorded for answer in answers) == [False, True, True]
    assert len(server.received) == 1


def test_the_second_of_two_takes_over_if_the_first_is_cancelled(
    chat_server, serve, settings, question, client_on, totals
):
    cancelled = threading.Event()
    server = serve(lambda received: chat_server.Reply("fine", until=cancelled.is_set))

    async def main():
        async with client_on(settings(server, price_in=1.0, price_out=1.0)) as client:
            first = asyncio.create_task(client.ask(question()))
            second = asyncio.create_task(client.ask(question()))
            await asyncio.to_thread(server.wait_for, lambda server: server.received)
            first.cancel()
            cancelled.set()
            return await second

    assert asyncio.run(main()).text == "fine"
    assert len(server.received) == totals().requests == 2
    assert totals().open == 0
    assert totals().cost_upper_bound > totals().cost == pytest.approx(120e-6)


def test_stop_lets_what_is_in_flight_finish(chat_server, serve, settings, question, ask_all, totals):
    stopped = threading.Event()
    server = serve(lambda received: chat_server.Reply("fine", until=stopped.is_set))

    async def stop(client):
        await asyncio.to_thread(server.wait_for, lambda server: len(server.received) == 4)
        # From another thread, as a signal's handler may.
        await asyncio.to_thread(client.stop)
        stopped.set()

    outcomes = ask_all(settings(server, concurrency=4), [question(number) for number in range(20)], within=stop)
    assert [getattr(outcome, "text", None) for outcome in outcomes[:4]] == ["fine"] * 4
    assert {type(outcome) for outcome in outcomes[4:]} == {Stopped}
    assert (len(server.received), totals().requests, totals().answers) == (4, 4, 4)


def test_stop_ends_waiting(chat_server, serve, settings, question, ask_all):
    server = serve(lambda received: chat_server.Reply("", status=429, headers={"Retry-After": "3600"}))

    async def stop(client):
        await asyncio.to_thread(server.wait_for, lambda server: len(server.received) == 2)
        await asyncio.sleep(0.1)
        client.stop()

    start = time.monotonic()
    outcomes = ask_all(settings(server), [question(0), question(1)], within=stop)
    assert {type(outcome) for outcome in outcomes} == {Stopped}
    assert time.monotonic() - start < 600


def test_schema_is_sent(chat_server, serve, settings, question, ask_all):
    server = serve(lambda received: chat_server.Reply('{"label": "Fear"}'))
    [answer] = ask_all(settings(server), [question(schema=SCHEMA)])
    assert json.loads(answer.text) == {"label": "Fear"}
    sent = server.received[0].body["response_format"]
    assert sent["type"] == "json_schema"
    assert sent["json_schema"]["schema"] == SCHEMA
    assert sent["json_schema"]["strict"] is True


def knows_no_schemas(chat_server):
    def script(received):
        if "response_format" in received.body:
            return chat_server.Reply("unknown field response_format", status=400)
        return chat_server.Reply('{"label": "Fear"}')

    return script


def test_schema_is_stated_where_the_server_does_not_know_it(chat_server, serve, settings, question, ask_all, totals):
    server = serve(knows_no_schemas(chat_server))
    requests = [question(number, schema=SCHEMA) for number in range(5)]
    answers = ask_all(settings(server, concurrency=1), requests)
    assert {answer.text for answer in answers} == {'{"label": "Fear"}'}
    assert ["response_format" in received.body for received in server.received] == [True] + [False] * 5
    assert json.dumps(SCHEMA) in server.received[-1].question
    assert server.received[-1].question.startswith("question 4")
    assert (totals().requests, totals().answers, totals().failures) == (6, 5, 0)


def test_a_rejected_question_does_not_turn_schemas_off(chat_server, serve, settings, question, ask_all):
    server = serve(
        lambda received: chat_server.Reply("long", status=400 if received.question.startswith("question 0") else 200)
    )
    outcomes = ask_all(settings(server, concurrency=1), [question(number, schema=SCHEMA) for number in range(3)])
    assert isinstance(outcomes[0], ChatFailure)
    assert ["response_format" in received.body for received in server.received] == [True, False, True, True]


def test_structured_always_and_never(chat_server, serve, settings, question, ask_all, tmp_path):
    server = serve(knows_no_schemas(chat_server))
    [refused] = ask_all(settings(server, structured="always"), [question(schema=SCHEMA)])
    assert isinstance(refused, InputError)
    assert "structured: auto" in refused.remedy
    [answer] = ask_all(settings(server, structured="never"), [question(1, schema=SCHEMA)])
    assert answer.text
    assert ["response_format" in received.body for received in server.received] == [True, False]


def test_reasoning_models_take_neither_temperature_nor_max_tokens(chat_server, serve, settings, question, ask_all):
    def script(received):
        for param in ("max_tokens", "temperature"):
            if param in received.body:
                error = {"code": "unsupported_parameter", "param": param}
                return chat_server.Reply("unsupported", status=400, error=error)
        return chat_server.Reply("fine")

    server = serve(script)
    answers = ask_all(settings(server, concurrency=1), [question(0), question(1)])
    assert [answer.text for answer in answers] == ["fine", "fine"]
    assert len(server.received) == 4
    assert server.received[-1].body["max_completion_tokens"] == 1024


def _cut_below(chat_server, tokens):
    """A model that thinks so many tokens first."""

    def script(received):
        least = received.body["max_tokens"]
        return chat_server.Reply("fine") if least > tokens else chat_server.Reply("", finish_reason="length")

    return script


@pytest.fixture
def ask_in_turn(client_on):
    """Ask one request after the other of one client; gives answers and exceptions."""

    def run(settings, requests):
        async def main():
            async with client_on(settings) as client:
                return [(await asyncio.gather(client.ask(request), return_exceptions=True))[0] for request in requests]

        return asyncio.run(main())

    return run


def test_a_model_that_reasons_gets_more_room_once_it_was_cut_off(chat_server, serve, settings, question, ask_in_turn):
    server = serve(_cut_below(chat_server, 5000))
    asked = [question(number, max_tokens=32) for number in range(4)]
    answers = ask_in_turn(settings(server), asked)
    assert [received.body["max_tokens"] for received in server.received] == [32, 32 + 4096, 32 + 16384, 32 + 16384]
    assert [answer.finish_reason for answer in answers] == ["length", "length", "stop", "stop"]
    # The room is no part of the key: another run finds all answers, and begins with the room that one was lacking.
    again = ask_in_turn(settings(server), [*asked, question(9, max_tokens=32)])
    assert [answer.recorded for answer in again] == [True] * 4 + [False]
    assert server.received[4].body["max_tokens"] == 32 + 4096


def test_room_counts_against_the_budget(chat_server, serve, settings, question, ask_in_turn):
    server = serve(_cut_below(chat_server, 1000))
    priced = settings(server, price_in=0.0, price_out=1000.0, max_cost=0.5)
    first, second = ask_in_turn(priced, [question(0, max_tokens=32), question(1, max_tokens=32)])
    assert first.finish_reason == "length" and isinstance(second, OutOfBudget)  # 4,128 tokens may cost 4.13 USD
    assert len(server.received) == 1


def test_a_model_without_so_much_room_is_asked_with_less(chat_server, serve, settings, question, ask_in_turn):
    def script(received):
        if received.body["max_tokens"] > 2048:
            return chat_server.Reply("This model's maximum context length is 2048 tokens.", status=400)
        return _cut_below(chat_server, 500)(received)

    server = serve(script)
    answers = ask_in_turn(settings(server), [question(number, max_tokens=32) for number in range(3)])
    assert [answer.text for answer in answers] == ["", "fine", "fine"]
    assert [received.body["max_tokens"] for received in server.received] == [32, 32 + 4096, 32 + 1024, 32 + 1024]


def test_a_limit_that_is_too_high_is_not_a_matter_of_names(chat_server, serve, settings, question, ask_all):
    error = {"code": "unsupported_parameter", "param": "max_tokens"}
    names = {"max_tokens": error, "max_completion_tokens": {**error, "param": "max_completion_tokens"}}

    def script(received):
        [name] = names.keys() & received.body.keys()
        return chat_server.Reply("no", status=400, error=names[name])

    server = serve(script)
    [failure] = ask_all(settings(server), [question()])
    assert isinstance(failure, ChatFailure)
    assert len(server.received) == 2


def test_unprintable_characters_are_removed():
    text = "a\tb\nc\0\x1b[31mred\x1b[0m\x9b\u202edlrow\u2066 \U0001f600\r\x07é\ud83d"
    assert clean_text(text) == "a\tb\ncreddlrow \U0001f600é\ufffd"


def test_odd_texts_survive(chat_server, serve, settings, question, ask_all, tmp_path):
    server = serve(lambda received: chat_server.Reply(raw='{"choices":[{"message":{"content":"\\ud83d\\u0000é"}}]}'))
    path = b"faces/\xff.jpg".decode("utf-8", "surrogateescape")
    odd = question(scope=path, messages=(ChatMessage("user", f"What of {path}?"),))
    [answer] = ask_all(settings(server), [odd])
    assert answer.text == "\ufffdé"
    assert (answer.prompt_tokens, answer.model) == (0, "scripted")
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert ledger.conversation(path)[0].answer.text == answer.text
        assert ledger.answer(odd.key("scripted")).text == answer.text


@pytest.mark.parametrize("budget", [0.01, 0.0371])
def test_the_budget_is_never_passed(chat_server, serve, settings, question, ask_all, totals, budget):
    # Each answer costs 1.1 thousandths of a dollar, but might cost 1.3.
    server = serve(lambda received: chat_server.Reply("fine", usage=(100, 1000), delay=0.01))
    limited = settings(server, concurrency=16, max_cost=budget, price_in=1.0, price_out=1.0)
    outcomes = ask_all(limited, [question(number) for number in range(60)])
    answers = [outcome for outcome in outcomes if not isinstance(outcome, Exception)]
    assert {type(outcome) for outcome in outcomes if isinstance(outcome, Exception)} == {OutOfBudget}
    assert totals().cost_upper_bound <= budget
    # It is used as far as it goes: a further request might have passed it.
    assert totals().cost > budget - 0.0014
    assert len(answers) == totals().answers == len(server.received)
    # The ledger remembers what was spent.
    [outcome] = ask_all(limited, [question(100)])
    assert isinstance(outcome, OutOfBudget)
    # What is recorded costs nothing.
    assert ask_all(limited, [question(0)])[0].recorded


def test_lost_answers_count_against_the_budget(chat_server, serve, settings, question, ask_all, totals, quick):
    server = serve(lambda received: chat_server.Reply(drop=True))
    limited = settings(server, max_cost=0.01, price_in=1.0, price_out=1.0, max_retries=100)
    [outcome] = ask_all(limited, [question()])
    assert isinstance(outcome, OutOfBudget)
    assert len(server.received) == totals().requests > 3
    assert totals().cost_upper_bound <= 0.01


def test_two_clients_share_a_budget(chat_server, serve, settings, question, tmp_path, totals):
    server = serve(lambda received: chat_server.Reply("fine", usage=(100, 1000), delay=0.01))
    limited = settings(server, max_cost=0.02, price_in=1.0, price_out=1.0)

    async def main():
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            async with ChatClient(limited, ledger) as one, ChatClient(limited, ledger) as other:
                await asyncio.gather(
                    *((one, other)[number % 2].ask(question(number)) for number in range(60)), return_exceptions=True
                )

    asyncio.run(main())
    assert 0.018 < totals().cost_upper_bound <= 0.02


def test_a_server_that_counts_no_tokens_costs_the_upper_bound(chat_server, serve, settings, question, ask_all):
    server = serve(lambda received: chat_server.Reply("fine", usage=None))
    [answer] = ask_all(settings(server, price_in=1.0, price_out=1.0), [question()])
    assert 1024e-6 < answer.cost < 2000e-6


@pytest.mark.parametrize("usage", [(10**30, 5), (10**9, 10**9), (-4, 5), ("many", "more")])
def test_impossible_usage_costs_the_upper_bound(
    chat_server, serve, settings, question, ask_all, tmp_path, caplog, usage
):
    server = serve(lambda received: chat_server.Reply("fine", usage=usage))
    limited = settings(server, price_in=1.0, price_out=1.0, max_cost=0.01)
    answers = ask_all(limited, [question(0), question(1)])
    assert {answer.text for answer in answers} == {"fine"}
    assert all(0 < answer.cost < 2000e-6 for answer in answers)
    if usage[0] in (10**9, 10**30):
        assert caplog.text.count("impossible reported usage") == 1
        base = sqlite3.connect(tmp_path / "ledger.sqlite")
        assert f"reported usage: {usage[0]} prompt" in base.execute("SELECT error FROM attempts").fetchone()[0]


def test_usage_as_strings_and_content_in_parts(chat_server, serve, settings, question, ask_all):
    content = [{"type": "text", "text": "fi"}, {"type": "audio"}, {"type": "text", "text": "ne"}]
    body = {
        "choices": [{"message": {"content": content}}],
        "usage": {"prompt_tokens": "100", "completion_tokens": "20"},
    }
    server = serve(lambda received: chat_server.Reply(raw=json.dumps(body)))
    [answer] = ask_all(settings(server, price_in=1.0, price_out=1.0), [question()])
    assert (answer.text, answer.prompt_tokens, answer.cost) == ("fine", 100, pytest.approx(120e-6))


def test_an_oversized_answer_fails_alone(chat_server, serve, settings, question, ask_all, totals):
    server = serve(lambda received: chat_server.Reply("x " * 2_500_000 if received.number == 1 else "fine"))
    limited = settings(server, concurrency=1, price_in=1.0, price_out=1.0, max_cost=0.01)
    oversized, answer = ask_all(limited, [question(0), question(1)])
    assert isinstance(oversized, ChatFailure) and "5,000,000 characters" in oversized.reason
    assert answer.text == "fine" and totals().failures == 1
    # A later run asks again.
    assert ask_all(limited, [question(0)])[0].text == "fine"


def test_403_from_the_start_ends_the_run(chat_server, serve, settings, question, ask_all):
    server = serve(lambda received: chat_server.Reply("no", status=403))
    outcomes = ask_all(settings(server, concurrency=1), [question(number) for number in range(9)])
    assert [type(outcome) for outcome in outcomes] == [ChatFailure] * 2 + [InputError] * 7
    assert "permission" in outcomes[-1].remedy and len(server.received) == 3


def test_403_at_the_start_of_a_resumed_run_concerns_only_its_requests(chat_server, serve, settings, question, ask_all):
    server = serve(
        lambda received: chat_server.Reply("policy", status=200 if received.question < "question 3" else 403)
    )
    ask_all(settings(server), [question(number) for number in range(3)])
    outcomes = ask_all(settings(server, concurrency=1), [question(number) for number in range(3, 9)])
    assert {type(outcome) for outcome in outcomes} == {ChatFailure}


def test_a_single_403_concerns_only_its_request(chat_server, serve, settings, question, ask_all, totals):
    forbidden = [f"question {number}" for number in (0, 5, 6, 7)]
    server = serve(lambda received: chat_server.Reply("policy", status=403 if received.question in forbidden else 200))
    schema = [question(number, schema=SCHEMA) for number in range(10)]
    outcomes = ask_all(settings(server, concurrency=1), schema)
    failed = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, ChatFailure)]
    assert failed == [0, 5, 6, 7] and "status 403: policy" in outcomes[0].reason
    assert len(server.received) == 10 and all("response_format" in received.body for received in server.received)


def test_an_identical_truncated_request_is_not_paid_again(chat_server, serve, settings, question, ask_in_turn):
    server = serve(lambda received: chat_server.Reply("", finish_reason="length"))
    requests = [question(0, attempt=attempt, max_tokens=32) for attempt in range(6)]
    answers = ask_in_turn(settings(server), requests)
    assert [received.body["max_tokens"] for received in server.received] == [32, 32 + 4096, 32 + 16384]
    assert [answer.recorded for answer in answers] == [False] * 3 + [True] * 3
    # Sampling may end earlier the next time.
    sampled = [question(1, attempt=attempt, max_tokens=32, temperature=0.5) for attempt in range(2)]
    ask_in_turn(settings(server), sampled)
    assert len(server.received) == 5


def test_one_process_does_not_raise_the_limit_of_another(chat_server, serve, settings, question, ask_in_turn):
    server = serve(
        lambda received: chat_server.Reply("", finish_reason="length" if "long" in received.question else "stop")
    )
    long = question(0, purpose="judge", messages=(ChatMessage("user", "long"),), max_tokens=32)
    ask_in_turn(settings(server), [long, question(1, max_tokens=32), replace(long, attempt=1)])
    assert [received.body["max_tokens"] for received in server.received] == [32, 32, 32 + 4096]


def test_the_reason_of_a_refusal_in_fastapis_words(chat_server, serve, settings, question, ask_all):
    body = json.dumps({"detail": [{"loc": ["body", "model"], "msg": "no such field"}]})
    server = serve(lambda received: chat_server.Reply(raw=body, status=422))
    [failure] = ask_all(settings(server), [question()])
    assert "status 422" in str(failure) and "no such field" in str(failure)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("k", '{"key": "k", "kind": 1}'),
        ("key", "a monkey, key_observations, and the [API key]"),
        ("sk-0123456789abcdef", "[API key]x"),
        ("0123456789abc", "x[API key]y"),
        ("a1b2", "x[API key]y"),
    ],
)
def test_a_word_in_the_place_of_a_key_spoils_no_answer(
    chat_server, serve, settings, question, ask_all, monkeypatch, key, said
):
    """Servers without keys take any word for one; a real key is taken out wherever it stands."""
    monkeypatch.setenv("OPENAI_API_KEY", key)
    server = serve(lambda received: chat_server.Reply(said.replace("[API key]", key).replace('"k"', '"-"')))
    [answer] = ask_all(settings(server), [question()])
    assert answer.text == said.replace('"k"', '"-"')


def test_unknown_prices_are_counted(chat_server, serve, settings, question, ask_all, totals):
    server = serve()
    [answer] = ask_all(settings(server), [question()])
    assert (answer.cost, totals().unpriced, totals().cost) == (0, 1, 0)


def test_memory_stays_flat(chat_server, serve, settings, client_on):
    import tracemalloc

    server = serve(lambda received: chat_server.Reply("x" * 2000))

    async def main():
        from explllm.llm.request import ChatRequest

        async with client_on(settings(server, concurrency=8)) as client:

            async def ask(numbers):
                for number in numbers:
                    messages = (ChatMessage("user", f"{number}" + "y" * 20_000),)
                    await client.ask(ChatRequest(f"{number}", "au2des", 0, messages))
                # The server's own log.
                server.received.clear()

            await ask(range(100))
            tracemalloc.start()
            before, _ = tracemalloc.get_traced_memory()
            await ask(range(100, 400))
            after, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            return after - before

    # 300 requests of 22 kB each.
    assert asyncio.run(main()) < 1_000_000
