import io
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from explllm import ChainOfThought, ExpLLM, Expression
from explllm.app.explainer import Explainer
from explllm.conversation.messages import explanation, recognition
from explllm.core.action_units import FEAFA
from explllm.core.errors import CheckpointError, ConfigError, ImageError, InputError, MissingPathError
from explllm.core.expressions import LABEL_SETS
from explllm.models.build import NetworkSettings, build
from explllm.models.generation import unit_probabilities
from explllm.models.kernels import check_packing
from explllm.models.lora import LoraSettings
from explllm.models.loss import LossSettings
from explllm.models.vision import image_features

COT = "**Key Observations:** The left brow is lowered.\n\n**Conclusion:** This is anger."


def pixels(model, count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, model.image.size, model.image.size, generator=generator)


def batch(model, *messages, side="right"):
    return model.conversations.batch([model.conversations.encode(each) for each in messages], side)


@pytest.fixture
def seven_images(tmp_path):
    """Seven images of different sizes and modes."""
    random = np.random.default_rng(0)
    color = [Image.fromarray(random.integers(0, 255, (40 + 17 * i, 90 - 9 * i, 3), dtype=np.uint8)) for i in range(7)]
    turned = color[4].copy()
    turned.getexif()[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=turned.getexif())
    faded = color[5].convert("RGBA")
    faded.putalpha(100)
    return [
        color[0],
        color[1].convert("L"),
        faded,
        color[2].convert("P"),
        tmp_path / "turned.jpg",
        np.asarray(color[3]),
        color[6].convert("1"),
    ]


def test_forward(tiny_model):
    model = tiny_model
    tokens = batch(model, recognition("Anger"), explanation("Fear", COT))
    images = pixels(model, 2)
    assert model.encode_image(images).shape == (2, model.config.image_tokens, model.config.text_config.hidden_size)
    output = model(
        pixel_values=images,
        input_ids=tokens.input_ids,
        attention_mask=tokens.attention_mask,
        labels=tokens.labels,
    )
    assert output.logits.shape == (*tokens.input_ids.shape, model.config.text_config.vocab_size)
    assert output.loss.ndim == 0
    without = model(images, tokens.input_ids, tokens.attention_mask)
    assert without.loss is None
    torch.testing.assert_close(without.logits, output.logits)
    short = model(images, tokens.input_ids, tokens.attention_mask, tokens.labels, logits_at_labels_only=True)
    torch.testing.assert_close(short.loss, output.loss)
    predicting = tokens.labels[:, 1:] != -100
    torch.testing.assert_close(short.logits, output.logits[:, :-1][predicting])


def test_packed_conversations_are_those_of_a_padded_batch(tiny_model):
    """Loss and gradients are equal, and no conversation affects another."""
    tokens = batch(tiny_model, recognition("Anger"), explanation("Fear", COT), recognition("Happiness"))
    images = pixels(tiny_model, 3)
    weights = [weight for weight in tiny_model.parameters() if weight.requires_grad]

    def loss_and_gradients(mask, packed):
        given = (images, tokens.input_ids, mask, tokens.labels)
        loss = tiny_model(*given, training_loss=LossSettings(), packed=packed).loss
        return loss.detach(), torch.autograd.grad(loss, weights, allow_unused=True)

    padded, expected = loss_and_gradients(None, packed=False)  # as in training: padding is never seen
    packed, found = loss_and_gradients(tokens.attention_mask, packed=True)
    assert abs(packed - padded) < 1e-5  # measured: 0
    scale = max(gradient.abs().max() for gradient in expected if gradient is not None)
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        assert one is None or (one - other).abs().max() < 1e-5 * scale  # measured: 1.0e-7

    def logits(ids):
        with torch.no_grad():
            return tiny_model(images, ids, tokens.attention_mask, packed=True).logits

    changed = tokens.input_ids.clone()
    changed[1, tiny_model.config.image_tokens + 20] += 1
    before, after = logits(tokens.input_ids), logits(changed)
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert not torch.equal(before[1], after[1])


def _attention_within_boundaries(module, query, key, value, attention_mask, **given):
    """Attention as FlashAttention computes it for packed rows: no mask, and boundaries in place of one."""
    assert attention_mask is None and torch.equal(given["cu_seq_lens_q"], given["cu_seq_lens_k"])
    ends = given["cu_seq_lens_q"].tolist()
    assert given["max_length_q"] == given["max_length_k"] == max(b - a for a, b in pairwise(ends))
    repeat = query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(repeat, dim=1) for states in (key, value))
    parts = [
        scaled_dot_product_attention(*(states[:, :, a:b] for states in (query, key, value)), is_causal=True)
        for a, b in pairwise(ends)
    ]
    return torch.cat(parts, dim=2).transpose(1, 2), None


