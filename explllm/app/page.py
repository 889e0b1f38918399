"""The web page of ``explllm app``: one picture at a time, two models side by side, and folders of pictures.

The page loads nothing from other machines. Pictures stay on this machine, in a temporary folder that is deleted when
the command ends.
"""

from __future__ import annotations

import os
import queue
import tempfile
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import EpsImagePlugin

from explllm.app.batch import describe_batch
from explllm.app.explainer import Answer, Explainer, Job
from explllm.app.photographs import MAX_PIXELS, Photograph, open_photograph, preprocess
from explllm.app.views import FaceView, face_html, message_html, photograph_html, square_in_crop, style
from explllm.core.errors import ImageError, InputError
from explllm.faces.crop import DEFAULT_MARGIN
from explllm.faces.detector import FaceDetector
from explllm.faces.estimators import Estimator, Intensities
from explllm.faces.images import register_heif
from explllm.models.generation import Recognition

_REFRESH_SECONDS = 0.12
"""Minimum seconds between updates of a streamed text."""

_ASTRONAUT = (154, 48, 298, 192)
"""Box of the face in scikit-image's picture of an astronaut: left, top, right, bottom."""
_LEAD = (
    "A model recognizes a facial expression and explains it in terms of facial action units. An expression is what a "
    "face shows, not what a person feels. Pictures stay on the machine that runs this page."
)


@dataclass(frozen=True)
class Services:
    """The models (by name) and the optional helpers that the page uses."""

    explainers: dict[str, Explainer]
    detector: FaceDetector | None = None
    estimator: Estimator | None = None
    max_new_tokens: int = 320


class Page:
    """The handlers behind the page. Nothing here depends on gradio."""

    def __init__(self, services: Services) -> None:
        """Store the services."""
        self.services = services
        self._measuring = threading.Lock()

    def look(self, path: str | None) -> tuple[Photograph | None, str]:
        """Read a picture; return it with an empty message, or None with the reason as HTML (empty if `path` is)."""
        if not path:
            return None, ""
        try:
            return open_photograph(Path(path).read_bytes(), self.services.detector, max_pixels=MAX_PIXELS), ""
        except (InputError, OSError) as error:
            return None, message_html(str(error))

    def measure(self, photograph: Photograph, face: int) -> Intensities | None:
        """Return the measured action units of a face; None without an estimator, or if it cannot measure the face."""
        estimator = self.services.estimator
        if estimator is None:
            return None
        with self._measuring:
            [units] = estimator.estimate([photograph.crop(face, estimator.margin)])
        return units

    def explain(self, photograph: Photograph, face: int, names: Sequence[str]) -> Generator[list[str], None, None]:
        """Explain one face with several models at the same time.

        Yields:
            The HTML of each model's answer so far.
        """
        units = self.measure(photograph, face)
        events: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        views, jobs = [], []
        for slot, name in enumerate(names):
            model = self.services.explainers[name].model
            margin = DEFAULT_MARGIN if model.config.margin is None else model.config.margin
            views.append(
                FaceView(
                    photograph.crop(face, margin),
                    square_in_crop(photograph.boxes[face], margin),
                    name,
                    action_units=units,
                    source=self.services.estimator.name if self.services.estimator and units else None,
                    warnings=photograph.warnings,
                    note=model.config.training_data_note,
                )
            )

            def put(item: Any, slot: int = slot) -> None:
                events.put((slot, item))

            job = Job(preprocess(model, photograph, face), self.services.max_new_tokens, put, put)
            job.result.add_done_callback(put)
            jobs.append(job)
        try:
            for job, name in zip(jobs, names, strict=True):
                self.services.explainers[name].submit(job)
            yield [face_html(view) for view in views]
            shown = time.monotonic()
            while not all(view.done for view in views):
                slot, item = events.get()
                views[slot] = _with(views[slot], item, jobs[slot])
                # Show several pieces of text at once if they arrive within a short time.
                if time.monotonic() - shown >= _REFRESH_SECONDS or isinstance(item, Recognition) or views[slot].done:
                    yield [face_html(view) for view in views]
                    shown = time.monotonic()
        finally:
            for job in jobs:
                job.cancel()


