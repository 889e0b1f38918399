"""The gallery on TensorBoard, read back from the event file that a fit wrote."""

import io
import json

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from explllm.faces.pixels import load_image

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
