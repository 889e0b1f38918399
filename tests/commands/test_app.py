"""The command of the web page: its address and its end."""

import os
import signal
import socket
import tempfile

import pytest

pytest.importorskip("gradio", reason='no gradio: pip install "explllm[app]"')


def test_an_address_that_cannot_be_used(explllm):
    """The command says so before it loads the model, which does not exist here."""
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        for options, reason in (
            (("--port", port), f"Address already in use [127.0.0.1:{port}]"),
            (("--host", "192.0.2.1"), "Cannot assign requested address [192.0.2.1]"),
        ):
            done = explllm("app", "--model", "none", *options)
            message = f"error: the server cannot listen: {reason}. Choose another --host or --port."
            assert done.status == 2 and done.error == message


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signals_delete_the_pictures(explllm, fitted, tmp_path, monkeypatch, name):
    number = getattr(signal, name)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # the end of the test restores it

    def launch(*_, **__):
        assert list(tmp_path.glob("explllm-app-*/drawn"))
        os.kill(os.getpid(), number)
        raise AssertionError("not stopped")

    monkeypatch.setattr("explllm.app.page.launch", launch)
    previous = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGHUP)}
    try:
        signal.signal(number, lambda *_: None)
        with pytest.raises(SystemExit) as stopped:
            explllm("app", "--model", fitted / "model")
    finally:
        for one, handler in previous.items():
            signal.signal(one, handler)
    assert stopped.value.code == 128 + number and not list(tmp_path.glob("explllm-app-*"))