def _with(view: FaceView, item: Any, job: Job) -> FaceView:
    """Return a view updated with an event: a recognition, a piece of text, or the end."""
    if isinstance(item, Recognition):
        return replace(view, recognition=item)
    if isinstance(item, str):
        return replace(view, text=view.text + item)
    answer: Answer = job.result.result()
    warnings = view.warnings if answer.complete else (*view.warnings, "The text reached its maximum length.")
    return replace(view, recognition=answer.recognition, text=answer.text, done=True, warnings=warnings)


def create_page(services: Services, examples: Sequence[Path] = ()) -> Any:
    """Create the gradio page.

    Args:
        services: The models and helpers.
        examples: Example pictures that the page offers.

    Returns:
        A ``gradio.Blocks``; `launch` serves it.
    """
    # gradio reads this when it is imported.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio as gr

    # gradio opens pictures with Pillow, too: it would reject HEIC, and run the program in an EPS file with Ghostscript.
    EpsImagePlugin.gs_binary = False
    with suppress(ImageError):
        register_heif()
    page, gr_progress = Page(services), gr.Progress()
    names = list(services.explainers)

    def look(path: str | None) -> tuple[Any, Any, Any]:
        photograph, message = page.look(path)
        count = len(photograph.boxes) if photograph else 0
        html = message or (photograph_html(photograph.image, photograph.boxes, 0) if photograph and count > 1 else "")
        choices = [(f"Face {number + 1}", number) for number in range(count)]
        outlines = gr.HTML(html, visible=bool(html))
        return photograph, outlines, gr.Radio(choices=choices, value=0 if count else None, visible=count > 1)

    def choose(photograph: Photograph | None, face: int | None) -> str:
        return "" if photograph is None else photograph_html(photograph.image, photograph.boxes, face or 0)

    def explain(photograph: Photograph | None, face: int | None, first: str, second: str | None) -> Iterator[Any]:
        chosen = [first, *([second] if second and second != first else [])]
        if photograph is None:
            yield "", gr.HTML("", visible=False)
            return
        try:
            with closing(page.explain(photograph, face or 0, chosen)) as states:
                for state in states:
                    yield state[0], gr.HTML(state[1] if len(state) > 1 else "", visible=len(state) > 1)
        except InputError as error:
            yield message_html(str(error)), gr.HTML("", visible=False)

    def batch(files: list[str] | None, name: str, explained: bool, progress: Any = gr_progress) -> tuple[str, Any, Any]:
        nothing = gr.File(None, visible=False)
        if not files:
            return message_html("Choose pictures or a zip file first."), nothing, nothing
        try:
            summary, table, report = describe_batch(
                files, services, name, explained, lambda done, total: progress((done, total), unit="pictures")
            )
        except InputError as error:
            return message_html(str(error)), nothing, nothing
        html = f'<p class="x-lead" role="status">{summary}</p>'
        return html, gr.File(str(table), visible=True), gr.File(str(report), visible=True)

    with gr.Blocks(title="explllm", analytics_enabled=False, delete_cache=(600, 3600)) as blocks:
        gr.HTML(f'<h1>Faces, explained</h1><p class="x-lead">{_LEAD}</p>')
        with gr.Tab("One picture"):
            state = gr.State()
            with gr.Row():
                with gr.Column(scale=2, min_width=280, elem_classes="x-input"):
                    picture = gr.Image(
                        type="filepath",
                        # Otherwise, gradio re-encodes files, clips 16 bits, and makes transparent pixels black.
                        image_mode=None,
                        sources=["upload", "clipboard", "webcam"],
                        # Mirroring a face would swap its left and right action units.
                        webcam_options=gr.WebcamOptions(mirror=False),
                        label="Picture",
                        height=320,
                    )
                    outlined = gr.HTML(visible=False)
                    face = gr.Radio(label="Face to explain", visible=False, interactive=True)
                    with gr.Row(visible=len(names) > 1):
                        first = gr.Dropdown(names, value=names[0], label="Model", interactive=True)
                        second = gr.Dropdown(
                            ["", *names],
                            value=names[1] if len(names) > 1 else "",
                            label="Compare with",
                            interactive=True,
                        )
                    again = gr.Button("Explain", variant="primary")
                    if examples:
                        gr.Examples(
                            [[str(path)] for path in examples], inputs=[picture], label="Examples", elem_id="examples"
                        )
                with gr.Column(scale=5, min_width=320), gr.Row(equal_height=False, elem_classes="x-pair"):
                    left = gr.HTML(elem_id="first", min_height=80)
                    right = gr.HTML(elem_id="second", visible=False)
            asked = [state, face, first, second]
            looked = picture.change(look, picture, [state, outlined, face], show_progress="hidden")
            started = looked.then(explain, asked, [left, right], show_progress="hidden")
            chosen = face.input(choose, [state, face], outlined, show_progress="hidden", cancels=[started])
            repeated = chosen.then(explain, asked, [left, right], show_progress="hidden")
            again.click(explain, asked, [left, right], show_progress="hidden", cancels=[started, repeated])
        with gr.Tab("Many pictures"):
            gr.HTML('<p class="x-lead">Turns pictures, a folder, or a zip file into a table and a report.</p>')
            files = gr.File(label="Pictures or a zip file", file_count="multiple", file_types=["image", ".zip"])
            folder = gr.File(label="A folder", file_count="directory")
            name = gr.Dropdown(names, value=names[0], label="Model", visible=len(names) > 1, interactive=True)
            explained = gr.Checkbox(True, label="With explanations (slower)")
            start = gr.Button("Start", variant="primary")
            summary = gr.HTML(elem_id="summary")
            with gr.Row():
                table = gr.File(label="Table (CSV)", interactive=False, visible=False)
                report = gr.File(label="Report (HTML)", interactive=False, visible=False)

            def both(one: list[str] | None, other: list[str] | None, *rest: Any) -> Any:
                return batch([*(one or []), *(other or [])], *rest)

            outputs = [summary, table, report]
            start.click(both, [files, folder, name, explained], outputs, show_progress_on=summary)
    blocks.queue(default_concurrency_limit=32)
    return blocks


