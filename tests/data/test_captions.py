"""Captions in LLaVA's layout as training data."""

import json
import shutil

import pytest

from explllm.data.datamodules import CaptionedImages


def entry(image, caption):
    asked = {"from": "human", "value": "Give a brief description.\n<image>"}
    return {"id": image, "image": image, "conversations": [asked, {"from": "gpt", "value": caption}]}


@pytest.fixture
def listed(drawn_faces, tmp_path):
    """Twelve real images in LLaVA's layout."""
    (tmp_path / "images").mkdir()
    entries = []
    for number, path in enumerate(sorted((drawn_faces / "train").glob("*.png"))[:12]):
        shutil.copy(path, tmp_path / "images")
        entries.append(entry(path.name, f" a drawing of face {number} \n"))
    (tmp_path / "chat.json").write_text(json.dumps(entries))
    return tmp_path


def test_as_training_data(listed, ready, answers):
    data = ready(CaptionedImages(listed, batch_size=4, micro_batch_size=4))
    assert data.conversation_kind == "captions" and data.trainer.limit_val_batches == 0
    batches = list(data.train_dataloader())
    assert all(batch["expressions"].tolist() == [-1] * 4 for batch in batches)
    said = {answer.strip() for batch in batches for answer in answers(batch)}
    assert said == {f"a drawing of face {number}" for number in range(12)}
    assert data.training_data_note == ""


def test_trains_by_the_command(listed, explllm, small_config):
    named = ("--data", "CaptionedImages", "--data.root", listed, "--data.batch_size", 8, "--data.micro_batch_size", 4)
    frozen = ("--model.network.vision_train", "frozen", "--model.network.language_train", "frozen")
    done = explllm("fit", "--config", small_config, *named, *frozen)
    assert done.status == 0 and done.err == ""
    assert "vision 0, projector 2,112, language 0; 2,112 in total" in done.out
    (listed / "images" / "00000-fear.png").unlink()
    error = explllm("fit", "--config", small_config, *named, *frozen).error
    assert "1 image cannot be read, last " in error and "00000-fear.png: the image does not exist" in error
