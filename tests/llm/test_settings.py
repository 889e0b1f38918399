"""Settings, prices, limits and the budget."""

import asyncio
import time

import pytest

from explllm.core.errors import ConfigError
from explllm.llm.client import ChatClient
from explllm.llm.ledger import Ledger
from explllm.llm.limits import Budget, RateLimit
from explllm.llm.prices import lookup_price
from explllm.llm.request import OutOfBudget
from explllm.llm.settings import ChatSettings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": " "}, "no model"),
        ({"base_url": "localhost:8000"}, "not an http URL"),
        ({"base_url": "http://"}, "not an http URL"),
        ({"base_url": "http://host:port/v1"}, "not an http URL"),
        ({"concurrency": 0}, "concurrency"),
        ({"max_retries": -1}, "max_retries"),
        ({"timeout": 0}, "timeout"),
        ({"requests_per_minute": 0}, "requests_per_minute"),
        ({"tokens_per_minute": float("nan")}, "tokens_per_minute"),
        ({"max_cost": -1}, "max_cost"),
        ({"price_in": 1.0}, "both or neither"),
        ({"structured": "maybe"}, "auto, always or never"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        ChatSettings(**{"model": "m", **changes})


def test_a_key_in_the_wrong_place_is_not_repeated():
    with pytest.raises(ConfigError) as caught:
        ChatSettings("m", api_key_env="sk-proj-secret")
    assert "secret" not in str(caught.value)


def test_passwords_in_addresses_are_not_shown(api_key):
    assert ChatSettings("m", "http://me:secret@host:80/v1/").host == "host:80"


@pytest.mark.parametrize("url", ["http://me:secret@host/v1", "http://me:secret/x@host/v1"])
def test_addresses_with_a_password_are_refused(api_key, monkeypatch, url):
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    with pytest.raises(ConfigError, match="the server's address .*OPENAI_BASE_URL") as caught:
        ChatSettings("m").api_key()
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError, match="base_url.*OPENAI_API_KEY"):
        ChatSettings("m", "http://me:secret@host/v1").api_key()


@pytest.mark.parametrize("key", ["“sk-secret”", "sk-secret\nX: y", "sk-secret sk-secret", "sk-secret\x7f"])
def test_keys_that_no_header_can_hold_are_refused(api_key, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY") as caught:
        ChatSettings("m").api_key()
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("OPENAI_API_KEY", " sk-+/=~!\n")
    assert ChatSettings("m").api_key() == "sk-+/=~!"


def test_list_prices():
    assert lookup_price("gpt-4o").cost(1e6, 1e6) == 12.5
    assert lookup_price("gpt-4o-2024-11-20") == lookup_price("gpt-4o")
    assert lookup_price("gpt-4o-2024-05-13").price_in == 5.0
    assert lookup_price("gpt-4o-mini-2024-07-18").price_out == 0.6
    assert lookup_price("gpt-4o-audio") is None
    assert lookup_price("gpt-4o", 1.0, 2.0).source == "given"
    assert "2026" in lookup_price("gpt-4o").source


def test_a_budget_needs_a_price(api_key, tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ChatClient(ChatSettings("gpt-4o", max_cost=1.0), ledger)
        with pytest.raises(ConfigError, match="price_in and price_out"):
            ChatClient(ChatSettings("gpt-9", max_cost=1.0), ledger)
        # Another server's model of the same name has another price.
        with pytest.raises(ConfigError, match="the price of 'gpt-4o' on localhost:8000 is unknown"):
            ChatClient(ChatSettings("gpt-4o", "http://localhost:8000/v1", max_cost=1.0), ledger)


def test_requests_per_minute_are_kept(serve, settings, question, ask_all):
    start = time.monotonic()
    ask_all(settings(serve(), requests_per_minute=600), [question(number) for number in range(15)])
    # Ten at once, then one each tenth of a second.
    assert time.monotonic() - start > 0.49


class VirtualTime(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer: waits take no time, and their lengths are exact."""

    now = 0.0

    def time(self):
        return self.now

    def _run_once(self):
        if self._scheduled and not self._ready:
            # A little later: the limiter's sums are not exact, and it would wait for nothing again and again.
            self.now = max(self.now, self._scheduled[0]._when) + 1e-6
        super()._run_once()


def in_virtual_time(main):
    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        return runner.run(main())


def test_a_rate_is_kept_in_every_second():
    async def main():
        limit, times = RateLimit(600.0), []
        for _ in range(31):
            await limit.acquire(1)
            times.append(asyncio.get_running_loop().time())
        return times

    assert in_virtual_time(main) == pytest.approx([0.0] * 10 + [0.1 * (place + 1) for place in range(21)], abs=1e-3)


def test_tokens_per_minute_are_kept_and_corrected(chat_server, serve, settings, question, ask_all):
    server = serve(lambda received: chat_server.Reply("fine", usage=(5, 5)))
    requests = [question(number, max_tokens=1000) for number in range(121)]
    start = time.monotonic()
    ask_all(settings(server, tokens_per_minute=60_000, concurrency=4), requests)
    # 121 answers of 10 tokens at 1,000 a second, after a burst of 1,000, wait for 0.2 seconds; 121 estimates of 1,050
    # would wait for 126.
    assert 0.2 < time.monotonic() - start < 120


def test_a_rate_holds_for_amounts_above_the_burst():
    async def main():
        limit = RateLimit(6000.0)
        for amount in (50, 50, 150):
            await limit.acquire(amount)
        return asyncio.get_running_loop().time()

    # 250 tokens at 100 per second, of which the first 100 are a burst.
    assert in_virtual_time(main) == pytest.approx(1.5, abs=1e-3)


def test_unused_tokens_go_to_the_next_waiter():
    async def main():
        limit = RateLimit(6000.0)
        await limit.acquire(100)
        limit.give_back(-50)
        await limit.acquire(10)
        debt = asyncio.get_running_loop().time()
        waiting = asyncio.create_task(limit.acquire(900))
        await asyncio.sleep(0.05)
        limit.give_back(900)
        await waiting
        return debt, asyncio.get_running_loop().time()

    debt, total = in_virtual_time(main)
    # The debt of 50 and 10 more tokens take 0.6 s, then the waiter takes the credit instead of waiting for 9 s.
    assert debt == pytest.approx(0.6, abs=1e-3) and total < 8.5


def test_the_budget_waits_for_those_in_flight():
    async def main():
        budget = Budget(spent=1.0)
        first = await budget.reserve(2.0, limit=4.0)
        waiting = asyncio.create_task(budget.reserve(2.0, limit=4.0))
        await asyncio.sleep(0)
        assert not waiting.done()
        budget.settle(first, 0.5)
        second = await waiting
        budget.settle(second, 1.5)
        assert budget.spent == 3.0
        with pytest.raises(OutOfBudget, match=r"\$3\.0000 of \$4\.0000 is spent.*\$1\.5000"):
            await budget.reserve(1.5, limit=4.0)
        await budget.reserve(1.0, limit=4.0)
        # Even if the one in flight cost nothing.
        with pytest.raises(OutOfBudget):
            await budget.reserve(1.1, limit=4.0)
        await budget.reserve(100.0, limit=None)

    asyncio.run(main())