def launch(blocks: Any, host: str, port: int | None, **options: Any) -> str:
    """Serve a page from `create_page`; return its address.

    Args:
        blocks: The page.
        host: Address to listen on.
        port: Port; None for a free one.
        options: Additional options of gradio's ``launch``.
    """
    import gradio as gr

    theme = gr.themes.Base(
        primary_hue="blue",
        neutral_hue="slate",
        # System fonts: other fonts would be downloaded.
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
    ).set(
        # White text on the theme's own blue has a contrast ratio of only 3.7.
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
    )
    _, address, _ = blocks.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        ssr_mode=False,
        pwa=False,
        footer_links=[],
        enable_monitoring=False,
        max_file_size="200mb",
        theme=theme,
        css=style(),
        **options,
    )
    return str(address)


def example_pictures(folder: Path, photographs: bool) -> list[Path]:
    """Write example pictures into a folder: drawn faces, and a real one if scikit-image is installed.

    Args:
        folder: The folder.
        photographs: Whether the page detects faces in photographs; otherwise the real example is a face crop.
    """
    from explllm.drawn_faces import draw_faces

    drawn = draw_faces(folder / "drawn", train=0, val=0, test=7, size=256)
    pictures = [drawn.image_path(number) for number in range(min(len(drawn), 5))]
    try:
        from PIL import Image
        from skimage import data

        photograph, image = folder / "astronaut.png", Image.fromarray(data.astronaut())
        (image if photographs else image.crop(_ASTRONAUT)).save(photograph)
        pictures.append(photograph)
    except ImportError:
        pass
    return [Path(path) for path in pictures]


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """Create a folder for the files of the page and of gradio; it is deleted at the latest when the process ends."""
    folder = tempfile.TemporaryDirectory(prefix="explllm-app-")
    os.environ["GRADIO_TEMP_DIR"] = folder.name
    return folder
