import pytest
import torch

from explllm.core.errors import CheckpointError, ConfigError
from explllm.core.expressions import LABEL_SETS, Expression
from explllm.models.build import (
    PRESETS,
    NetworkSettings,
    _trained_tokenizer,
    build,
    build_config,
    build_on_meta,
    distinct_expressions,
    small_tokenizer,
)


def test_the_papers_setup_at_full_size_on_the_meta_device():
    model = build_on_meta(NetworkSettings(labels="rafdb"))
    assert (model.config.image_tokens, model.config.vision_width) == (256, 1024)
    # Vicuna-7B v1.5 and DINOv2 ViT-L/14 as published on the hub, and LoRA on both.
    assert sum(weight.numel() for weight in model.language.parameters()) == 6_738_415_616 + 4_194_304
    assert sum(weight.numel() for weight in model.vision.parameters()) == 304_368_640 + 786_432
    counts = model.trainable_counts()
    assert counts == {"vision": 786_432, "projector": 20_979_712, "language": 4_194_304}
    assert sum(counts.values()) == 25_960_448  # the paper prints 8.7 M


def test_presets_define_every_setting():
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
    first, second = (model.state_dict() for model in models)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_small_tokenizer_is_deterministic_and_short():
    tokenizer = small_tokenizer(1024, "plain")
    vocabulary = tokenizer.get_vocab()
    changed = small_tokenizer(1024, "plain")
    changed.add_tokens("<other>")
    assert small_tokenizer(1024, "plain").get_vocab() == vocabulary != changed.get_vocab()
    _trained_tokenizer.cache_clear()
    assert small_tokenizer(1024, "plain").get_vocab() == vocabulary
    # Whole words cover the texts of the rule-based writer before the vocabulary is full.
    assert 600 < len(tokenizer) <= 1024
    for label in Expression:
        assert len(tokenizer(f" {label}")["input_ids"]) == 1


def test_labels():
    assert build_config(NetworkSettings(preset="tiny", labels="rafdb"))[0].labels == [*map(str, LABEL_SETS["rafdb"])]
    assert build_config(NetworkSettings(preset="tiny", labels=["sad", "Joy"]))[0].labels == ["Sadness", "Happiness"]
    assert distinct_expressions(["Fear", "Neutral", "Fear"]) == [Expression.NEUTRAL, Expression.FEAR]
    with pytest.raises(ConfigError, match="repeat an expression: Happy, joyful"):
        build_config(NetworkSettings(preset="tiny", labels=["Happy", "joyful"]))
    with pytest.raises(ConfigError, match="unknown label set 'rafbd'"):
        build_config(NetworkSettings(preset="tiny", labels="rafbd"))


def test_missing_base(tmp_path):
    with pytest.raises(CheckpointError, match=r"base model cannot be loaded.*Hugging Face hub"):
        build_config(NetworkSettings(preset="tiny", vision=str(tmp_path / "nothing")))
