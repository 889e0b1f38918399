"""A client against the scripted server."""

import asyncio
import contextlib

import pytest

from explllm.llm.client import ChatClient
from explllm.llm.ledger import Ledger
from explllm.llm.request import ChatMessage, ChatRequest
from explllm.llm.settings import ChatSettings

KEY = "sk-test-0123456789abcdefghijklmnopqrstuvwxyz"


@pytest.fixture
def api_key(monkeypatch) -> str:
    """A key in the environment; nothing else of OpenAI's is."""
    for name in ("OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return KEY


@pytest.fixture
def serve(chat_server):
    """Start a server with a script and options; the test's end stops it."""
    with contextlib.ExitStack() as servers:
        yield lambda *arguments, **options: servers.enter_context(chat_server.ChatServer(*arguments, **options))


@pytest.fixture
def settings(api_key):
    """Settings for a server; what is not given is what a quick test wants."""

    def make(server, **changes) -> ChatSettings:
        return ChatSettings(**{"model": "scripted", "base_url": server.url, "timeout": 600.0, **changes})

    return make


@pytest.fixture
def question():
    """A request that differs by its number."""

    def make(number=0, **changes) -> ChatRequest:
        values = {
            "scope": f"faces/{number}.jpg",
            "purpose": "au2des",
            "round": 0,
            "messages": (ChatMessage("system", "You see faces."), ChatMessage("user", f"question {number}")),
        }
        return ChatRequest(**{**values, **changes})

    return make


@pytest.fixture
def quick(monkeypatch):
    """Waits between attempts of some milliseconds, for tests that do not look at them."""
    import tenacity

    monkeypatch.setattr("explllm.llm.client._BACKOFF", tenacity.wait_fixed(0.01))


@pytest.fixture
def ask_all(tmp_path):
    """Ask many requests at once; gives answers and exceptions in order."""

    def run(settings, requests, ledger=tmp_path / "ledger.sqlite", within=None):
        async def main():
            with Ledger(ledger) as book:
                async with ChatClient(settings, book) as client:
                    asking = asyncio.gather(*(client.ask(request) for request in requests), return_exceptions=True)
                    if within is not None:
                        await within(client)
                    return await asking

        return asyncio.run(main())

    return run


@pytest.fixture
def totals(tmp_path):
    """The totals of the test's ledger."""

    def read():
        with Ledger(tmp_path / "ledger.sqlite", create=False) as ledger:
            return ledger.totals()

    return read


@pytest.fixture
def client_on(tmp_path):
    """A client in a running loop: ``async with client_on(settings) as client``."""

    @contextlib.asynccontextmanager
    async def make(settings, ledger=tmp_path / "ledger.sqlite"):
        with Ledger(ledger) as book:
            async with ChatClient(settings, book) as client:
                yield client

    return make
