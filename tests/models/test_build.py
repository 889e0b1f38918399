import pytest
import torch

from explllm.core.errors import CheckpointError, ConfigError
from explllm.core.expressions import LABEL_SETS, Expression
from explllm.models.build import PRESETS, NetworkSettings, build, build_config, distinct_expressions, small_tokenizer
from explllm.models.explllm import ExpLLM

# The architectures behind the names of the preset `vicuna-7b`, as their configurations on the hub give them.
DINOV2_LARGE = {
    "model_type": "dinov2",
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 518,
    "patch_size": 14,
}
VICUNA_7B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
}


def test_the_papers_set_up_at_full_size_on_the_meta_device():
    settings = NetworkSettings(vision=DINOV2_LARGE, language=VICUNA_7B, labels="rafdb")
    config, tokenizer = build_config(settings)
    assert (config.image_tokens, config.vision_width) == (256, 1024)
    with torch.device("meta"):
        model = ExpLLM(config, tokenizer)
    counts = model.trainable_counts()
    assert counts == {"vision": 786_432, "projector": 20_979_712, "language": 4_194_304}
    assert sum(counts.values()) == 25_960_448  # the paper prints 8.7 M


def test_presets_give_every_setting():
    for name, preset in PRESETS.items():
        resolved = NetworkSettings(preset=name).resolved()
        assert resolved == preset
        changed = NetworkSettings(preset=name, vision_train="frozen", image_size=112).resolved()
        assert (changed.vision_train, changed.image_size, changed.language) == ("frozen", 112, preset.language)


def test_equal_seeds_give_equal_models():
    models = []
    for _ in range(2):
        torch.manual_seed(4)
        models.append(build(NetworkSettings(preset="tiny", vocabulary=700)))
    for (name, one), (_, other) in zip(*(model.state_dict().items() for model in models), strict=True):
        assert torch.equal(one, other), name


def test_small_tokenizer_is_deterministic_and_short():
    one, other = small_tokenizer(1024, "plain"), small_tokenizer(1024, "plain")
    assert one.get_vocab() == other.get_vocab()
    # What the offline writer says is in whole words before the vocabulary is full.
    assert 600 < len(one) <= 1024
    for label in Expression:
        assert len(one(f" {label}")["input_ids"]) == 1


def test_labels():
    assert build_config(NetworkSettings(preset="tiny", labels="rafdb"))[0].labels == [*map(str, LABEL_SETS["rafdb"])]
    assert build_config(NetworkSettings(preset="tiny", labels=["sad", "Joy"]))[0].labels == ["Sadness", "Happiness"]
    assert distinct_expressions(["Fear", "Neutral", "Fear"]) == [Expression.NEUTRAL, Expression.FEAR]
    with pytest.raises(ConfigError, match="twice: Happy, joyful"):
        build_config(NetworkSettings(preset="tiny", labels=["Happy", "joyful"]))
    with pytest.raises(ConfigError, match="no label set 'rafbd'"):
        build_config(NetworkSettings(preset="tiny", labels="rafbd"))


def test_a_base_that_cannot_be_loaded(tmp_path):
    with pytest.raises(CheckpointError, match=r"base model cannot be loaded.*Hugging Face name"):
        build_config(NetworkSettings(preset="tiny", vision=str(tmp_path / "nothing")))
