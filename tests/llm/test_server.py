"""What is found out before money is spent, waiting, and that the key stays where it is."""

import asyncio
import contextlib
import http.server
import io
import json
import logging
import shutil
import ssl
import subprocess
import sys
import threading
import time
import traceback
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, formatdate
from itertools import pairwise
from types import SimpleNamespace

import pytest

from explllm.core.errors import ConfigError, InputError
from explllm.llm.client import ChatClient
from explllm.llm.ledger import Ledger
from explllm.llm.server import parse_retry_after


@pytest.fixture
def check(tmp_path):
    def run(settings):
        async def main():
            with Ledger(tmp_path / "ledger.sqlite") as ledger:
                async with ChatClient(settings, ledger) as client:
                    await client.check()

        asyncio.run(main())

    return run


def test_check_passes_a_server_that_has_the_model(chat_server, serve, settings, check, api_key):
    server = serve(models=("other", "scripted"))
    check(settings(server))
    assert server.others[0].headers["authorization"] == f"Bearer {api_key}"
    assert server.received == []


def test_check_names_the_models_there_are(serve, settings, check):
    server = serve(models=("scripted-mini", "scripted-large"))
    with pytest.raises(InputError, match=r"has no model 'scripted'.*It has: scripted-mini, scripted-large\."):
        check(settings(server))


@pytest.mark.parametrize("status", [404, 405, 501])
def test_check_passes_a_server_without_a_list(chat_server, serve, settings, check, status):
    check(settings(serve(models=chat_server.Reply("no route", status=status))))


def test_check_knows_how_ollama_and_llama_cpp_name_models(chat_server, serve, settings, check):
    check(settings(serve(models=("scripted:latest",))))
    # Together AI sends the bare list.
    check(settings(serve(models=chat_server.Reply(raw='[{"id": "scripted"}]'))))
    listed = {"data": [{"id": "/models/x.gguf", "owned_by": "llamacpp"}]}
    check(settings(serve(models=chat_server.Reply(raw=json.dumps(listed)))))


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ({"status": 401}, "OPENAI_API_KEY.*Set the environment variable"),
        ({"status": 403}, "OPENAI_API_KEY.*Use a key"),
        ({"status": 503}, "cannot list its models: status 503: scripted fault.*Try again later"),
        ({"raw": "<html>"}, "usually ends in /v1"),
        ({"raw": '{"models": []}'}, "usually ends in /v1"),
        ({"drop": True}, "cannot be reached"),
        ({"status": 301, "headers": {"Location": "http://new.example/v1"}}, "new address: http://new.example/v1"),
    ],
)
def test_check_says_what_is_wrong(chat_server, serve, settings, check, reply, message):
    with pytest.raises(InputError, match=message):
        check(settings(serve(models=chat_server.Reply(**reply))))


def test_check_of_a_server_that_is_not_there(chat_server, settings, check):
    with chat_server.ChatServer() as server:
        gone = settings(server)
    with pytest.raises(InputError, match=r"127\.0\.0\.1:\d+ cannot be reached.*server is running"):
        check(gone)


def test_retry_after_in_seconds_is_waited_for(chat_server, serve, settings, question, ask_all):
    server = serve(
        lambda received: (
            chat_server.Reply("fine")
            if received.number > 1
            else chat_server.Reply(status=429, headers={"Retry-After": "1.5"})
        )
    )
    ask_all(settings(server), [question()])
    first, second = server.received
    assert second.time - first.time >= 1.5


def test_retry_after_as_a_date_is_waited_for(chat_server, serve, settings, question, ask_all):
    dates = []

    def script(received):
        if received.number > 1:
            dates.append(time.time())
            return chat_server.Reply("fine")
        # Whole seconds are all that a date can say.
        dates.append(int(time.time()) + 2)
        return chat_server.Reply(status=503, headers={"Retry-After": formatdate(dates[0], usegmt=True)})

    ask_all(settings(serve(script)), [question()])
    wanted, sent = dates
    assert wanted <= sent


