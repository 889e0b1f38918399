"""What loaders need of a trainer and a model, and fake copies of data sets."""

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from explllm.conversation.encoder import ConversationEncoder
from explllm.faces.pixels import IMAGE_PRESETS
from explllm.models.build import small_tokenizer


@pytest.fixture(scope="session")
def conversations():
    return ConversationEncoder(small_tokenizer(1024, "plain"), 16)


@pytest.fixture(scope="session")
def publishers():
    """The module that writes fake copies of data sets in their publishers' layouts."""
    spec = importlib.util.spec_from_file_location("publishers", Path(__file__).with_name("publishers.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass
class Place:
    """What a data module asks of its trainer, for a rank of several."""

    lightning_module: SimpleNamespace
    global_rank: int = 0
    world_size: int = 1
    ckpt_path: str | None = None
    global_step: int = 0
    accumulate_grad_batches: int = 1
    limit_val_batches: float = 1.0
    strategy: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(root_device=torch.device("cpu")))


@pytest.fixture
def ready(conversations):
    """Sets a data module up for a stage."""

    def set_up(data, stage="fit", **place):
        model = SimpleNamespace(conversations=conversations, image=IMAGE_PRESETS["small"])
        data.trainer = Place(model, **place)
        data.setup(stage)
        return data

    return set_up


@pytest.fixture
def answers(conversations):
    """Reads the texts that the conversations of a batch are to learn."""
    return lambda batch: [conversations.decode(row[row != -100]) for row in batch["labels"]]
