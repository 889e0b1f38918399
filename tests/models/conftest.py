import pytest
import torch

from explllm.core.expressions import LABEL_SETS
from explllm.models.build import NetworkSettings, build
from explllm.models.released.convert import convert_released

DINO = {
    "model_type": "dinov2",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}


@pytest.fixture(scope="session")
def tiny_model():
    """The preset `tiny` with random weights. Tests must not change it."""
    torch.manual_seed(0)
    return build(NetworkSettings(preset="tiny", labels=list(LABEL_SETS["rafdb"]), vocabulary=700))


@pytest.fixture(scope="session")
def converted(golden, tmp_path_factory):
    """The released checkpoint, converted. Tests must not change it."""
    folder = tmp_path_factory.mktemp("converted") / "model"
    convert_released(golden / "checkpoint", folder)
    return folder


def _lora_settings():
    return NetworkSettings(
        preset="tiny",
        vision=DINO,
        language=LLAMA,
        vision_train="lora",
        language_train="lora",
        image_preset="dinov2",
        image_size=56,
        chat_format="vicuna",
        labels=list(LABEL_SETS["rafdb"]),
        vocabulary=700,
    )


@pytest.fixture
def lora_settings():
    """A DINOv2 and a Llama with random weights and LoRA."""
    return _lora_settings()


@pytest.fixture(scope="session")
def new_lora_settings():
    """A function that returns new `lora_settings`, for fixtures of a wider scope."""
    return _lora_settings
