"""The HTML page of a run: one self-contained file, no network."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader

from explllm.core.chain_of_thought import ChainOfThought
from explllm.core.expressions import Expression
from explllm.core.files import written_whole
from explllm.faces.pixels import load_image

if TYPE_CHECKING:
    from explllm.models.recognition import Recognition


@dataclass(frozen=True)
class ExplainedFace:
    """A face with what the model says of it."""

    image: Path
    """The image's file."""
    expression: Expression
    """The true label."""
    recognition: "Recognition"
    """What the model recognised."""
    cot: ChainOfThought
    """What the model wrote."""

    @property
    def data_url(self) -> str:
        """The image, at most 224 pixels wide and high, as a JPEG inside a URL."""
        image = load_image(self.image)
        image.thumbnail((224, 224))
        held = io.BytesIO()
        image.save(held, "JPEG", quality=85)
        return "data:image/jpeg;base64," + base64.b64encode(held.getvalue()).decode()


def write_report(path: Path, name: str, metrics: Mapping[str, Any], faces: Sequence[ExplainedFace]) -> None:
    """Write the page, whole.

    Args:
        path: The file.
        name: The run's name.
        metrics: The content of ``metrics.json``.
        faces: Explained faces to show.
    """
    environment = Environment(loader=PackageLoader("explllm.report"), autoescape=True)
    page = environment.get_template("report.html.jinja").render(name=name, metrics=metrics, faces=faces)
    with written_whole(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
