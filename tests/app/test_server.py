"""The server over loopback, asked by the official OpenAI client and by clients that send garbage."""

import asyncio
import base64
import contextlib
import http.client
import json
import math
import re
import socket
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import jsonschema
import openai
import pytest

pytest.importorskip("fastapi", reason='no fastapi: pip install "explllm[serve]"')
pytest.importorskip("prometheus_client", reason='no prometheus_client: pip install "explllm[serve]"')

from explllm.app.explainer import Busy, Cancelled, Explainer, Job
from explllm.app.photographs import open_photograph
from explllm.app.protocol import answer_schema, heading
from explllm.core.errors import ConfigError
from explllm.core.expressions import Expression
from explllm.models.build import NetworkSettings, build


@pytest.fixture
def client(address):
    with openai.OpenAI(base_url=f"{address}/v1", api_key="unused", max_retries=0) as opened:
        yield opened


def test_an_address_that_cannot_be_used(explllm):
    """The command says so before it loads the model, which does not exist here."""
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        for host, reason in (
            ("127.0.0.1", "Address already in use"),
            ("192.0.2.1", "Cannot assign requested address"),
            ("a..b", "not a host name"),
        ):
            done = explllm("serve", "--model", "none", "--host", host, "--port", port)
            message = f"the server cannot listen: {reason} [{host}:{port}]. Choose another --host or --port."
            assert done.status == 2 and done.error == f"error: {message}"


def messages(url):
    parts = [{"type": "text", "text": "Explain."}, {"type": "image_url", "image_url": {"url": url}}]
    return [{"role": "user", "content": parts}]


def post(address, path, body, headers=None):
    """Send a request; return status and JSON."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=20)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request("POST", path, content, {"Content-Type": "application/json", **(headers or {})})
    response = connection.getresponse()
    answer = response.status, json.loads(response.read())
    connection.close()
    return answer


def get(address, path, headers=None):
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=20)
    connection.request("GET", path, headers=headers or {})
    response = connection.getresponse()
    answer = response.status, response.read().decode()
    connection.close()
    return answer


def test_the_openai_client(client, pictures, data_url, expected):
    """Text, stream and JSON contain the model's own answer; the schema of the client selects fields."""
    for content, (recognition, cot) in zip(pictures, expected, strict=True):
        asked = {"model": "tiny", "messages": messages(data_url(content))}
        answer = client.chat.completions.create(**asked)
        text = heading(recognition) + cot.text
        assert answer.choices[0].message.content == text
        assert 3 < answer.usage.completion_tokens <= 12 < answer.usage.prompt_tokens
        chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
        pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
        assert "".join(pieces) == text and pieces[0] == "" and pieces[1] == heading(recognition)
        assert (
            chunks[-1].usage == answer.usage and chunks[-2].choices[0].finish_reason == answer.choices[0].finish_reason
        )
    [listed] = client.models.list()
    assert listed.id == "tiny" and client.models.retrieve("tiny") == listed
    with pytest.raises(openai.NotFoundError, match="This server has 'tiny'"):
        client.models.retrieve("other")
    short = client.chat.completions.create(**asked, max_tokens=3)
    assert short.usage.completion_tokens == 3 and short.choices[0].finish_reason == "length"
    assert text.startswith(short.choices[0].message.content.rstrip("\N{REPLACEMENT CHARACTER}"))


