"""The command ``explllm serve``: a model as an HTTP server."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated

from explllm.commands.parser import Option
from explllm.commands.pictures import AUTO, check_device, open_detector
from explllm.core.errors import ConfigError

KEY_VARIABLE = "EXPLLLM_API_KEY"


def serve(
    *,
    model: Annotated[str | None, Option(default="the model that comes with explllm")] = None,
    device: Annotated[str | None, Option(default="cpu")] = None,
    host: str = "127.0.0.1",
    port: Annotated[int, Option(minimum=0, maximum=65535)] = 8000,
    name: Annotated[str | None, Option(default="the folder's name")] = None,
    detector: str = AUTO,
    batch_size: Annotated[int, Option(minimum=1, maximum=1024)] = 8,
    max_new_tokens: Annotated[int, Option(minimum=1, maximum=32768)] = 320,
    max_waiting: Annotated[int, Option(minimum=1)] = 1024,
    max_megabytes: Annotated[int, Option(minimum=1, maximum=1024)] = 20,
    max_faces: Annotated[int, Option(minimum=1)] = 64,
    rate: Annotated[int | None, Option(minimum=1, default="no limit")] = None,
    timeout: Annotated[float, Option(minimum=1)] = 120,
    read_timeout: Annotated[float, Option(minimum=1)] = 30,
    allow_urls: bool = False,
) -> int:
    """Serve a model over HTTP with an OpenAI-compatible API.

    Routes: /v1/chat/completions (one picture in the messages; answers as text, JSON, or a stream), /recognize (many
    pictures, without explanations), /v1/models, /health, /metrics (Prometheus), /schema, /openapi.json.

      explllm serve --model runs/demo/model
      EXPLLLM_API_KEY=... explllm serve --model DIR --host 0.0.0.0 --rate 60
      explllm serve --model DIR --device cuda --batch_size 32 --detector scrfd.onnx

    Requests that arrive at different times share the model's batches. If the environment variable EXPLLLM_API_KEY is
    set, clients must send it as a bearer token. No picture is stored or logged. If the server is reachable from the
    internet, put it behind a TLS proxy.

    Args:
        model: A model folder that `fit` or `convert` wrote, such as runs/NAME/model, or a name on the Hugging Face hub.
        device: Device to run the model on, such as cuda or cpu.
        host: Address to listen on; 0.0.0.0 for all interfaces.
        port: Port to listen on; 0 for any free port.
        name: The model's name for clients.
        detector: Face detector for pictures that are not face crops (the largest face is used): an SCRFD file (ONNX),
            none, or auto for the detector that `explllm models get scrfd` downloads, if present.
        batch_size: Number of explanations generated together.
        max_new_tokens: Maximum length of an explanation, in tokens.
        max_waiting: Maximum number of queued faces; requests beyond it are rejected.
        max_megabytes: Maximum size of a request.
        max_faces: Maximum number of pictures in a request to /recognize.
        rate: Requests per minute per client address, plus an initial burst of up to the same number.
        timeout: Maximum seconds until a request is answered; after that, it fails.
        read_timeout: Maximum seconds to receive the headers of a request, and again to receive its body.
        allow_urls: Fetch pictures from public http and https addresses.

    Raises:
        InputError: If a package is not installed, or the model, the detector, the device or the address does not exist
            or cannot be used.
    """
    try:
        import uvicorn

        from explllm.app.server import ServerSettings, create_server, uvicorn_options
    except ImportError as error:
        raise ConfigError(
            f"the package {error.name} is not installed", remedy='Install it: pip install "explllm[serve]".'
        ) from error
    check_device(device)
    check_address(host, port)
    from explllm.app.explainer import Explainer
    from explllm.models.explllm import ExpLLM
    from explllm.models.known import shipped_model

    opened, lines = open_detector(detector)
    sys.stderr.write("".join(f"{line}\n" for line in lines))
    folder = model or str(shipped_model())
    loaded = ExpLLM.from_pretrained(folder, device=device)
    key = os.environ.get(KEY_VARIABLE) or None
    if loaded.config.training_data_note:
        sys.stderr.write(f"Note: training data of this model: {loaded.config.training_data_note}\n")
    if key is None and host not in ("127.0.0.1", "localhost", "::1"):
        sys.stderr.write(f"Warning: anyone who can reach {host} can use the server; set {KEY_VARIABLE}.\n")
    settings = ServerSettings(
        name=name or model_name(folder),
        key=key,
        max_megabytes=max_megabytes,
        max_faces=max_faces,
        per_minute=rate,
        timeout=timeout,
        read_seconds=read_timeout,
        allow_urls=allow_urls,
    )
    # The model's thread releases the GIL in each operation. By default, it would then wait up to 5 ms to get the GIL
    # back from the thread that reads requests, which is as long as a forward pass of a small model.
    sys.setswitchinterval(1e-4)
    explainer = Explainer(loaded, batch_size, max_new_tokens, max_waiting)
    try:
        uvicorn.run(
            create_server(explainer, settings, opened),
            host=host,
            port=port,
            limit_concurrency=max_waiting + 64,
            timeout_graceful_shutdown=5,
            **uvicorn_options(settings),
        )
    finally:
        explainer.close()
    return 0


def check_address(host: str, port: int | None) -> None:
    """Check that a server can listen at an address, before the model is loaded.

    Args:
        host: Address to listen on.
        port: Port to listen on; None for any free one.

    Raises:
        ConfigError: If the address is invalid or in use, or does not belong to this machine.
    """

    async def listen() -> None:
        # The same call that uvicorn makes later.
        loop = asyncio.get_running_loop()
        (await loop.create_server(asyncio.Protocol, host, port or 0, start_serving=False)).close()

    try:
        asyncio.run(listen())
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None) or 0
        # Errors in host names have negative numbers. Other errors would repeat the address in their own text.
        reason = os.strerror(number) if number > 0 else getattr(error, "strerror", None) or "not a host name"
        where = host if port is None else f"{host}:{port}"
        remedy = "Choose another --host or --port."
        raise ConfigError(f"the server cannot listen: {reason}", where=where, remedy=remedy) from error


def model_name(model: str) -> str:
    """Return the name of a model folder; for ``runs/NAME/model``, NAME."""
    path = Path(model).resolve()
    return path.parent.name if path.name == "model" else path.name