def test_packing_tells_attention_without_masks_the_boundaries():
    AttentionInterface.register("within_boundaries", _attention_within_boundaries)
    torch.manual_seed(0)
    model = build(NetworkSettings(preset="tiny", labels="rafdb", vocabulary=700))
    tokens = batch(model, recognition("Anger"), explanation("Fear", COT), recognition("Happiness"))
    given = (pixels(model, 3), tokens.input_ids, tokens.attention_mask, tokens.labels)
    model.train()
    expected = model(*given, training_loss=LossSettings()).loss
    model.language.set_attn_implementation("within_boundaries")
    model.gradient_checkpointing_enable()
    found = model(*given, training_loss=LossSettings(), packed=True).loss
    assert abs(found - expected) < 1e-5
    found.backward()


@pytest.mark.parametrize("kind", ["gemma2", "falcon", "gpt_oss", "bloom"])
def test_packing_in_other_language_models(kind):
    """Sliding windows, and models that don't recognize positions that restart; one without positions is refused."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    special = {
        "gemma2": {"head_dim": 16, "sliding_window": 16},
        "gpt_oss": {"head_dim": 16, "num_local_experts": 2, "num_experts_per_tok": 2, "sliding_window": 16},
    }
    if kind != "falcon":
        sizes["num_key_value_heads"] = 2
    language = {"model_type": kind, **sizes, **special.get(kind, {})}
    torch.manual_seed(0)
    model = build(NetworkSettings(preset="tiny", labels="rafdb", vocabulary=700, language=language))
    if kind == "bloom":
        with pytest.raises(ConfigError, match="would mix conversations"):
            check_packing(model.language)
        return
    check_packing(model.language)
    tokens = batch(model, recognition("Anger"), explanation("Fear", COT), recognition("Happiness"))
    given = (pixels(model, 3), tokens.input_ids, tokens.attention_mask)
    with torch.no_grad():
        padded, packed = model(*given).logits, model(*given, packed=True).logits
    present = tokens.attention_mask.bool()
    torch.testing.assert_close(packed[present], padded[present], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "fields",
    [
        {"model_type": "gemma2", "head_dim": 16, "final_logit_softcapping": 2.0},
        {"model_type": "granite", "logits_scaling": 8.0},
        {"model_type": "xlstm", "num_heads": 2},
        {"model_type": "bert", "is_decoder": True},
        {
            "model_type": "falcon_h1",
            "lm_head_multiplier": 0.1,
            "mamba_d_ssm": 64,
            "mamba_n_heads": 4,
            "mamba_d_head": 16,
        },
        {"model_type": "recurrent_gemma", "logits_soft_cap": 2.0, "lru_width": 64},
    ],
    ids=lambda fields: fields["model_type"],
)
def test_logits_are_the_language_models_own(fields):
    """Some language models scale or cap their logits, or have more layers before their output layer."""
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    fields = sizes | {"num_key_value_heads": 4} | fields
    model = build(NetworkSettings(preset="tiny", language=fields, labels=list(LABEL_SETS["rafdb"]), vocabulary=400))
    for weight in model.language.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    tokens, images = batch(model, recognition("Fear")), pixels(model, 1)
    with torch.no_grad():
        embeds = model.embed(tokens.input_ids, model.encode_image(images))
        expected = model.language(inputs_embeds=embeds, use_cache=False).logits
        output = model(images, tokens.input_ids, labels=tokens.labels, training_loss=LossSettings())
        torch.testing.assert_close(model(images, tokens.input_ids).logits, expected)
    own = functional.cross_entropy(expected[0, :-1], tokens.labels[0, 1:])
    torch.testing.assert_close(output.loss, own)


def test_each_row_depends_on_its_own_image(tiny_model):
    tokens = batch(tiny_model, recognition("Anger"), recognition("Anger"))
    images = pixels(tiny_model, 2)
    logits = tiny_model(images, tokens.input_ids).logits[:, -1]
    assert (logits[0] - logits[1]).abs().max() > 1e-4
    swapped = tiny_model(images.flip(0), tokens.input_ids).logits[:, -1]
    torch.testing.assert_close(swapped, logits.flip(0))


def test_right_padding_changes_nothing(tiny_model):
    images = pixels(tiny_model, 2)
    together = batch(tiny_model, recognition("Anger"), explanation("Fear", COT))
    alone = batch(tiny_model, recognition("Anger"))
    both = tiny_model(images, together.input_ids, together.attention_mask).logits[0, : alone.input_ids.shape[1]]
    torch.testing.assert_close(both, tiny_model(images[:1], alone.input_ids).logits[0], atol=1e-5, rtol=1e-5)


def test_micro_batches_by_length_without_a_mask_equal_one_padded_batch(tiny_model):
    model, images = tiny_model, pixels(tiny_model, 4)
    texts = [explanation("Fear", COT), recognition("Anger"), explanation("Fear", COT[:40]), recognition("Sadness")]
    weights = [weight for weight in model.parameters() if weight.requires_grad]

    def losses(*groups):
        """The mean loss of groups of equal size, and its gradients."""
        loss = torch.zeros(())
        for rows in groups:
            tokens = batch(model, *(texts[row] for row in rows))
            mask = tokens.attention_mask if len(groups) == 1 else None
            loss = loss + model(images[rows], tokens.input_ids, mask, tokens.labels, True).loss / len(groups)
        return loss, *torch.autograd.grad(loss, weights)

    for grouped, plain in zip(losses([1, 3], [2, 0]), losses([0, 1, 2, 3]), strict=True):
        torch.testing.assert_close(grouped, plain, atol=1e-5, rtol=0)
    # A change in one conversation moves no other's logits.
    before, after = (batch(model, texts[1], explanation("Fear", text)) for text in (COT, COT[::-1]))
    size = len(model.conversations.encode(texts[1]).input_ids)
    with torch.no_grad():
        logits = [model(images[:2], tokens.input_ids).logits[0, :size] for tokens in (before, after)]
    torch.testing.assert_close(*logits, atol=1e-5, rtol=0)


def test_placeholders_must_match_the_images(tiny_model):
    tokens = batch(tiny_model, recognition("Anger"))
    with pytest.raises(InputError, match="1 rows of input_ids for 2 images of 16 tokens"):
        tiny_model(pixels(tiny_model, 2), tokens.input_ids)
    # The total is right, but the first row would receive a token of the second image.
    moved = tokens.input_ids.repeat(2, 1)
    placeholder, other = tiny_model.config.image_token_id, int(moved[0, -1])
    moved[0, -1], moved[1, moved[1].tolist().index(placeholder)] = placeholder, other
    with pytest.raises(InputError, match="17 image placeholders in row 0 of input_ids for 2 images of 16 tokens"):
        tiny_model(pixels(tiny_model, 2), moved)
    with pytest.raises(InputError, match="logits_at_labels_only without labels"):
        tiny_model(pixels(tiny_model, 1), tokens.input_ids, logits_at_labels_only=True)


def test_recognize_gives_probabilities(tiny_model, seven_images):
    results = tiny_model.recognize(seven_images)
    assert len(results) == 7
    for recognition_ in results:
        assert list(recognition_.probabilities) == list(tiny_model.labels)
        assert sum(recognition_.probabilities.values()) == pytest.approx(1, abs=1e-6)
        assert recognition_.expression in Expression
        assert recognition_.confidence == max(recognition_.probabilities.values())


def test_one_image_in_any_form(tiny_model):
    """Files, bytes, arrays, tensors and iterables of them give the answers that the array gives."""
    size = tiny_model.image.size
    array = np.random.default_rng(0).integers(0, 255, (2, size, size, 3), dtype=np.uint8)
    expected = tiny_model.recognize(list(array))
    file = io.BytesIO()
    Image.fromarray(array[0]).save(file, "PNG")
    planes = array.transpose(0, 3, 1, 2)
    single = [file, file.getvalue(), array[0], planes[0], array[0] / 255, torch.from_numpy(planes[0] / 255).float()]
    for source in single:
        assert tiny_model.recognize(source) == tiny_model.recognize(array[0])
        assert isinstance(tiny_model.explain(source, max_new_tokens=1), ChainOfThought)
    for several in (array, planes, torch.from_numpy(planes), (one for one in array), iter(array), tuple(array)):
        assert tiny_model.recognize(several, batch_size=2) == expected
    assert len(tiny_model.explain((one for one in array), max_new_tokens=1)) == 2
    frame = expected.to_frame()
    assert list(frame["expression"]) == [str(one.expression) for one in expected]
    assert list(frame["p_Fear"]) == [one.probabilities[Expression.FEAR] for one in expected]
    assert list(frame["confidence"]) == [one.confidence for one in expected]
    for count in (0, -1, 2.5, None, True):
        for name, call in (
            ("batch_size", lambda count: tiny_model.recognize(array, batch_size=count)),
            ("batch_size", lambda count: tiny_model.explain(array, batch_size=count)),
            ("max_new_tokens", lambda count: tiny_model.explain(array, max_new_tokens=count)),
            ("max_new_tokens", lambda count: [*tiny_model.stream(array[0], max_new_tokens=count)]),
            ("max_new_tokens", lambda count: Explainer(tiny_model, max_new_tokens=count)),
        ):
            with pytest.raises(ConfigError, match=f"{name} is {count}. Use an integer of at least 1."):
                call(count)
    assert tiny_model.recognize([]) == []


def test_answers_do_not_depend_on_the_batch(tiny_model, seven_images):
    together = tiny_model.recognize(seven_images)
    texts = tiny_model.explain(seven_images, max_new_tokens=24)
    for image, recognition_, text in zip(seven_images, together, texts, strict=True):
        [alone] = tiny_model.recognize(image)
        assert alone.expression == recognition_.expression
        assert list(alone.probabilities.values()) == pytest.approx(list(recognition_.probabilities.values()), abs=1e-6)
        assert tiny_model.explain(image, max_new_tokens=24).text == text.text
    assert [r.probabilities for r in tiny_model.recognize(seven_images, batch_size=2)] == [
        {label: pytest.approx(value, abs=1e-6) for label, value in r.probabilities.items()} for r in together
    ]


@pytest.mark.parametrize(
    ("vision", "size", "tokens"),
    [
        ({"model_type": "dinov2", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}, 56, 16),
        (
            {
                "model_type": "clip_vision_model",
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 64,
                "patch_size": 16,
            },
            64,
            16,
        ),
        (
            {
                "model_type": "siglip_vision_model",
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 64,
                "patch_size": 16,
            },
            64,
            16,
        ),
        ({"model_type": "convnext", "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}, 64, 4),
        ({"model_type": "explllm_conv", "hidden_sizes": [8, 16, 32], "depths": [1, 2, 1], "num_channels": 1}, 64, 64),
    ],
    ids=["dinov2", "clip", "siglip", "convnext", "conv"],
)
def test_any_vision_encoder(vision, size, tokens):
    torch.manual_seed(0)
    model = build(
        NetworkSettings(preset="tiny", vision=vision, image_size=size, labels=list(Expression), vocabulary=700)
    )
    assert model.config.image_tokens == tokens
    conversation = batch(model, recognition("Fear"))
    model.train()
    model(pixels(model, 1), conversation.input_ids, labels=conversation.labels).loss.backward()
    idle = [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
    assert idle == []  # DDP does not accept trainable weights without a gradient
    model.eval()
    assert len(model.recognize(np.zeros((30, 40, 3), np.uint8))) == 1


def test_lora_parameter_counts_and_dtypes(lora_settings):
    lora_settings.vision_lora = lora_settings.language_lora = LoraSettings(r=4, alpha=8)
    model = build(lora_settings)
    counts = model.trainable_counts()
    # 2 blocks x (query + value) x (A + B) x rank 4 x width
    assert counts["vision"] == 2 * 2 * 2 * 4 * 32
    # q: 48 -> 48, v: 48 -> 24 (grouped keys and values)
    assert counts["language"] == 2 * 4 * ((48 + 48) + (48 + 24))
    assert counts["projector"] == (32 * 48 + 48) + (48 * 48 + 48)
    assert all(weight.dtype == torch.float32 for weight in model.parameters() if weight.requires_grad)


def test_float32_lora_on_a_bfloat16_base(lora_settings):
    model = build(lora_settings)
    for part in (model.vision, model.language):
        for weight in part.parameters():
            if not weight.requires_grad:
                weight.data = weight.data.to(torch.bfloat16)
    tokens = batch(model, recognition("Fear"))
    model.train()
    loss = model(pixels(model, 1), tokens.input_ids, labels=tokens.labels).loss
    loss.backward()
    assert loss.dtype == torch.float32
    assert {w.grad.dtype for w in model.parameters() if w.requires_grad} == {torch.float32}
    assert not any(w.grad is not None for w in model.parameters() if not w.requires_grad)


@pytest.mark.parametrize("train", ["frozen", "lora", "full"])
def test_each_part_trains_as_configured(lora_settings, train):
    lora_settings.vision_train = lora_settings.language_train = train
    lora_settings.projector_train = "frozen" if train == "frozen" else "full"
    model = build(lora_settings)
    for part, (module, _, _) in model.parts().items():
        trained = {name for name, weight in module.named_parameters() if weight.requires_grad}
        if train == "frozen":
            assert trained == set()
        elif train == "lora" and part != "projector":
            assert trained and all("lora_" in name for name in trained)
        else:
            assert len(trained) >= len(list(module.parameters())) - 1  # all but DINOv2's mask token
    model.train()
    assert model.vision.training == (train != "frozen")


@pytest.mark.parametrize("train", ["full", "lora", "frozen"])
@pytest.mark.parametrize("model_type", ["llama", "opt"])
def test_gradient_checkpointing_recomputes_every_layer(lora_settings, train, model_type):
    lora_settings.vision_train = lora_settings.language_train = train
    lora_settings.language_lora = LoraSettings(dropout=0)
    lora_settings.vision_lora = LoraSettings(dropout=0)
    if model_type == "opt":  # its layers apply dropout themselves, by their own mode
        sizes = {"hidden_size": 48, "ffn_dim": 96, "num_hidden_layers": 2, "word_embed_proj_dim": 48}
        dropout = 0.5 if train == "frozen" else 0.0
        lora_settings.language = {"model_type": "opt", "num_attention_heads": 4, "dropout": dropout, **sizes}
    torch.manual_seed(0)
    model = build(lora_settings)
    layers = [*(layer for name, layer in model.language.named_modules() if name.endswith(".self_attn"))]
    assert len(layers) == 2
    calls, positions = [], []
    for layer in layers:
        layer.register_forward_pre_hook(lambda *_: calls.append(1))
    if model_type == "llama":
        last = model.language.base_model.layers[-1]
        for part in (last.self_attn.q_proj, last.self_attn.o_proj, last.mlp):  # before other hooks see the output
            part.register_forward_hook(lambda _, inputs, output: positions.append(output[..., 0].numel()))
    tokens, images = batch(model, recognition("Fear"), explanation("Anger", COT)), pixels(model, 2)

    def step(**options):
        calls.clear()
        positions.clear()
        model.zero_grad()
        model.train()
        model(images, tokens.input_ids, labels=tokens.labels, **options).loss.backward()
        return {name: w.grad.clone() for name, w in model.named_parameters() if w.grad is not None}

    plain = step()
    assert len(calls) == 2
    supervised = step(training_loss=LossSettings())
    if model_type == "llama":  # only the supervised positions, as only their output is used
        assert positions == 3 * [int((tokens.labels != -100).sum())]
    model.gradient_checkpointing_enable()
    checkpointed = step(training_loss=LossSettings())
    assert len(calls) == 4  # each layer runs once more in the backward pass
    if model_type == "llama":  # all positions, because the backward pass computes them again
        assert len(positions) > 3 and set(positions) == {tokens.labels.numel()}
    for found in (supervised, checkpointed):
        assert found.keys() == plain.keys()
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, plain[name], atol=1e-6, rtol=1e-5)
    model.eval()
    assert not any(module.training for module in model.modules())
    assert model.recognize_and_explain(np.zeros((30, 40, 3), np.uint8), max_new_tokens=2)


def test_errors(tiny_model, tmp_path):
    with pytest.raises(MissingPathError, match="the image does not exist"):
        tiny_model.recognize(tmp_path / "none.jpg")
    (tmp_path / "text.jpg").write_text("not an image")
    with pytest.raises(ImageError, match="unreadable image"):
        tiny_model.explain(tmp_path / "text.jpg")
    with pytest.raises(ConfigError, match=r"no layer of ConvEncoder matches the LoRA targets"):
        build(NetworkSettings(preset="tiny", vision_train="lora", vocabulary=700))
    with pytest.raises(ConfigError, match="does not accept images of 30 pixels"):
        build(
            NetworkSettings(
                preset="tiny", vision={"model_type": "convnext", "patch_size": 64}, image_size=30, vocabulary=700
            )
        )
    with pytest.raises(ConfigError, match="'bigmodel' is not a model_type"):
        build(NetworkSettings(preset="tiny", vision={"model_type": "bigmodel"}))
    with pytest.raises(ConfigError, match=r"the language model has 4 positions, but image and prompt take \d+"):
        build(NetworkSettings(preset="tiny", language={"model_type": "llama", "max_position_embeddings": 4}))


def test_nan_is_not_an_answer(tiny_model):
    images = torch.full((2, 3, 64, 64), torch.nan)
    for answers in (
        tiny_model.recognize_pixels,
        lambda pixels: tiny_model.recognize_and_explain_pixels(pixels, 2),
        lambda pixels: unit_probabilities(tiny_model, pixels, ["inner brow raiser"]),
    ):
        with pytest.raises(CheckpointError, match="the model's probabilities are NaN"):
            answers(images)


def test_features_of_mirror_images_and_temperature(tmp_path):
    """Both settings are saved with the model, and apply to recognition alone and together with an explanation."""
    torch.manual_seed(0)
    settings = NetworkSettings(preset="tiny", labels="rafdb", vocabulary=700, average_flipped=True)
    build(settings).save_pretrained(tmp_path / "model")
    model = ExpLLM.from_pretrained(tmp_path / "model")
    images = pixels(model, 2)

    def probabilities(images):
        return torch.tensor([[*one.probabilities.values()] for one in model.recognize_pixels(images)])

    averaged = probabilities(images)
    together = [one.probabilities for one, _ in model.recognize_and_explain_pixels(images, max_new_tokens=2)]
    torch.testing.assert_close(torch.tensor([[*one.values()] for one in together]), averaged, atol=1e-5, rtol=0)
    encoded = model.encode_image(images)
    model.config.average_flipped = False
    features = [image_features(model.vision, side) for side in (images, images.flip(-1))]
    grid = [one.unflatten(1, (4, 4)) for one in features]
    mean = ((grid[0] + grid[1].flip(2)) / 2).flatten(1, 2)
    torch.testing.assert_close(model.projector(mean), encoded)
    assert not torch.allclose(model.encode_image(images), encoded, atol=1e-3)
    one = probabilities(images)
    assert not torch.allclose(one, averaged, atol=1e-5)
    model.config.temperature = 2.0
    torch.testing.assert_close(probabilities(images), one.sqrt() / one.sqrt().sum(1, keepdim=True))


def test_odd_grids_are_pooled_after_averaging_mirror_images():
    """Of a symmetric image, an encoder of symmetric filters has symmetric features: averaging changes nothing."""
    torch.manual_seed(0)
    vision = {"model_type": "explllm_conv", "hidden_sizes": [8, 8], "depths": [1, 1]}
    model = build(
        NetworkSettings(
            preset="tiny", vision=vision, image_size=28, token_pooling="2x2", average_flipped=True, vocabulary=700
        )
    ).eval()
    symmetric = pixels(model, 2)
    symmetric = symmetric + symmetric.flip(-1)
    for weight in (module.weight for module in model.vision.modules() if isinstance(module, torch.nn.Conv2d)):
        weight.data += weight.data.flip(-1)  # the encoder then mirrors its features exactly
    averaged = model.encode_image(symmetric)
    model.config.average_flipped = False
    torch.testing.assert_close(model.encode_image(symmetric), averaged)


def test_action_unit_tokens(tmp_path):
    """They follow the image tokens, and with mirror images their estimates are exactly symmetric."""
    torch.manual_seed(0)
    settings = NetworkSettings(preset="tiny", labels="rafdb", vocabulary=700, action_unit_tokens=True)
    build(replace(settings, average_flipped=True)).save_pretrained(tmp_path / "model")
    model = ExpLLM.from_pretrained(tmp_path / "model")
    images = pixels(model, 2)
    tokens, units = model.encode_image_and_units(images)
    assert model.config.image_tokens == tokens.shape[1] == 16 + 24
    mirror = [unit.mirror for unit in FEAFA]
    torch.testing.assert_close(model.encode_image_and_units(images.flip(-1))[1][:, mirror], units)
    passes = []
    model.vision.register_forward_pre_hook(
        lambda _module, _inputs, options: passes.append(len(options["pixel_values"])), with_kwargs=True
    )
    model.recognize_pixels(images)
    model.recognize_and_explain_pixels(images, max_new_tokens=2)
    assert passes == [4, 4]  # each image and its mirror image once
    model.config.average_flipped = False
    assert not torch.allclose(model.encode_image_and_units(images.flip(-1))[1][:, mirror], units, atol=1e-4)