def test_json_answers(client, address, pictures, data_url, expected):
    recognition, cot = expected[0]
    asked = {"model": "tiny", "messages": messages(data_url(pictures[0]))}
    kinds = [
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "all", "schema": answer_schema()}},
    ]
    for stream in (False, True):
        for kind in kinds:
            answer = client.chat.completions.create(**asked, response_format=kind, stream=stream)
            if stream:
                content = "".join(chunk.choices[0].delta.content or "" for chunk in answer)
            else:
                content = answer.choices[0].message.content
            record = json.loads(content)
            jsonschema.validate(record, answer_schema())
            assert record["expression"] == recognition.expression and record["text"] == cot.text
            assert record["probabilities"] == pytest.approx(recognition.probabilities, abs=1e-5)
    properties = {"expression": {"type": "string"}, "conclusion": {"type": "string"}}
    own = {"name": "own", "schema": {"type": "object", "properties": properties}}
    answer = client.chat.completions.create(**asked, response_format={"type": "json_schema", "json_schema": own})
    assert list(json.loads(answer.choices[0].message.content)) == ["expression", "conclusion"]
    # Schemas from Pydantic classes with a Literal or an Enum.
    own["schema"] = {"$defs": {"Name": {"enum": [*recognition.probabilities]}}}
    every = [*map(str, Expression)]
    for name, limited in (
        ("expression", {"$ref": "#/$defs/Name"}),
        ("expression", {"anyOf": [{"$ref": "#/$defs/Name"}, {"type": "null"}]}),
        ("expression", {"enum": [*recognition.probabilities, "Other"]}),
        ("expression", {"enum": 5}),
        ("concluded", {"enum": [*every, None]}),
        ("concluded", {"anyOf": [{"enum": every, "type": "string"}, {"type": "null"}]}),
        ("conclusion_agrees", {"enum": [True, False]}),
    ):
        own["schema"]["properties"] = {name: limited}
        answer = client.chat.completions.create(**asked, response_format={"type": "json_schema", "json_schema": own})
        assert [*json.loads(answer.choices[0].message.content)] == [name]
    own["schema"]["$defs"]["Name"]["enum"].remove(recognition.expression)
    for properties, message in (
        ({"age": {"type": "integer"}}, "asks for 'age'"),
        ({"expression": {"type": "array"}}, "of type 'array'"),
        ({"expression": {"enum": ["happy", "sad"]}}, "can be one of Surprise, Fear"),
        ({"expression": {"anyOf": [{"enum": ["happy"]}, {"type": "null"}]}}, "limits the values of 'expression'"),
        ({"concluded": {"enum": every}}, "limits the values of 'concluded'"),
        ({"expression": {"$ref": "#/$defs/Name"}}, "limits the values of 'expression'"),
        ({"conclusion": {"const": "Happy."}}, "can be any value of its type"),
    ):
        own["schema"]["properties"] = properties
        with pytest.raises(openai.BadRequestError, match=message):
            client.chat.completions.create(**asked, response_format={"type": "json_schema", "json_schema": own})
    status, text = get(address, "/schema")
    assert status == 200 and json.loads(text) == answer_schema()


def test_batches_of_recognitions(address, pictures, data_url, expected):
    """A damaged picture among others has an error of its own."""
    images = [data_url(content) for content in pictures]
    images[1], images[2] = data_url(pictures[1][:50]), base64.b64encode(pictures[2]).decode()
    status, answer = post(address, "/recognize", {"images": images})
    assert status == 200 and list(answer["results"][1]) == ["error"]
    for place in (0, 2, 3, 4, 5):
        wanted = {str(label): share for label, share in expected[place][0].probabilities.items()}
        assert answer["results"][place]["probabilities"] == pytest.approx(wanted, abs=1e-5)
    assert post(address, "/recognize", {"images": ["x"] * 65})[0] == 413


def test_full_pictures_are_not_kept(address, explainer, pictures, data_url, monkeypatch):
    """When the faces are submitted, their pictures are no longer in memory."""
    opened, kept = [], []

    def opening(*arguments):
        photograph = open_photograph(*arguments)
        opened.append(weakref.ref(photograph.image))
        return photograph

    def submitting(*jobs):
        kept.append(sum(picture() is not None for picture in opened))
        return Explainer.submit(explainer, *jobs)

    monkeypatch.setattr("explllm.app.server.open_photograph", opening)
    monkeypatch.setattr(explainer, "submit", submitting)
    status, answer = post(address, "/recognize", {"images": [data_url(content) for content in pictures]})
    assert status == 200 and len(answer["results"]) == len(opened) == 6 and kept == [0]


