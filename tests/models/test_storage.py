import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from explllm import ExpLLM
from explllm.conversation.messages import recognition
from explllm.core.errors import CheckpointError, ConfigError, MissingPathError
from explllm.models import storage
from explllm.models.build import build
from explllm.models.drafts import Drafts


def logits(model):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, model.image.size, model.image.size, generator=generator)
    tokens = model.conversations.batch([model.conversations.encode(recognition("Fear"))] * 2, "right")
    with torch.no_grad():
        return model(images, tokens.input_ids, tokens.attention_mask).logits


@pytest.fixture
def trained(lora_settings):
    """A model with LoRA whose second factors are not zero."""
    torch.manual_seed(1)
    model = build(lora_settings)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.1)
    return model


def test_save_and_load(trained, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    trained.drafts = Drafts.of_texts([[7, 8, 9, 10, 11], [8, 9, 10, 11], [1, 8, 9, 12]])
    for name, model in (("lora", trained), ("tiny", tiny_model)):
        model.save_pretrained(tmp_path / name)
        again = ExpLLM.from_pretrained(f"~/{name}")
        torch.testing.assert_close(logits(again), logits(model), atol=1e-5, rtol=0)  # measured: 0
        assert again.labels == model.labels
        assert again.config.to_dict() == model.config.to_dict()
        assert not again.training
        assert again.drafts.table.keys() == model.drafts.table.keys()
        assert again.drafts.propose([0, 8, 9], 3) == ([10, 11] if model is trained else [])


def test_named_bases_are_not_copied(trained, lora_settings, tmp_path):
    # Base weights in folders, as downloaded from the hub.
    base = build(lora_settings)
    for part, module in (("vision", base.vision), ("language", base.language)):
        clean = {
            name.replace(".base_layer.", "."): value
            for name, value in module.state_dict().items()
            if "lora_" not in name
        }
        (tmp_path / part).mkdir()
        save_file(
            {k: v.contiguous() for k, v in clean.items()}, tmp_path / part / "model.safetensors", {"format": "pt"}
        )
        module.config.save_pretrained(tmp_path / part)
    base.tokenizer.save_pretrained(tmp_path / "language")
    lora_settings.vision, lora_settings.language = str(tmp_path / "vision"), str(tmp_path / "language")
    model = build(lora_settings)
    model.projector.load_state_dict(base.projector.state_dict())
    torch.testing.assert_close(logits(model), logits(base), atol=1e-4, rtol=0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.1)
    model.save_pretrained(tmp_path / "small")
    saved = load_file(tmp_path / "small" / "model.safetensors")
    assert all("lora_" in name or name.startswith("projector.") for name in saved)
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    assert config["text_base"] == str(tmp_path / "language")
    torch.testing.assert_close(logits(ExpLLM.from_pretrained(tmp_path / "small")), logits(model), atol=1e-5, rtol=0)

    model.save_pretrained(tmp_path / "whole", include_base=True)
    (tmp_path / "language").rename(tmp_path / "gone")
    torch.testing.assert_close(logits(ExpLLM.from_pretrained(tmp_path / "whole")), logits(model), atol=1e-5, rtol=0)
    with pytest.raises(CheckpointError, match="base model cannot be loaded"):
        ExpLLM.from_pretrained(tmp_path / "small")


def test_initialize_from_the_first_stage(lora_settings, tmp_path):
    lora_settings.vision_train = lora_settings.language_train = "frozen"
    torch.manual_seed(5)
    first = build(lora_settings)
    first.save_pretrained(tmp_path / "first")
    lora_settings.vision_train = lora_settings.language_train = "lora"
    torch.manual_seed(6)
    second = build(lora_settings)
    assert (logits(second) - logits(first)).abs().max() > 1e-3
    storage.initialize(second, tmp_path / "first")
    # LoRA starts at zero: the second stage begins where the first one ended.
    torch.testing.assert_close(logits(second), logits(first), atol=1e-6, rtol=0)


@pytest.fixture
def named_bases(lora_settings, tmp_path):
    """Settings with pretrained parts, in folders as downloaded from the hub."""
    torch.manual_seed(2)
    base = build(replace(lora_settings, vision_train="full", language_train="full"))
    base.vision.save_pretrained(tmp_path / "vision")
    base.language.save_pretrained(tmp_path / "language")
    base.tokenizer.save_pretrained(tmp_path / "language")
    return replace(lora_settings, vision=str(tmp_path / "vision"), language=str(tmp_path / "language"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("train", ["frozen", "lora"])
def test_a_base_trained_in_the_first_stage_is_saved_by_the_second(named_bases, tmp_path, train, dtype):
    first = build(replace(named_bases, vision_train="full", language_train="full"))
    with torch.no_grad():
        for weight in first.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    first.save_pretrained(tmp_path / "first")
    second = build(replace(named_bases, vision_train=train, language_train=train, base_dtype=dtype))
    storage.initialize(second, tmp_path / "first")
    if dtype == "float32":
        torch.testing.assert_close(logits(second), logits(first), atol=1e-5, rtol=0)
    second.save_pretrained(tmp_path / "second")
    reloaded = ExpLLM.from_pretrained(tmp_path / "second")
    torch.testing.assert_close(logits(reloaded), logits(second), atol=1e-6, rtol=0)
    # A checkpoint holds the weights that the second stage's settings cannot load.
    assert {"vision.embeddings.cls_token", "language.lm_head.weight"} <= set(second.weights_to_save())


def test_a_folder_with_bases_is_replaced_by_one_with_bases(named_bases, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = build(named_bases)
    first.save_pretrained("own", include_base=True)
    opened = ExpLLM.from_pretrained("own")  # its bases are in the folder
    with pytest.raises(CheckpointError, match="base weights are in a folder on this machine"):
        opened.save_pretrained("other")
        storage.upload("other", "me/model")
    opened.config.labels = opened.config.labels[:6]
    opened.save_pretrained("own")
    again = ExpLLM.from_pretrained("own")
    assert len(again.labels) == 6
    torch.testing.assert_close(logits(again), logits(first), atol=1e-6, rtol=0)


def test_bases_in_relative_folders_are_found_from_everywhere(named_bases, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = build(replace(named_bases, vision="./vision", language="language"))
    model.save_pretrained("model")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    torch.testing.assert_close(logits(ExpLLM.from_pretrained("../model")), logits(model), atol=1e-6, rtol=0)


def test_merged_weights_to_start_from_are_not_ignored(named_bases, tmp_path):
    first = build(named_bases)
    first.save_pretrained(tmp_path / "merged", merge=True)
    with pytest.raises(CheckpointError, match=r"vision weights of its own.*--model.network.vision .*merged/vision"):
        storage.initialize(build(named_bases), tmp_path / "merged")
    own = {part: str(tmp_path / "merged" / part) for part in ("vision", "language")}
    second = build(replace(named_bases, **own))
    storage.initialize(second, tmp_path / "merged")
    torch.testing.assert_close(logits(second), logits(first), atol=1e-5, rtol=0)


def test_settings_of_the_base_are_saved(named_bases, tmp_path):
    build(replace(named_bases, base_dtype="bfloat16")).save_pretrained(tmp_path / "model")

    def dtypes(**options):
        model = ExpLLM.from_pretrained(tmp_path / "model", **options)
        return {weight.dtype for weight in model.language.parameters() if not weight.requires_grad}

    assert dtypes() == {torch.bfloat16}
    assert dtypes(dtype="auto") == dtypes(dtype=torch.float32) == dtypes(torch_dtype="float32") == {torch.float32}
    build(replace(named_bases, base_dtype=None)).save_pretrained(tmp_path / "model")
    assert dtypes() == {torch.float32}  # that of the files
    assert dtypes(torch_dtype=torch.bfloat16) == {torch.bfloat16}


def test_options_of_from_pretrained(named_bases, tiny_model, tmp_path):
    model = build(named_bases)
    model.save_pretrained(tmp_path / "model")
    tiny_model.save_pretrained(tmp_path / "tiny")
    expected = logits(model)
    for device_map in ("cpu", "auto", {"": "cpu"}):
        loaded = ExpLLM.from_pretrained(tmp_path / "model", device_map=device_map)
        torch.testing.assert_close(logits(loaded), expected, atol=1e-5, rtol=0)
    build(replace(named_bases, action_unit_tokens=True)).save_pretrained(tmp_path / "units")
    for folder in ("tiny", "units"):
        loaded = ExpLLM.from_pretrained(tmp_path / folder, device_map={"": "meta"})
        assert {weight.device.type for weight in loaded.parameters()} == {"meta"}
    for name, folder in (("model", "model"), ("tiny", "tiny")):
        loaded = ExpLLM.from_pretrained(tmp_path / folder, attn_implementation="eager")
        assert loaded.language.config._attn_implementation == "eager", name
    assert ExpLLM.from_pretrained(tmp_path / "model").language.config._attn_implementation == "sdpa"

    with pytest.raises(TypeError, match="unknown_option"):
        ExpLLM.from_pretrained(tmp_path / "model", unknown_option=1)
    with pytest.raises(TypeError, match="max_shard_size"):
        model.save_pretrained(tmp_path / "model", max_shard_size="1GB")
    for options, message in (
        ({"dtype": "float33"}, "'float33' is not a floating-point type"),
        ({"device": "cpu", "device_map": "auto"}, "both `device` and `device_map`"),
        ({"device_map": {"vision": "cpu", "language": "meta"}}, "requires a pretrained language model"),
        ({"load_in_4bit": True}, "4-bit weights require a pretrained language model"),
    ):
        with pytest.raises(ConfigError, match=message):
            ExpLLM.from_pretrained(tmp_path / "tiny", **options)


def test_saving_replaces_only_a_model(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path / "model")
    tiny_model.save_pretrained(tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis.tex").write_text("my thesis")
    with pytest.raises(CheckpointError, match="something other than a model"):
        tiny_model.save_pretrained(tmp_path / "papers")
    assert (tmp_path / "papers" / "thesis.tex").read_text() == "my thesis"


def test_a_failed_save_leaves_the_old_model(tiny_model, tmp_path, monkeypatch):
    tiny_model.save_pretrained(tmp_path / "model")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()

    def disk_full(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(storage, "save_file", disk_full)
    with pytest.raises(OSError, match="No space"):
        tiny_model.save_pretrained(tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        ("labels", ["A"], "unknown expression 'A' in labels"),
        ("labels", ["Fear", "Fear"], "labels repeat an expression"),
        ("labels", "Happiness", "labels is 'Happiness'"),
        ("text_config", None, "text_config is None"),
        ("vision_config", None, "vision_config is None"),
        ("vision_config.model_type", "foo", "transformers does not support model_type 'foo'"),
        ("text_config.num_attention_heads", 5, "is not a multiple of the number of attention heads"),
        ("text_config.model_type", "dinov2", "Unrecognized configuration class"),
        ("architecture", "foo", "architecture is 'foo'"),
        ("temperature", "hot", "temperature is 'hot'"),
        ("temperature", 0, "temperature is 0"),
        ("temperature", float("nan"), "temperature is nan"),
        ("margin", "a", "margin is 'a'"),
        ("projector_layers", 0, "projector_layers is 0"),
        ("average_flipped", "yes", "average_flipped is 'yes'"),
        ("image.mean", [0.5], r"image.mean is \[0.5\]"),
        ("image.std", [0, 0, 0], r"std is \[0, 0, 0\]"),
        ("image.size", 0, "the image size is 0 pixels"),
        ("image.resample", "foo", "image.resample is 'foo'"),
        ("image.color", "red", "unknown field image.color"),
        ("image_token_id", 99999, "image_token_id is 99999, but the tokenizer has <im_patch> as "),
    ],
)
def test_wrong_values_in_the_configuration(tiny_model, tmp_path, keys, value, message):
    tiny_model.save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    *outer, key = keys.split(".")
    (config[outer[0]] if outer else config)[key] = value
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=rf"{message}.* \[.*config.json\]\. Correct this value"):
        ExpLLM.from_pretrained(tmp_path / "model")


def test_errors(tiny_model, tmp_path):
    with pytest.raises(MissingPathError, match=r"the model folder does not exist \[runs/none/model\]"):
        ExpLLM.from_pretrained("runs/none/model")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingPathError, match="it has no config.json"):
        ExpLLM.from_pretrained(tmp_path / "empty")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "llava"}')
    with pytest.raises(CheckpointError, match="a model of type 'llava'"):
        ExpLLM.from_pretrained(tmp_path / "other")
    (tmp_path / "other" / "config.json").write_text('{"model_type": ')
    with pytest.raises(CheckpointError, match="config.json cannot be read"):
        ExpLLM.from_pretrained(tmp_path / "other")

    folder = tmp_path / "model"
    tiny_model.save_pretrained(folder)
    tokenizer = folder / "tokenizer.json"
    content = tokenizer.read_text()
    tokenizer.write_text(content[:100])
    with pytest.raises(CheckpointError, match="the tokenizer cannot be read"):
        ExpLLM.from_pretrained(folder)
    tokenizer.unlink()
    with pytest.raises(CheckpointError, match=r"has no tokenizer.json \[.*model\]. Copy the whole"):
        ExpLLM.from_pretrained(folder)
    tokenizer.write_text(content)
    weights = load_file(folder / "model.safetensors")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="the weights cannot be read"):
        ExpLLM.from_pretrained(folder)
    for change, message in (
        ({"projector.9.weight": torch.zeros(2)}, "1 unexpected, first projector.9.weight"),
        ({"projector.0.weight": torch.zeros(2, 2)}, r"1 of another shape, first projector.0.weight \(2, 2\), not "),
    ):
        save_file({**weights, **change}, path, {"format": "pt"})
        with pytest.raises(CheckpointError, match=message):
            ExpLLM.from_pretrained(folder)
    del weights["projector.2.bias"]
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match="1 missing, first projector.2.bias"):
        ExpLLM.from_pretrained(folder)