def test_retry_after_is_capped(chat_server, serve, settings, question, ask_all, caplog):
    server = serve(
        lambda received: chat_server.Reply(status=200 if received.number > 1 else 429, headers={"Retry-After": "86400"})
    )
    ask_all(settings(server, max_wait=0.3), [question()])
    first, second = server.received
    assert second.time - first.time < 60 and "86400 s. Waiting for 0 s" in caplog.text


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "0"}])
def test_backoff_grows_without_a_longer_retry_after(chat_server, serve, settings, question, ask_all, headers):
    server = serve(lambda received: chat_server.Reply(status=500 if received.number < 4 else 200, headers=headers))
    ask_all(settings(server), [question()])
    times = [received.time for received in server.received]
    waits = [later - earlier for earlier, later in pairwise(times)]
    # Plus up to half a second of jitter, and the time that a busy machine takes.
    assert all(wait >= least for wait, least in zip(waits, (0.5, 1.0, 2.0), strict=True))


def test_ways_of_asking_to_wait():
    assert parse_retry_after({"retry-after": "7"}) == 7
    assert parse_retry_after({"retry-after": "-7"}) == 0
    assert parse_retry_after({"retry-after": "1", "retry-after-ms": "250"}) == 0.25
    later = datetime.now(UTC) + timedelta(seconds=30)
    assert 28 < parse_retry_after({"retry-after": format_datetime(later, usegmt=True)}) <= 30
    assert parse_retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    for nothing in ({}, {"retry-after": ""}, {"retry-after": "soon"}, {"retry-after": "nan"}, {"retry-after": "inf"}):
        assert parse_retry_after(nothing) is None


@pytest.mark.parametrize(("code", "sent"), [(429, 2), ("503", 2), (400, 1)])
def test_an_error_in_a_body_of_status_200_is_one_of_its_status(
    chat_server, serve, settings, question, ask_all, api_key, totals, quick, code, sent
):
    raw = json.dumps({"error": {"code": code, "message": f"the provider of {api_key} is busy"}})
    server = serve(lambda received: chat_server.Reply(raw=raw))
    [failure] = ask_all(settings(server, max_retries=1, price_in=1.0, price_out=1.0), [question()])
    assert failure.reason.startswith(f"status {code}: the provider of [API key] is busy")
    assert len(server.received) == totals().requests == sent and totals().cost_upper_bound == 0


def test_the_key_appears_nowhere(chat_server, serve, settings, question, api_key, tmp_path, quick, capfd):
    def script(received):
        # A server that repeats what it was sent, in each way in which a request can end.
        told = f"you sent {received.headers['authorization']}"
        return {
            "question 0": chat_server.Reply(told),
            "question 1": chat_server.Reply(told, status=400),
            "question 2": chat_server.Reply(refusal=told),
            "question 3": chat_server.Reply(told, status=500),
            "question 4": chat_server.Reply(raw=told),
            "question 5": chat_server.Reply(drop=True),
            "question 6": chat_server.Reply(told, status=404),
            "question 7": chat_server.Reply(told, status=401),
        }[received.question]

    server = serve(script, models=chat_server.Reply(status=401, text=f"bad key {api_key}"))
    logged = io.StringIO()
    handler = logging.StreamHandler(logged)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    shown = []

    async def ask(requests, ledger):
        async with ChatClient(settings(server, max_retries=1), ledger) as client:
            for asking in (*map(client.ask, requests), client.check()):
                try:
                    shown.append(repr(await asking))
                except Exception as error:
                    shown.append(
                        "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
                    )
                    shown.append(repr(error))

    try:
        with Ledger(tmp_path / "ledger.sqlite") as ledger:
            # The last two end their client.
            for numbers in (range(6), [6], [7]):
                asyncio.run(ask(map(question, numbers), ledger))
            for number in range(8):
                shown += [repr(entry) for entry in ledger.conversation(f"faces/{number}.jpg")]
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    assert all(received.headers["authorization"] == f"Bearer {api_key}" for received in server.received)
    # What the libraries say at their most talkative was caught: aiohttp is silent, openai is not.
    assert "HTTP Request" in logged.getvalue()
    files = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"question 7" in files
    printed = capfd.readouterr()
    for place in ("\n".join(shown), logged.getvalue(), files.decode("latin-1"), printed.out, printed.err):
        assert api_key not in place
    assert "[API key]" in "\n".join(shown)