GARBAGE = {
    "not JSON": (b"{", 400),
    "a list": ([], 400),
    "endless nesting": (b"[" * 100_000, 400),
    "no messages": ({"model": "tiny", "messages": []}, 400),
    "wrong types": ({"model": 3, "messages": "hello", "stream": {}}, 400),
    "two answers": ({"model": "tiny", "messages": messages("data:image/png;base64,AAAA"), "n": 10**9}, 400),
    "no picture": ({"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}, 400),
    "an address": ({"model": "tiny", "messages": messages("http://169.254.169.254/secret")}, 400),
    "a file": ({"model": "tiny", "messages": messages("file:///etc/passwd")}, 400),
    "not base64": ({"model": "tiny", "messages": messages("data:image/png;base64,%%%")}, 400),
    "not an image": ({"model": "tiny", "messages": messages("data:image/png;base64,AAAA")}, 400),
    "another model": ({"model": "gpt-4o", "messages": messages("data:image/png;base64,AAAA")}, 404),
    "tools": ({"model": "tiny", "messages": messages("data:image/png;base64,AAAA"), "tools": [{}]}, 400),
    "too large": (b"x" * 1_100_000, 413),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_gets_an_error(address, name):
    body, expected = GARBAGE[name]
    status, answer = post(address, "/v1/chat/completions", body)
    assert status == expected and answer["error"]["message"] and "Traceback" not in json.dumps(answer)


def test_errors_do_not_repeat_the_picture(address):
    secret = "SECRETPIXELS" * 10
    body = {"model": "tiny", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": secret}]}]}
    status, answer = post(address, "/v1/chat/completions", body)
    assert status == 400 and "SECRET" not in json.dumps(answer)


def test_a_bomb_is_not_decoded(serve, explainer, pictures, data_url):
    with serve(explainer, max_pixels=1000) as address:
        status, answer = post(
            address, "/v1/chat/completions", {"model": "tiny", "messages": messages(data_url(pictures[0]))}
        )
    assert status == 400 and "64 x 64 pixels" in answer["error"]["message"]


def test_a_large_body(address):
    """The answer arrives when all is sent, or at once if the client waits for it."""
    place = urlsplit(address)
    head = f"POST /recognize HTTP/1.1\r\nHost: x\r\nContent-Length: {100 * 2**20}\r\n"
    for more, parts in (("", 100), ("Expect: 100-continue\r\n", 0)):
        with socket.create_connection((place.hostname, place.port), timeout=60) as sender:
            sender.sendall(f"{head}{more}\r\n".encode())
            for _ in range(parts):
                sender.sendall(bytes(2**20))
            assert sender.recv(20).startswith(b"HTTP/1.1 413 ")


def test_slow_and_closed_connections(serve, pictures, data_url, explainer):
    """A request that does not arrive ends; a client that leaves frees its row; others are served meanwhile."""
    body = json.dumps({"model": "tiny", "stream": True, "messages": messages(data_url(pictures[0]))}).encode()
    with serve(explainer, read_seconds=1) as address, contextlib.ExitStack() as opened:
        place = urlsplit(address)

        def connect():
            return opened.enter_context(socket.create_connection((place.hostname, place.port), timeout=20))

        no_body, no_headers, second = connect(), connect(), connect()
        no_body.sendall(b"POST /recognize HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        no_headers.sendall(b"GET /health HTTP/1.1\r\nHost:")
        second.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 200 " in second.recv(1000)
        second.sendall(b"GET /health HTTP/1.1\r\nHost:")
        for _ in range(8):
            with connect() as closed:
                head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
                closed.sendall(head.encode() + body)
        assert post(address, "/recognize", {"images": [data_url(pictures[0])]})[0] == 200
        assert b" 408 " in no_body.recv(100)
        assert no_headers.recv(100) == b""
        # The body of the first answer may arrive on its own.
        assert second.recv(1000) in (b"", b'{"status":"ok","model":"tiny"}') and second.recv(1000) == b""
        deadline = time.monotonic() + 20
        while (explainer.load.active or explainer.load.waiting) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert explainer.load.active == explainer.load.waiting == 0


def test_a_crowd(address, pictures, data_url, expected):
    """Requests of all kinds at the same time, garbage among them: each picture gets its own answer."""
    bodies = [body for body, _ in GARBAGE.values()]

    def ask(number):
        if number % 10 == 9:
            return post(address, "/v1/chat/completions", bodies[number // 10 % len(bodies)])[0] >= 400
        face = number % len(pictures)
        recognition, cot = expected[face]
        asked = {"model": "tiny", "messages": messages(data_url(pictures[face])), "max_tokens": 1 + number % 12}
        status, answer = post(address, "/v1/chat/completions", {**asked, "response_format": {"type": "json_object"}})
        record = json.loads(answer["choices"][0]["message"]["content"])
        wanted = {str(label): share for label, share in recognition.probabilities.items()}
        assert record["probabilities"] == pytest.approx(wanted, abs=1e-5)
        return status == 200 and cot.text.startswith(record["text"].rstrip("\N{REPLACEMENT CHARACTER}"))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(60)))
    status, text = get(address, "/metrics")
    values = {name: float(value) for name, value in re.findall(r"^(explllm_\S+) (\S+)$", text, re.M)}
    assert status == 200 and values['explllm_requests_total{path="/v1/chat/completions",status="200"}'] >= 54
    assert values["explllm_batches"] < values["explllm_faces"]


def test_a_defect_is_an_error_in_the_same_form(address, model, pictures, data_url, monkeypatch):
    def fail(_):
        raise RuntimeError("secret")

    with monkeypatch.context() as patch:
        patch.setattr(model, "recognize_pixels", fail)
        status, answer = post(address, "/recognize", {"images": [data_url(pictures[0])]})
    assert status == 500 and answer["error"]["code"] == "internal_error" and "secret" not in json.dumps(answer)
    with monkeypatch.context() as patch:
        patch.setattr(model.config, "temperature", math.nan)
        status, answer = post(address, "/recognize", {"images": [data_url(pictures[0])]})
    assert status == 500 and "probabilities are NaN" in answer["error"]["message"]
    assert post(address, "/recognize", {"images": [data_url(pictures[0])]})[0] == 200


def test_key_and_rate(serve, explainer):
    with serve(explainer, key="secret", per_minute=3) as address:
        assert get(address, "/health")[0] == 200
        assert get(address, "/v1/models")[0] == get(address, "/metrics", {"Authorization": "Bearer wrong"})[0] == 401
        with openai.OpenAI(base_url=f"{address}/v1", api_key="secret", max_retries=0) as client:
            for _ in range(3):
                client.models.list()
            with pytest.raises(openai.RateLimitError):
                client.models.list()


def test_openapi_describes_the_routes(address):
    status, text = get(address, "/openapi.json")
    paths = json.loads(text)["paths"]
    assert status == 200
    assert {"/v1/chat/completions", "/recognize", "/v1/models", "/health", "/metrics", "/schema"} <= set(paths)
    assert "ChatRequest" in json.dumps(paths["/v1/chat/completions"])
    for path in paths.values():
        for operation in path.values():
            assert set(operation["responses"]) == {"200", "4XX", "5XX"}
            assert "ErrorBody" in json.dumps(operation["responses"]["4XX"])


def test_few_addresses_at_once(serve, explainer, pictures, monkeypatch):
    """The limit holds for all requests together."""
    running, most = 0, []

    async def fetch(*_):
        nonlocal running
        running += 1
        most.append(running)
        await asyncio.sleep(0.01)
        running -= 1
        return pictures[0]

    monkeypatch.setattr("explllm.app.server.fetch", fetch)  # the real one refuses the addresses of this machine
    with serve(explainer, allow_urls=True) as address, ThreadPoolExecutor(2) as pool:
        body = {"images": [f"http://example.org/{number}.jpg" for number in range(24)]}
        answers = list(pool.map(lambda _: post(address, "/recognize", body), range(2)))
    assert all(status == 200 and "expression" in result for status, answer in answers for result in answer["results"])
    assert len(most) == 48 and max(most) <= 16


def test_a_model_without_labels():
    with pytest.raises(ConfigError, match=r"the model has no labels. Set `labels` in its config.json"):
        Explainer(build(NetworkSettings(preset="tiny")))


def test_a_thread_that_stops_fails_its_faces(model, pictures):
    running = Explainer(model, batch_size=1, max_new_tokens=4)
    pixels = model.image(pictures[0])
    started = Job(pixels, 0)
    running.submit(started)
    started.result.result(20)
    running.max_new_tokens = 0  # a new decoder, which is needed after an error, cannot be created
    broken, waiting = Job(pixels[:1], 4), Job(pixels, 4)
    running.submit(broken, waiting)
    with pytest.raises(RuntimeError):
        broken.result.result(20)
    with pytest.raises(Busy, match="the model's thread has stopped"):
        waiting.result.result(20)
    with pytest.raises(Busy, match="the model's thread has stopped"):
        running.submit(Job(pixels, 0))
    assert not running.alive
    running.close()


def test_full_queues_and_the_end(model, pictures):
    """More faces than may wait are refused, a defect fails the faces concerned, and `close` refuses all."""
    pixels = model.image(pictures[0])
    running = Explainer(model, batch_size=2, max_new_tokens=4, max_waiting=3)
    gate = threading.Event()
    first = Job(pixels, 4, on_recognized=lambda _: gate.wait(20))
    running.submit(first)
    while running.load.waiting:
        time.sleep(0.001)
    gone, withdrawn = Job(pixels, 4), Job(pixels, 0)
    running.submit(gone, Job(pixels[:1], 4), withdrawn)
    gone.cancel()
    assert withdrawn.result.cancel() and not first.result.cancel()
    with pytest.raises(Busy, match="3 faces are waiting"):
        running.submit(Job(pixels, 0))
    gate.set()
    with pytest.raises(Cancelled):
        gone.result.result(20)
    later = Job(pixels, 4)
    while running.load.waiting:
        time.sleep(0.001)
    running.submit(later)
    assert later.result.result(20).text and running.alive
    together = [Job(pixels[:1], 0), Job(pixels, 4)]  # the second one starts after the recognition that fails
    running.submit(*together)
    for job in together:
        with pytest.raises(RuntimeError):
            job.result.result(20)
    running.close()
    with pytest.raises(Busy, match="shutting down"):
        running.submit(Job(pixels, 0))
