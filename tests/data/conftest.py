"""Data modules prepared for a model, and fake copies of data sets."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch

from explllm.conversation.encoder import ConversationEncoder
from explllm.faces.pixels import IMAGE_PRESETS
from explllm.models.build import small_tokenizer


@pytest.fixture(scope="session")
def conversations():
    return ConversationEncoder(small_tokenizer(1024, "plain"), 16)


@dataclass
class Rank:
    """The attributes of a Trainer that a data module reads, for one rank of several."""

    global_rank: int = 0
    world_size: int = 1
    ckpt_path: str | None = None
    global_step: int = 0
    accumulate_grad_batches: int = 1
    limit_val_batches: float = 1.0
    strategy: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(root_device=torch.device("cpu")))


@pytest.fixture
def ready(conversations):
    """Prepares a data module for a model and a stage, as a Trainer does."""

    def set_up(data, stage="fit", image=IMAGE_PRESETS["small"], **rank):
        data.trainer = Rank(**rank)
        data.prepare_for(SimpleNamespace(conversations=conversations, image=image))
        data.setup(stage)
        return data

    return set_up


@pytest.fixture
def answers(conversations):
    """Decodes the answers in the labels of a batch."""
    return lambda batch: [conversations.decode(row[row != -100]) for row in batch["labels"]]