def test_a_redirect_is_shown_without_the_key_and_not_followed(chat_server, serve, settings, question, ask_all, api_key):
    elsewhere = serve()
    moved = {"status": 307, "headers": {"Location": f"{elsewhere.url}/chat/completions?key={api_key}"}}
    server = serve(lambda received: chat_server.Reply(**moved))
    [error] = ask_all(settings(server), [question()])
    assert f"{elsewhere.url}/chat/completions?key=[API key]" in str(error)
    assert elsewhere.received == []


def test_servers_of_ones_own_need_no_key(chat_server, serve, settings, question, ask_all, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    server = serve()
    assert ask_all(settings(server), [question()])[0].text
    monkeypatch.setenv("MY_KEY", "another")
    ask_all(settings(server, api_key_env="MY_KEY"), [question(1)])
    assert server.received[1].headers["authorization"] == "Bearer another"


def test_openai_needs_a_key_and_is_the_default(settings, monkeypatch, serve, tmp_path):
    monkeypatch.delenv("OPENAI_API_KEY")
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        for url in (None, "https://api.openai.com/v1/", "https://API.openai.com:443/v1"):
            with pytest.raises(ConfigError, match="export OPENAI_API_KEY="):
                ChatClient(settings(serve(), model="gpt-4o", base_url=url), ledger)
        server = serve()
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        ChatClient(settings(server, base_url=None), ledger)


def test_openai_is_loaded_when_it_is_needed():
    code = (
        "import sys, explllm.llm.client, explllm.llm.ledger;"
        "print([m for m in ('openai', 'httpx', 'httpx2', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_request_that_is_never_answered_ends(chat_server, serve, settings, question, ask_all):
    """A server that keeps sending, but never the end: the timeout is for the whole answer."""

    async def drip(reader, writer):
        with contextlib.suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n")
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.05)

    async def main():
        server = await asyncio.start_server(drip, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        start = time.monotonic()
        from explllm.llm.server import Server, TransientError

        talker = Server(settings(serve(), base_url=url, timeout=0.5))
        with pytest.raises(TransientError, match=r"no answer within 0\.5 s"):
            await talker.complete({"model": "x", "messages": []}, "one")
        await talker.close()
        server.close()
        return time.monotonic() - start

    assert asyncio.run(main()) < 600


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers every question with the same words."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps({"choices": [{"message": {"content": "fine"}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def tls_server(tmp_path):
    """A server with a certificate that nobody has signed; gives its address and the certificate's file."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    )
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield SimpleNamespace(url=f"https://127.0.0.1:{server.server_port}/v1"), certificate
    server.shutdown()
    server.server_close()


def test_a_certificate_that_nobody_signed_ends_the_run_at_once(tls_server, settings, question, ask_all, monkeypatch):
    server, certificate = tls_server
    [failure] = ask_all(settings(server), [question()])
    assert isinstance(failure, InputError) and "certificate of 127.0.0.1" in str(failure)
    assert "SSL_CERT_FILE" in str(failure)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    [answer] = ask_all(settings(server), [question()])
    assert answer.text == "fine"


def test_proxies(chat_server, serve, settings, question, ask_all, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    proxy = serve(lambda received: chat_server.Reply("by the proxy"))
    far = settings(SimpleNamespace(url="http://far.invalid/v1"), max_retries=0)
    for number, name in enumerate(("http_proxy", "all_proxy"), 1):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        ask_all(far, [question(number)])
        monkeypatch.delenv(name)
        # A proxy is sent the whole address.
        assert [received.path for received in proxy.received] == ["http://far.invalid/v1/chat/completions"] * number
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:1")
    with pytest.raises(InputError, match="unsupported proxy type 'socks5'"):
        ask_all(far, [question()])


@pytest.mark.parametrize("text", ["a\n" + "=" * 120, "a\n" + "b" * 120, 'a "quoted" 0'])
def test_hiding_leaves_an_answer_readable(chat_server, serve, settings, question, ask_all, monkeypatch, text):
    monkeypatch.setenv("OPENAI_API_KEY", "0")
    server = serve(lambda received: chat_server.Reply(text))
    [answer] = ask_all(settings(server), [question()])
    assert answer.text.startswith("a\n" if "\n" in text else 'a "quoted"') and len(server.received) == 1
