"""Faces to explain, and a language model of rules that answers the engine's prompts over HTTP."""

import importlib.util
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from explllm.core.expressions import Expression
from explllm.core.manifest import Manifest
from explllm.engine import progress
from explllm.llm.client import ChatClient


def load(name):
    """Load a module that lies among the tests."""
    path = Path(__file__).parents[1] / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name.replace("/", "_"), path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


KEY = "sk-proj-a-key-that-must-appear-nowhere-0123456789"


@pytest.fixture(scope="session")
def model_script():
    """The answers of a language model: see tests/engine/model_script.py."""
    return load("engine/model_script")


def random_units(random, active=6):
    """Intensities of which a few are not 0, as measured faces have them."""
    units = np.zeros(24)
    places = random.choice(24, size=random.integers(1, active + 1), replace=False)
    units[places] = random.uniform(0.06, 0.95, len(places)).round(2)
    # Nobody moves the jaw to both sides, or sucks a lip that is raised.
    for one, other in ((9, 10), (15, 18), (16, 19)):
        if units[one] and units[other]:
            units[other] = 0
    return units.tolist()


@pytest.fixture(scope="session")
def write_faces(model_script):
    """Writes a manifest of so many faces; the model guesses the expression of most at once."""

    def write(path, count, wrong_every=0, seed=0):
        random = np.random.default_rng(seed)
        rows = []
        for number in range(count):
            units = random_units(random)
            label = model_script.guess(units)
            if wrong_every and number % wrong_every == 0:
                label = list(Expression)[(list(Expression).index(label) + 3) % 8]
            rows.append({"image": f"{number:05}.jpg", "expression": str(label), "action_units": units})
        frame = pd.DataFrame(rows)
        frame["action_units_source"] = "test"
        Manifest(frame, path.parent).write(path)
        return path

    return write


@pytest.fixture
def key(monkeypatch):
    """A key in the environment."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return KEY


@pytest.fixture
def server(chat_server, model_script):
    """A server with the model of rules."""
    with chat_server.ChatServer(lambda received: chat_server.Reply(model_script.answer(received))) as running:
        yield running


@pytest.fixture
def build(explllm, write_faces, tmp_path, key):
    """Builds the chains of thought of so many faces; returns what the command said."""

    def run(url, *options, count=12, **made):
        path = tmp_path / "faces.parquet"
        if not path.exists():
            write_faces(path, count, **made)
        return explllm("cot", "build", path, "-o", "out.parquet", "--model", "scripted", "--base-url", url, *options)

    return run


@pytest.fixture
def table():
    """Reads a manifest."""
    return lambda path="out.parquet": Manifest.read(path).frame


@pytest.fixture
def process():
    """Starts the command as a process of its own; what is still running at the test's end is killed."""
    started = []

    def start(*arguments):
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "explllm", *map(str, arguments)],
                env={**os.environ, "OPENAI_API_KEY": KEY},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.communicate()


@pytest.fixture
def send_signal(monkeypatch):
    """Sends this process a signal, from the server's thread; returns when the run has handled it."""
    handled, stop = threading.Event(), ChatClient.stop

    def noted(client):
        stop(client)
        handled.set()

    monkeypatch.setattr(ChatClient, "stop", noted)
    # A loop without signal handlers handles the signal when it wakes up.
    monkeypatch.setattr(progress, "_HEARTBEAT", 0.05)

    def send(number):
        handled.clear()
        os.kill(os.getpid(), number)
        assert handled.wait(600)

    return send


@pytest.fixture(scope="session")
def wait_for():
    """Waits until something holds."""

    def wait(condition, seconds=600):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.02)

    return wait
