"""The command ``explllm app``: a web page that explains faces."""

from __future__ import annotations

import signal
import sys
from contextlib import ExitStack, closing
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from explllm.commands.parser import Option
from explllm.commands.pictures import AUTO, check_device, open_detector
from explllm.commands.serve import check_address, model_name
from explllm.commands.streaming import EstimatorOptions
from explllm.core.errors import ConfigError
from explllm.faces.estimators import selected_estimator


def app(
    *,
    model: Annotated[list[str] | None, Option(default="the model that comes with explllm")] = None,
    device: Annotated[str | None, Option(default="cpu")] = None,
    detector: str = AUTO,
    host: str = "127.0.0.1",
    port: Annotated[int | None, Option(minimum=1, maximum=65535, default="the first free port from 7860")] = None,
    batch_size: Annotated[int, Option(minimum=1, maximum=1024)] = 8,
    max_new_tokens: Annotated[int, Option(minimum=1, maximum=32768)] = 320,
    estimator: EstimatorOptions,
) -> int:
    """Open a web page that explains faces.

    Drop, paste or take a picture: the page shows the probability of each expression and streams the three-part
    explanation. Each action unit in the text is highlighted; hover over it to see its bar and its position on the face.
    With two models, their answers appear side by side. The second tab processes many pictures and produces a table and
    a report.

      explllm app --model runs/demo/model
      explllm app --model runs/one/model runs/two/model

    The page works offline. Pictures stay on this machine and are deleted when the command ends.

    Args:
        model: A model folder that `fit` or `convert` wrote, such as runs/NAME/model, or a name on the Hugging Face hub;
            several can be compared.
        device: Device to run the models on, such as cuda or cpu.
        detector: Face detector for pictures that are not face crops: an SCRFD file (ONNX), none, or auto for the
            detector that `explllm models get scrfd` downloads, if present.
        host: Address to listen on; 0.0.0.0 for all interfaces.
        port: Port to listen on.
        batch_size: Number of explanations generated together.
        max_new_tokens: Maximum length of an explanation, in tokens.
        estimator: An estimator whose action units are compared with the explanation, and its options.

    Raises:
        InputError: If gradio is not installed, or a model, the detector, the estimator, the device or the address does
            not exist or cannot be used.
    """
    if find_spec("gradio") is None:
        raise ConfigError("the package gradio is not installed", remedy='Install it: pip install "explllm[app]".')
    check_device(device)
    # gradio accepts IPv6 addresses in brackets, which the check does not.
    check_address(host.strip("[]"), port)
    from explllm.app.explainer import Explainer
    from explllm.app.page import Services, create_page, example_pictures, launch, temporary_folder
    from explllm.models.explllm import ExpLLM
    from explllm.models.known import shipped_model

    spec = selected_estimator(estimator)
    _exit_on_signals()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(temporary_folder()))
        explainers: dict[str, Explainer] = {}
        for path in model or [str(shipped_model())]:
            loaded = ExpLLM.from_pretrained(path, device=device)
            name = model_name(path)
            while name in explainers:
                name += "'"
            explainers[name] = stack.enter_context(closing(Explainer(loaded, batch_size, max_new_tokens)))
        opened, lines = open_detector(detector)
        sys.stderr.write("".join(f"{line}\n" for line in lines))
        measuring = stack.enter_context(closing(spec.open())) if spec else None
        services = Services(explainers, opened, measuring, max_new_tokens)
        blocks = create_page(services, example_pictures(folder, opened is not None))
        address = launch(blocks, host, port, prevent_thread_lock=True)
        sys.stderr.write(f"The page is at {address}. Press Ctrl-C to stop it.\n")
        stack.callback(blocks.close, verbose=False)
        blocks.block_thread()
    return 0


def _exit_on_signals() -> None:
    """Turn SIGTERM and SIGHUP into `SystemExit`; by default, they end the process without deleting the pictures."""
    # Windows has no SIGHUP, and under nohup it is ignored.
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    numbers = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]

    def stop(number: int, _: object) -> None:
        # A closed terminal can send SIGHUP twice. The second one must not interrupt the deletion.
        for other in numbers:
            signal.signal(other, signal.SIG_IGN)
        sys.exit(128 + number)

    for number in numbers:
        signal.signal(number, stop)
