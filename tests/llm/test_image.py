"""Pictures: sent whole, recorded as a hash, and nowhere else."""

import base64
import io
import json
import logging
import os
import sqlite3

import pytest

from explllm.llm.ledger import Ledger
from explllm.llm.prices import image_tokens
from explllm.llm.request import ChatFailure, ChatImage, ChatMessage, Refused, strip_images

# What stands for a JPEG: bytes of which no eight stand anywhere else.
JPEG = b"\xff\xd8\xff\xe0" + os.urandom(6000)


@pytest.fixture
def pictured(question):
    def make(number=0, jpeg=JPEG, **changes):
        messages = (ChatMessage("user", f"question {number}", ChatImage.of(jpeg)),)
        return question(number, messages=messages, **changes)

    return make


def url_in(received):
    [text, picture] = received.body["messages"][0]["content"]
    assert text["type"] == "text" and picture["type"] == "image_url" and set(picture["image_url"]) == {"url"}
    return picture["image_url"]["url"]


def test_a_picture_is_sent_and_only_its_hash_is_recorded(serve, chat_server, settings, pictured, ask_all, tmp_path):
    server = serve(lambda received: chat_server.Reply("seen"))
    [answer] = ask_all(settings(server), [pictured()])
    assert answer.text == "seen" and not answer.recorded
    head, _, letters = url_in(server.received[0]).partition(",")
    assert head == "data:image/jpeg;base64" and base64.b64decode(letters) == JPEG
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        [entry] = ledger.conversation("faces/0.jpg")
    [kept] = entry.request.images
    assert kept == ChatImage.of(JPEG) and kept.jpeg is None
    assert entry.request.key("scripted") == pictured().key("scripted")
    with pytest.raises(ValueError, match="only its hash"):
        _ = kept.url
    assert JPEG not in repr(pictured()).encode("latin-1", "replace")


def test_the_same_picture_is_asked_about_once_and_another_anew(serve, chat_server, settings, pictured, ask_all):
    server = serve(lambda received: chat_server.Reply("seen"))
    ask_all(settings(server), [pictured()])
    [again, other] = ask_all(settings(server), [pictured(), pictured(jpeg=JPEG[:-1])])
    assert again.recorded and not other.recorded and len(server.received) == 2


def test_requests_without_pictures_keep_their_keys(question):
    # As every release has computed it.
    assert question(7).key("scripted") == "f19820bdbfa5df38a76162d4ce7afb49467a2efec11df5e65ffbec575142db6d"


def test_a_schema_in_words_goes_beside_the_picture(serve, chat_server, settings, pictured, ask_all):
    server = serve(lambda received: chat_server.Reply("{}"))
    ask_all(settings(server, structured="never"), [pictured(schema={"type": "object"})])
    text, _ = server.received[0].body["messages"][0]["content"]
    assert "question 0" in text["text"] and "JSON schema" in text["text"]


def test_the_budget_counts_what_models_see_and_not_the_letters(
    serve, chat_server, settings, pictured, ask_all, tmp_path
):
    server = serve(lambda received: chat_server.Reply("seen", status=504))
    options = {"price_in": 1.0, "price_out": 1.0, "max_retries": 0}
    ask_all(settings(server, **options), [pictured(jpeg=JPEG * 100)])
    base = sqlite3.connect(tmp_path / "ledger.sqlite")
    [at_most] = base.execute("SELECT at_most FROM attempts").fetchone()
    # 4,000 tokens for the picture, 1,024 for the answer, and the bytes of the rest.
    assert 5024 < at_most * 1e6 < 5400


@pytest.mark.parametrize(
    ("model", "reserved"),
    [("openai/gpt-4o-mini", 48_169), ("gpt-4o-mini-2024-07-18", 48_169), ("my-deployment", 4_000)],
)
def test_pictures_cost_what_the_server_counts(
    serve, chat_server, settings, pictured, ask_all, tmp_path, model, reserved
):
    # The tokens that gpt-4o-mini counts for a large picture; a deployment can have any name.
    server = serve(lambda received: chat_server.Reply("seen", usage=(45_000, 20)), models=(model,))
    [answer] = ask_all(settings(server, model=model, price_in=1.0, price_out=0.0), [pictured()])
    assert answer.cost == pytest.approx(45e-3)
    assert image_tokens(model).maximum == reserved


def test_a_picture_appears_nowhere(serve, chat_server, settings, pictured, ask_all, tmp_path, quick, capfd):
    def script(received):
        # A server that repeats what it was sent, in each way in which a request can end.
        url = url_in(received)
        told, bare = f"you sent {url}", f"bad data {url.partition(',')[2]}"
        slashes = json.dumps({"choices": [{"message": {"content": told}}]}).replace("/", "\\/")
        return {
            0: chat_server.Reply(told),
            1: chat_server.Reply(told, status=400),
            2: chat_server.Reply(refusal=told),
            3: chat_server.Reply(told, status=500),
            4: chat_server.Reply(raw=told),
            5: chat_server.Reply(bare, status=400),
            6: chat_server.Reply("x" * 150 + " " + bare, status=400),
            7: chat_server.Reply(raw=slashes),
        }[int(received.body["messages"][0]["content"][0]["text"].split()[1])]

    server = serve(script)
    logged = io.StringIO()
    handler, root = logging.StreamHandler(logged), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        found = ask_all(settings(server, max_retries=1), [pictured(number) for number in range(8)])
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    assert [type(one).__name__ for one in found].count("ChatAnswer") == 2
    assert isinstance(found[2], Refused) and isinstance(found[1], ChatFailure)
    assert found[0].text == found[7].text == "you sent [image]"
    letters = base64.b64encode(JPEG).decode()
    held = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()) + logged.getvalue().encode()
    held += repr(found).encode() + "".join(capfd.readouterr()).encode()
    held = held.replace(b"\\", b"")
    for start in range(0, len(letters) - 24, 24):
        assert letters[start : start + 24].encode() not in held
    for start in range(4, len(JPEG) - 16, 16):
        assert JPEG[start : start + 16] not in held


def test_texts_keep_what_is_no_picture():
    prose = "The brows are lowered/lifted = tense. " * 20 + "https://example.org/" + "path/" * 10
    assert strip_images(prose) == prose
    assert strip_images("see data:image/png;base64,AAAA+/= end") == "see [image] end"
