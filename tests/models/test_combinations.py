"""Pretrained encoders and language models of several families, each with its own preprocessing and chat template."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel
from transformers.models.auto import AutoConfig, AutoModel, AutoModelForCausalLM

from explllm import ExpLLM
from explllm.conversation.encoder import IGNORED
from explllm.conversation.messages import IMAGE_TOKEN, explanation, recognition
from explllm.conversation.tokenizer import train_tokenizer
from explllm.core.errors import ConfigError
from explllm.models.build import NetworkSettings, build, build_config, build_on_meta
from explllm.models.lora import LoraSettings
from explllm.models.vision import image_features

VISION = {
    "clip": {"patch_size": 8, "image_size": 32},
    "siglip": {"model_type": "siglip_vision_model", "patch_size": 8, "image_size": 32},
    "dinov2": {"model_type": "dinov2", "patch_size": 14, "image_size": 56},
    "dinov3": {"model_type": "dinov3_vit", "patch_size": 8, "image_size": 32, "num_register_tokens": 2},
    "vit": {"model_type": "vit", "patch_size": 8, "image_size": 32},
}
TRANSFORMER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
# The templates of Llama 3, Qwen3, Gemma 3 and SmolLM2 without tools and system prompts, and their end tokens.
CHATML = "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
LANGUAGES = {
    "llama": (
        {"model_type": "llama", "num_key_value_heads": 1},
        ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "{% for message in messages %}"
        "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' "
        "+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
        "{% endif %}{{ content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    ),
    "qwen3": (
        {"model_type": "qwen3", "num_key_value_heads": 1, "head_dim": 16},
        ["<|im_start|>", "<|im_end|>"],
        "{% for message in messages %}{% if message.role == 'assistant' and loop.last %}"
        "{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' + message.content + '<|im_end|>\n' }}"
        "{% else %}" + CHATML + "{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% if enable_thinking is defined and "
        "enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}",
    ),
    "gemma3": (
        {"model_type": "gemma3_text", "num_key_value_heads": 1, "head_dim": 16, "sliding_window": 512},
        ["<start_of_turn>", "<end_of_turn>"],
        "{{ bos_token }}{% for message in messages %}"
        "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
        "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim }}{{ '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
    ),
    "smollm": (
        {"model_type": "llama", "num_key_value_heads": 1, "tie_word_embeddings": True},
        ["<|im_start|>", "<|im_end|>"],
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\nYou are a helpful AI assistant<|im_end|>\n' }}{% endif %}" + CHATML + "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    ),
}
END = {"llama": "<|eot_id|>", "qwen3": "<|im_end|>", "gemma3": "<end_of_turn>", "smollm": "<|im_end|>"}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """Folders of pretrained encoders and language models, as downloaded from the hub."""
    root = tmp_path_factory.mktemp("hub")
    torch.manual_seed(0)
    for number, (name, fields) in enumerate(VISION.items()):
        if name == "clip":  # the repository holds both towers
            towers = CLIPConfig(vision_config=TRANSFORMER | fields, text_config=TRANSFORMER | {"vocab_size": 99})
            CLIPModel(towers).save_pretrained(root / name)
        else:
            config = AutoConfig.for_model(**TRANSFORMER, **fields)
            AutoModel.from_config(config).save_pretrained(root / name)
        size = fields["image_size"]
        preprocessor = {"image_mean": [0.1 * number, 0.5, 0.5], "image_std": [0.25] * 3, "resample": 3 - number % 2}
        if name in ("clip", "dinov2"):
            preprocessor |= {"size": {"shortest_edge": 2 * size}, "do_center_crop": True}
            preprocessor["crop_size"] = {"height": size, "width": size}
        else:
            preprocessor["size"] = {"height": size, "width": size}
        (root / name / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    for name, (fields, special, template) in LANGUAGES.items():
        tokenizer = train_tokenizer(["the face", "the expression of a person in the image"], [], 400, "plain")
        tokenizer.add_special_tokens({"additional_special_tokens": special})
        tokenizer.chat_template = template
        tokenizer.save_pretrained(root / name)
        config = AutoConfig.for_model(**TRANSFORMER, **fields, vocab_size=len(tokenizer), eos_token_id=2)
        AutoModelForCausalLM.from_config(config).save_pretrained(root / name)
    return root


def check_labels(model, language):
    """Check token by token that the labels are the answers and their end tokens."""
    tokenizer = model.tokenizer
    for messages in (recognition("Fear"), explanation("Fear", "**Key Observations:** The brows.\n\nSo: fear.")):
        encoded = model.conversations.encode(messages)
        answers = "".join(message["content"] + END[language] for message in messages if message["role"] == "assistant")
        labeled = [token for token in encoded.labels if token != IGNORED]
        assert tokenizer.decode(labeled) == answers
        for token, label in zip(encoded.input_ids, encoded.labels, strict=True):
            assert label in (token, IGNORED)
        assert encoded.input_ids.count(tokenizer.get_vocab()[IMAGE_TOKEN]) == model.config.image_tokens
        # The prompt is the conversation up to the first label of the last answer.
        prompt = model.conversations.encode_prompt(messages[:-1])
        assert encoded.input_ids[: len(prompt)] == prompt
        assert encoded.labels[len(prompt) - 1] == IGNORED != encoded.labels[len(prompt)]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("vision", VISION)
def test_training_saving_and_answers(hub, tmp_path, vision, language):
    settings = NetworkSettings(vision=str(hub / vision), language=str(hub / language), labels="rafdb")
    torch.manual_seed(0)
    no_dropout = LoraSettings(dropout=0)
    model = build(replace(settings, base_dtype="float32", vision_lora=no_dropout, language_lora=no_dropout))
    preprocessor = json.loads((hub / vision / "preprocessor_config.json").read_text())
    assert model.image.size == VISION[vision]["image_size"]
    assert list(model.image.mean) == preprocessor["image_mean"]
    assert model.image.resample == {2: "bilinear", 3: "bicubic"}[preprocessor["resample"]]
    assert model.image.square == ("crop" if vision in ("clip", "dinov2") else "stretch")
    check_labels(model, language)

    encoded = [model.conversations.encode(messages) for messages in (recognition("Fear"), explanation("Fear", "So."))]
    tokens = model.conversations.batch(encoded, "right")
    size = model.image.size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    model.train()
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-3)
    losses = []
    for _ in range(2):
        loss = model(images, tokens.input_ids, tokens.attention_mask, tokens.labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[1] < losses[0]
    model.eval()
    model.save_pretrained(tmp_path / "model")
    reloaded = ExpLLM.from_pretrained(tmp_path / "model")
    assert reloaded.config.chat_format == "native" and reloaded.image == model.image
    check_labels(reloaded, language)
    face = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    [(expected, text)] = model.recognize_and_explain([face], max_new_tokens=6)
    [(actual, same_text)] = reloaded.recognize_and_explain([face], max_new_tokens=6)
    assert list(actual.probabilities.values()) == pytest.approx(list(expected.probabilities.values()), abs=1e-5)
    assert same_text.text == text.text
    [alone] = model.explain_pixels(model.image(face)[None], [expected.expression], 6)
    assert alone.text == text.text


def test_explicit_settings_and_inheritance(hub, tmp_path):
    named = NetworkSettings(vision=str(hub / "clip"), language=str(hub / "qwen3"), labels="rafdb")
    explicit = build_config(replace(named, image_preset="dinov2", image_size=32, chat_format="vicuna")).config
    assert explicit.chat_format == "vicuna" and explicit.image["mean"] == [0.485, 0.456, 0.406]
    assert build_config(replace(named, image_size=64)).config.image_tokens == 64
    on_meta = build_on_meta(named)
    assert on_meta.config.image_tokens == 16 and on_meta.device.type == "meta"

    first = build(replace(named, image_preset="siglip", image_size=64, chat_format="plain"))
    first.save_pretrained(tmp_path / "first")
    second = build_config(named, tmp_path / "first").config
    assert second.chat_format == "plain" and second.image == first.config.image and second.image_tokens == 64
    second = build_config(replace(named, image_preset="native", chat_format="native"), tmp_path / "first").config
    assert second.chat_format == "native" and second.image["size"] == 32

    (tmp_path / "bare").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "bare" / name).write_bytes((hub / "vit" / name).read_bytes())
    with pytest.raises(ConfigError, match="no preprocessor_config.json"):
        build_config(replace(named, vision=str(tmp_path / "bare")))
    with pytest.raises(ConfigError, match="requires a pretrained encoder"):
        build_config(NetworkSettings(preset="tiny", image_preset="native"))


@pytest.mark.parametrize("vision", VISION)
def test_image_sizes_layers_and_pooling(hub, vision):
    settings = NetworkSettings(vision=str(hub / vision), language=str(hub / "llama"), labels="rafdb")
    native = VISION[vision]["image_size"]
    larger = native + VISION[vision]["patch_size"]
    model = build(replace(settings, image_size=larger, vision_train="full", base_dtype="float32"))
    grid = larger // VISION[vision]["patch_size"]
    assert model.config.image_tokens == grid**2 == 25
    images = torch.randn(2, 3, larger, larger)
    assert model.encode_image(images).shape == (2, 25, 32)

    images = images[..., :native, :native]
    for layer in (-1, -2):
        with torch.no_grad():
            output = model.vision(pixel_values=images, output_hidden_states=True)
            expected = output.last_hidden_state if layer == -1 else output.hidden_states[layer]
            actual = image_features(model.vision, images, layer)
            pooled = image_features(model.vision, images, layer, "2x2")
        torch.testing.assert_close(actual, expected[:, -16:])
        squares = actual.view(2, 2, 2, 2, 2, 32).mean((2, 4)).view(2, 4, 32)
        torch.testing.assert_close(pooled, squares)
    changed = replace(settings, vision_feature_layer=-2, token_pooling="2x2", image_size=larger)
    for train in ("full", "lora"):
        model = build(replace(changed, base_dtype="float32", vision_train=train))
        assert model.config.image_tokens == 9  # 5 x 5 tokens, the last row and column pooled with fewer
        ids = torch.tensor([model.conversations.encode(recognition("Fear")).input_ids])
        model.train()
        model(torch.randn(1, 3, larger, larger), ids).logits.sum().backward()
        # DDP requires a gradient for every trainable weight.
        trainable = {name: weight for name, weight in model.vision.named_parameters() if weight.requires_grad}
        assert trainable and [name for name, weight in trainable.items() if weight.grad is None] == []
    with pytest.raises(ConfigError, match="has no hidden state -9"):
        build_config(replace(changed, vision_feature_layer=-9))
