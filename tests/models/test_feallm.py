"""FEALLM's modules are wired as the figure draws them: shown by what moves and what does not."""

from dataclasses import replace

import pytest
import torch

from explllm import ExpLLM
from explllm.conversation.messages import recognition
from explllm.core.errors import CheckpointError, ConfigError
from explllm.models.build import NetworkSettings, build
from explllm.models.explllm import FEALLM
from explllm.models.feallm import FACE_REGIONS, FEALLMSettings, LocalClueAggregator, MultiPerspectiveProjector

WIDTH, LANGUAGE = 16, 24
SMALL = FEALLMSettings(local_width=8, crop_size=8, local_heads=2, heads=2)


@pytest.fixture
def local():
    torch.manual_seed(0)
    return LocalClueAggregator(SMALL, WIDTH, LANGUAGE).eval()


@pytest.fixture
def projector():
    torch.manual_seed(0)
    return MultiPerspectiveProjector(WIDTH, [WIDTH, 4], LANGUAGE, heads=2).eval()


@pytest.fixture
def features():
    torch.manual_seed(1)
    return torch.randn(2, 9, WIDTH), [torch.randn(2, 9, WIDTH), torch.randn(2, 4, 4)], torch.randn(2, 16, WIDTH)


def test_sixteen_overlapping_regions_cover_the_face():
    assert len(FACE_REGIONS) == 16
    cover = torch.zeros(100, 100)
    for left, top, right, bottom in FACE_REGIONS.values():
        assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1
        cover[round(top * 100) : round(bottom * 100), round(left * 100) : round(right * 100)] += 1
    assert (cover > 1).float().mean() > 0.8 and (cover[:, 10:90] > 0).all()


def test_one_token_for_the_language_model_and_sixteen_for_the_projector(local):
    tokens, summary = local(torch.randn(3, 3, 32, 32))
    assert tokens.shape == (3, 16, WIDTH) and summary.shape == (3, 1, LANGUAGE)


@pytest.mark.parametrize("name", FACE_REGIONS)
def test_a_change_inside_a_crop_moves_both(local, name):
    image = torch.randn(1, 3, 32, 32)
    left, top, right, bottom = FACE_REGIONS[name]
    changed = image.clone()
    changed[:, :, round((top + bottom) * 16), round((left + right) * 16)] += 3
    for before, after in zip(local(image), local(changed), strict=True):
        assert (before - after).abs().max() > 1e-5


def test_first_cross_attention_has_no_residual(projector, features):
    last, earlier, local = features
    tokens = projector(last, earlier, local)
    assert tokens.shape == (2, 9, LANGUAGE)
    # With equal keys everywhere, a query cannot matter: it reaches the tokens through the attention weights alone.
    same = [torch.zeros_like(block) for block in earlier]
    with torch.no_grad():
        projector.block_embedding.zero_()
        for norm in projector.block_norms:
            norm.bias.zero_()
        projector.resize[1].bias.zero_()
    assert torch.allclose(projector(last, same, local), projector(last * 2 + 1, same, local), atol=1e-6)
    assert not torch.allclose(tokens, projector(last, same, local), atol=1e-3)


def test_local_clues_have_a_residual(projector, features):
    last, earlier, local = features
    zero = torch.zeros_like(local)
    with torch.no_grad():
        projector.norms[1].bias.zero_()
        projector.local_attention.value.bias.zero_()
        projector.local_attention.output.bias.zero_()
    # Zero clues add nothing; the tokens of the earlier blocks remain.
    without = projector(last, earlier, zero)
    with torch.no_grad():
        projector.local_attention.output.weight.zero_()
    assert torch.allclose(without, projector(last, earlier, local), atol=1e-6)
    assert without.std() > 1e-3


@pytest.fixture
def feallm_settings(lora_settings):
    return replace(lora_settings, architecture="feallm", vision_train="frozen", feallm=SMALL)


def test_f_local_is_one_position_after_the_image_tokens(feallm_settings):
    torch.manual_seed(0)
    model = build(feallm_settings)
    assert model.config.image_tokens == 16 + 1
    pixels = torch.randn(2, 3, 56, 56)
    embeds = model.encode_image(pixels)
    assert embeds.shape == (2, 17, 48)
    _, summary = model.projector.local_clues(pixels)
    assert torch.equal(embeds[:, -1:], summary)
    ids = torch.tensor([model.conversations.encode_prompt(recognition())] * 2)
    places = (ids[0] == model.config.image_token_id).nonzero().flatten().tolist()
    assert places == list(range(places[0], places[0] + 17))
    assert torch.equal(model.embed(ids, embeds)[:, places[-1]], summary[:, 0])


def test_training_moves_neither_encoder_nor_base(feallm_settings):
    torch.manual_seed(0)
    model = build(feallm_settings).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-2)
    batch = model.conversations.batch(
        [model.conversations.encode(recognition(label)) for label in ("Fear", "Anger")], "right"
    )
    losses = []
    for _ in range(3):
        output = model(torch.randn(2, 3, 56, 56), batch.input_ids, batch.attention_mask, batch.labels)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(output.loss.item())
    assert losses[-1] < losses[0]
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert all(name.startswith("projector.") or "lora_" in name for name in changed)
    # Every weight of FEALLM's own modules and of LoRA learns, except key biases, which softmax ignores.
    expected = {name for name in before if name.startswith("projector.") or "lora_" in name}
    assert {name for name in expected - changed if not name.endswith("key.bias")} == set()


def test_from_pretrained_returns_the_right_class(feallm_settings, tiny_model, tmp_path):
    torch.manual_seed(0)
    model = build(feallm_settings)
    model.save_pretrained(tmp_path / "feallm")
    tiny_model.save_pretrained(tmp_path / "explllm")
    again = ExpLLM.from_pretrained(tmp_path / "feallm")
    assert type(again) is FEALLM and type(ExpLLM.from_pretrained(tmp_path / "explllm")) is ExpLLM
    pixels = torch.randn(2, 3, 56, 56)
    torch.testing.assert_close(again.encode_image(pixels), model.encode_image(pixels), atol=1e-5, rtol=0)
    assert len(again.recognize_and_explain_pixels(pixels, 4)) == 2
    with pytest.raises(CheckpointError, match=r"a model of class ExpLLM, not FEALLM.*ExpLLM.from_pretrained"):
        FEALLM.from_pretrained(tmp_path / "explllm")
    # A convolutional encoder has feature maps of several sizes.
    tiny = build(NetworkSettings(preset="tiny", architecture="feallm", labels="rafdb", vocabulary=700))
    assert type(tiny) is FEALLM and tiny.config.image_tokens == tiny_model.config.image_tokens + 1
    assert len(tiny.recognize_pixels(torch.randn(2, 3, 64, 64))) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"regions": [[0, 0, 1, 1], [0.5, 0, 0.4, 1]]}, r"region 1 is \[0.5, 0, 0.4, 1\]"),
        ({"regions": []}, "there are 0 regions, and crop_size is 56"),
        ({"local_width": 10}, "local_width is 10, not a multiple of 4 x 4 heads"),
        ({"local_heads": 0}, "local_heads and heads are 0 and 8"),
        ({"heads": 0}, "local_heads and heads are 4 and 0"),
        ({"heads": 7}, "7 attention heads do not divide the feature width 32"),
    ],
)
def test_invalid_sizes(feallm_settings, change, message):
    with pytest.raises(ConfigError, match=message):
        build(replace(feallm_settings, feallm=FEALLMSettings(**change)))
