"""A tiny model behind a real server on loopback."""

import base64
import contextlib
import threading
import time
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image

from explllm.app.explainer import Explainer
from explllm.models.build import NetworkSettings, build

TOKENS = 12


@pytest.fixture(scope="session")
def model():
    torch.manual_seed(0)
    return build(NetworkSettings(preset="tiny", labels="rafdb"))


@pytest.fixture(scope="session")
def pictures(drawn_faces):
    """Six different faces as files."""
    return [path.read_bytes() for path in sorted(drawn_faces.rglob("*.png"))[:6]]


@pytest.fixture(scope="session")
def data_url():
    return lambda content: f"data:image/png;base64,{base64.b64encode(content).decode()}"


@pytest.fixture(scope="session")
def expected(model, pictures):
    """What the model answers directly, for each face."""
    return model.recognize_and_explain([Image.open(BytesIO(content)) for content in pictures], TOKENS)


@pytest.fixture(scope="session")
def detector(reference_data):
    """A real SCRFD detector."""
    pytest.importorskip("insightface", reason='no insightface: pip install "explllm[faces]"')
    from explllm.faces.detector import FaceDetector

    return FaceDetector(reference_data / "detector/scrfd_500m_bnkps.onnx", threads=1)


@pytest.fixture(scope="session")
def group():
    """A photograph of six people."""
    insightface = pytest.importorskip("insightface", reason='no insightface: pip install "explllm[faces]"')
    return Path(insightface.__file__).parent / "data/images/t1.jpg"


@pytest.fixture(scope="module")
def explainer(model):
    running = Explainer(model, batch_size=4, max_new_tokens=TOKENS, max_waiting=64)
    yield running
    running.close()


@contextlib.contextmanager
def serving(app, options):
    """Run an application on loopback; yields its address."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=1, **options))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="session")
def serve():
    """Serves an explainer with settings; a context that yields the address."""

    from explllm.app.server import ServerSettings, create_server, uvicorn_options

    def start(explainer, **options):
        settings = ServerSettings(name="tiny", **options)
        return serving(create_server(explainer, settings), uvicorn_options(settings))

    return start


@pytest.fixture(scope="module")
def address(serve, explainer):
    with serve(explainer, max_megabytes=1) as running:
        yield running
