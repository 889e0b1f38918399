"""The gallery on TensorBoard, read back from the event file that a fit wrote."""

import io
import json
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from explllm.data.datamodules import DrawnFaces
from explllm.faces.pixels import load_image
from explllm.models.build import NetworkSettings
from explllm.training.callbacks.gallery import Gallery
from explllm.training.task import ExpLLMTask

pytest.importorskip("tensorboard")


def test_faces_and_words_reach_tensorboard(explllm, small_settings, drawn_faces, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    settings = json.loads(json.dumps(small_settings))
    settings["trainer"] |= {
        "max_epochs": 2,
        "logger": {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "events", "name": "small"}},
        "callbacks": [{"class_path": "Gallery", "init_args": {"faces": 2}}],
    }
    (tmp_path / "shown.yaml").write_text(yaml.safe_dump(settings))
    done = explllm("fit", "--config", "shown.yaml")
    assert done.status == 0, done.err

    # Lightning writes the hyperparameters to a file of the same name.
    hparams = yaml.safe_load(next((tmp_path / "events").rglob("hparams.yaml")).read_text())
    assert hparams["data"]["init_args"]["batch_size"] == 32
    [file] = (tmp_path / "events").rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file), size_guidance={"images": 0, "tensors": 0}).Reload()
    table = pd.read_csv(tmp_path / "runs/small/gallery/explained.csv", keep_default_na=False)
    steps = sorted(set(table["step"]))
    assert len(steps) == 2 and len(table) == 4
    assert events.Tags()["images"] == ["gallery/0", "gallery/1"]
    for number in range(2):
        told = table[table["image"] == table["image"].unique()[number]].sort_values("step")
        pictures = events.Images(f"gallery/{number}")
        words = [
            tensor_util.make_ndarray(entry.tensor_proto).item().decode()
            for entry in events.Tensors(f"gallery/{number}/text_summary")
        ]
        assert [entry.step for entry in pictures] == steps
        for entry, text, row in zip(pictures, words, told.itertuples(), strict=True):
            shown = np.asarray(Image.open(io.BytesIO(entry.encoded_image_string)))
            assert np.array_equal(shown, np.asarray(load_image(row.image)))
            assert text.startswith(f"**{row.predicted}** (labeled {row.expression})") and text.endswith(row.cot)
    [notice, *_] = events.Tensors("gallery/training_data_note/text_summary")
    assert "drawn by a program" in tensor_util.make_ndarray(notice.tensor_proto).item().decode()


class ImageLogger(CSVLogger):
    """A logger with `log_image`, like Lightning's WandbLogger."""

    images: ClassVar[list] = []

    def log_image(self, key, images, step=None, **kwargs):
        self.images.append((key, images, step, kwargs["caption"]))


def test_loggers_with_images_and_hyperparameters(small_settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = DrawnFaces(**small_settings["data"]["init_args"] | {"augment": None})
    task = ExpLLMTask(NetworkSettings(**small_settings["model"]["init_args"]["network"]), max_new_tokens=4)
    logger = ImageLogger(tmp_path)
    Trainer(max_steps=1, limit_train_batches=1, callbacks=[Gallery(2)], logger=logger, accelerator="cpu").fit(
        task, data
    )
    [(key, images, step, captions)] = ImageLogger.images
    assert (key, step, len(images), images[0].shape) == ("gallery", 1, 2, (64, 64, 3))
    assert all("labeled" in caption and "drawn by a program" in caption for caption in captions)


def test_hyperparameters_reach_the_csv_logger(fitted):
    hparams = yaml.safe_load((fitted / "logs/version_0/hparams.yaml").read_text())
    assert hparams["model"]["init_args"]["optimization"]["learning_rate"] == 1e-3
