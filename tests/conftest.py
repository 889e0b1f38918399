"""Fixtures that every part of the tests shares."""

import importlib.util
import json
import logging
import math
import os
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from explllm.core.expressions import LABEL_SETS
from explllm.core.manifest import Manifest

# rich and argparse wrap their output at the terminal's width. The tests must depend neither on it nor on the length of
# the paths in the output: nothing is wrapped. Processes inherit this. Tests of narrow terminals set their own width.
os.environ["COLUMNS"] = "1000"
for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
    os.environ.pop(name, None)

# A shell that starts jobs in the background makes them ignore SIGINT. The processes of the tests would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_sessionstart(session):
    """Keep pytest's own lines short."""
    if not hasattr(session.config, "workerinput"):  # of pytest-xdist, whose workers print nothing
        session.config.get_terminal_writer().fullwidth = 100


LONGEST = (
    *("test_demo", "test_strategies", "test_ddp", "test_resume", "test_cli", "test_au_task", "test_build"),
    *("test_run_folder", "test_lightning_cli", "test_docs", "test_contributing", "test_describe", "test_footprint"),
)
"""Test files that take longest."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Start with the longest files: two workers then end at about the same time."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def _reference() -> Path:
    return Path(os.environ.get("EXPLLLM_REFERENCE", REPOSITORY.parent / "shared"))


@pytest.fixture(scope="session", autouse=True)
def empty_cache(tmp_path_factory):
    """No download of the user's cache affects a test, and none is added to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXPLLLM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def hub_server():
    """Starts a Hugging Face hub and file host on loopback: see tests/models/hub_server.py."""
    servers = []

    def start(root, **options):
        servers.append(_load(REPOSITORY / "tests/models/hub_server.py").HubServer(root, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """Real faces and real chains of thought, beside the checkout; the tests that need them skip without."""
    folder = _reference() / "data"
    if not folder.is_dir():
        pytest.skip(f"no reference data at {folder}; set EXPLLLM_REFERENCE to the folder that holds data/ and golden/")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """Outputs of the authors' released code, beside the checkout; the tests that need them skip without."""
    folder = _reference() / "golden"
    if not folder.is_dir():
        pytest.skip(f"no golden outputs at {folder}; set EXPLLLM_REFERENCE to the folder that holds data/ and golden/")
    return folder


@pytest.fixture(scope="session")
def our_name():
    """From the released name of a weight that trains to ours, written out by hand."""

    def translate(name: str) -> str:
        if name.startswith("mm_projector."):
            return name.replace("mm_projector", "projector")
        if name.startswith("vision_model."):
            _, _, block, _, factor = name.split(".")
            _, letter, side = factor.split("_")
            return f"vision.encoder.layer.{block}.attention.{side}_proj.lora_{letter}.default.weight"
        return f"language.{name}.default.weight"

    return translate


@pytest.fixture(scope="session")
def drawn_faces(tmp_path_factory) -> Path:
    """A folder of 56 faces to learn from, 14 to validate and 27 to test on; tests must not change it."""
    from explllm.drawn_faces.dataset import draw_faces

    return draw_faces(tmp_path_factory.mktemp("faces") / "drawn", train=56, val=14, test=27, size=64).root


@pytest.fixture(scope="session")
def small_settings(drawn_faces) -> dict:
    """A run that takes a second: a tiny model on the drawn faces, with dropout, augmentation and accumulation."""
    return {
        "seed_everything": 42,
        "run_dir": "runs/small",
        "model": {
            "class_path": "ExpLLMTask",
            "init_args": {
                "network": {
                    "preset": "tiny",
                    "vision": {"model_type": "explllm_conv", "hidden_sizes": [8, 16, 32, 32], "depths": [1, 1, 1, 1]},
                    "language": {
                        "model_type": "llama",
                        "hidden_size": 32,
                        "intermediate_size": 64,
                        "num_hidden_layers": 1,
                        "num_attention_heads": 2,
                        "num_key_value_heads": 2,
                        "max_position_embeddings": 1024,
                        "attention_dropout": 0.1,
                    },
                },
                "optimization": {"learning_rate": 1e-3},
                "max_new_tokens": 8,
            },
        },
        "data": {
            "class_path": "DrawnFaces",
            "init_args": {
                "folder": str(drawn_faces),
                "train": 56,
                "val": 14,
                "test": 27,
                "size": 64,
                "batch_size": 32,
                "micro_batch_size": 16,
                "augment": {"class_path": "Augment"},
            },
        },
        "trainer": {"max_epochs": 1, "gradient_clip_val": 1.0, "accelerator": "cpu", "enable_progress_bar": False},
    }


@pytest.fixture(scope="session")
def small_config(small_settings, tmp_path_factory) -> Path:
    """`small_settings` as a file."""
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(yaml.safe_dump(small_settings), encoding="utf-8")
    return path


@dataclass
class Finished:
    """A command that has run."""

    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that a mistake of the user gives."""
        assert self.status == 2, self
        lines = [line for line in self.err.splitlines() if not line.startswith("warning: image")]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: ")
        assert "Traceback" not in self.err
        return lines[0]


@pytest.fixture
def explllm(tmp_path, monkeypatch, capsys):
    """The command ``explllm``, run in this process, in a folder of the test's own."""
    from explllm.cli import main

    monkeypatch.chdir(tmp_path)
    # A busy machine would add lines of progress to what a command prints.
    monkeypatch.setattr("explllm.core.progress.REPORT_SECONDS", math.inf)
    for name in ("lightning.pytorch", "lightning.fabric"):
        for handler in logging.getLogger(name).handlers:
            # It writes to the stderr of the test during which it was made.
            monkeypatch.setattr(handler, "stream", sys.stderr)

    def run(*arguments) -> Finished:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return Finished(status, printed.out, printed.err)

    return run


@pytest.fixture(scope="session")
def fitted(small_config, tmp_path_factory) -> Path:
    """The run folder of a small model trained for one epoch; tests must not change it."""
    from explllm.cli import main

    run_dir = tmp_path_factory.mktemp("fitted") / "small"
    assert main(["fit", "--config", str(small_config), "--run_dir", str(run_dir)]) == 0
    return run_dir


def _load(path):
    """Import a module that lies among the tests."""
    name = path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    # Its dataclasses look their own module up.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def chat_server():
    """The module of the scripted chat server on loopback."""
    return _load(REPOSITORY / "tests" / "chat_server.py")


@pytest.fixture(scope="session")
def publishers():
    """The module that writes fake copies of data sets in their publishers' layouts."""
    return _load(REPOSITORY / "tests/data/publishers.py")


@pytest.fixture(scope="session")
def model_script():
    """The answers of a rule-based language model: see tests/engine/model_script.py."""
    return _load(REPOSITORY / "tests" / "engine" / "model_script.py")


@pytest.fixture
def engine_server(chat_server, model_script):
    """A server on loopback that answers the engine's prompts."""
    with chat_server.ChatServer(lambda received: chat_server.Reply(model_script.answer(received))) as running:
        yield running


NOTICE = "The faces are drawn by a program, not photographs."


@pytest.fixture(scope="session")
def made_up():
    """Adds answers to a table of faces: the greater `skill`, the more of them are right."""

    def answer(frame, seed=0, skill=1.2, labels=tuple(LABEL_SETS["rafdb"])):
        random = np.random.default_rng(seed)
        table = frame[["image", "expression"]].reset_index(drop=True)
        names = [str(label) for label in labels]
        logits = random.normal(size=(len(table), len(names)))
        logits[np.arange(len(table)), [names.index(truth) for truth in table["expression"]]] += skill
        shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        table["predicted"] = [names[place] for place in shares.argmax(1)]
        return table.join(pd.DataFrame(shares, columns=[f"p_{name}" for name in names]))

    return answer


@pytest.fixture(scope="session")
def metrics_of():
    """Computes what ``metrics.json`` holds after a test with these predictions."""
    # Imported here: the process that only distributes the tests needs neither torch nor torchmetrics.
    from explllm.metrics.answers import Answers
    from explllm.metrics.evaluation import recognition_metrics

    def compute(table, root="faces", labels=None, **more):
        metrics = {
            **recognition_metrics(Answers.from_table(table, labels)),
            "unreadable": [],
            "root": str(root),
            **more,
        }
        return {
            **{f"test/{name}": value for name, value in metrics.items()},
            "training_data_note": NOTICE,
            "explllm": "9.9",
        }

    return compute


@pytest.fixture(scope="session")
def drawn_table(drawn_faces):
    """The table of the drawn test faces."""
    frame = Manifest.read(drawn_faces / "manifest.parquet").frame
    return frame[frame["split"] == "test"].reset_index(drop=True)


@pytest.fixture
def tested(drawn_table, drawn_faces, made_up, metrics_of, tmp_path):
    """Writes a run folder that holds a test."""

    def write(name, frame=None, **options):
        table = made_up(drawn_table if frame is None else frame, **options)
        folder = tmp_path / name
        folder.mkdir(parents=True)
        Manifest(table, drawn_faces).write(folder / "predictions.parquet")
        held = metrics_of(table, drawn_faces)
        Path(folder / "metrics.json").write_text(json.dumps(held), encoding="utf-8")
        return folder

    return write


@pytest.fixture(scope="module")
def browser():
    """Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("there is no chromium on this machine: apt install chromium")
    options = ["no-sandbox", "no-first-run"]
    options += [f"disable-{name}" for name in ("gpu", "quic", "sync", "component-update", "background-networking")]
    with pytest.MonkeyPatch.context() as environment:
        if len(tempfile.gettempdir()) > 50:
            environment.setenv("TMPDIR", "/tmp")  # Chromium makes a socket there, whose path is short
        with playwright.sync_playwright() as started:
            arguments = [f"--{name}" for name in options]
            opened = started.chromium.launch(executable_path=chromium, args=arguments, timeout=120_000)
            yield opened
            opened.close()
