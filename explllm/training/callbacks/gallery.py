"""A few explained faces after each validation."""

from pathlib import Path

import numpy as np
import pandas as pd
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from explllm.core.errors import ConfigError
from explllm.core.files import atomic_write
from explllm.faces.crop import load_face
from explllm.report.explained import ExplainedFace
from explllm.report.page import render_page
from explllm.training.sample import explain_sample
from explllm.training.task import ExpLLMTask

FOLDER = "gallery"
_COLUMNS = ("step", "image", "expression", "predicted", "probability", "cot")


class Gallery(Callback):
    """Explains the same faces after every validation; writes a page and a table to the run folder, and logs images.

    TensorBoard and loggers with a method `log_image` receive the images. Weights & Biases uploads them to its server.
    """

    def __init__(self, faces: int = 4) -> None:
        """Configure the gallery.

        Args:
            faces: Number of validation faces.

        Raises:
            ConfigError: If `faces` is less than 1.
        """
        if faces < 1:
            raise ConfigError(f"`faces` must be at least 1, got {faces}", remedy="Set 1 or more.")
        self.faces = faces

    def on_validation_end(self, trainer: Trainer, pl_module: ExpLLMTask) -> None:  # pyrefly: ignore[bad-override]
        """Explain the faces, write the page and the table, and send the faces to the loggers."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        faces = list(explain_sample(trainer, pl_module, self.faces).values())
        if not trainer.is_global_zero:
            return
        folder, step = Path(trainer.default_root_dir) / FOLDER, trainer.global_step
        folder.mkdir(parents=True, exist_ok=True)
        note: str = trainer.datamodule.training_data_note  # pyrefly: ignore[missing-attribute]
        with atomic_write(folder / f"step_{step:07}.html") as temporary:
            page = render_page("gallery.html.jinja", step=step, faces=faces, notices=[note] if note else [])
            temporary.write_text(page, encoding="utf-8")
        _append(folder / "explained.csv", step, faces)
        for logger in trainer.loggers:
            _log_faces(logger, faces, step, note)


def _log_faces(logger: Logger, faces: list[ExplainedFace], step: int, note: str) -> None:
    """Log images and texts to TensorBoard, or to a logger with `log_image`, such as Weights & Biases."""
    pictures = [np.asarray(load_face(face.image, face.box, face.margin)) for face in faces]
    texts = [f"**{face.recognition.expression}** (labeled {face.expression})\n\n{face.cot.text}" for face in faces]
    if isinstance(logger, TensorBoardLogger):
        for number, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
            logger.experiment.add_image(f"gallery/{number}", picture, step, dataformats="HWC")
            logger.experiment.add_text(f"gallery/{number}", text, step)
        if note:
            logger.experiment.add_text("gallery/training_data_note", note, step)
    elif hasattr(logger, "log_image"):
        captions = [f"{text}\n\n{note}" if note else text for text in texts]
        logger.log_image("gallery", pictures, step=step, caption=captions)


def _append(path: Path, step: int, faces: list[ExplainedFace]) -> None:
    predictions = [(face.recognition.expression, f"{face.recognition.confidence:.4f}") for face in faces]
    rows = [
        (step, face.image, face.expression, *predicted, face.cot.text)
        for face, predicted in zip(faces, predictions, strict=True)
    ]
    pd.DataFrame(rows, columns=list(_COLUMNS)).to_csv(path, mode="a", header=not path.is_file(), index=False)
