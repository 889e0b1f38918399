import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from explllm.core.errors import ConfigError
from explllm.models.conv_encoder import ConvEncoder, ConvEncoderConfig
from explllm.models.vision import ActionUnitTokens, BatchDropPath, add_drop_path, vision_shape

SMALL = Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)


def test_drop_path_drops_a_share_of_the_samples_and_scales_up_the_others():
    torch.manual_seed(0)
    drop, residual = BatchDropPath(0.4), torch.randn(10, 3, 4)
    dropped = drop(residual)
    active = dropped.flatten(1).abs().sum(1) > 0
    assert int(active.sum()) == 6
    torch.testing.assert_close(dropped[active], residual[active] * 10 / 6)
    means = torch.stack([drop(torch.ones(10, 1)) for _ in range(2000)]).mean(0)
    torch.testing.assert_close(means, torch.ones(10, 1), atol=0.1, rtol=0)
    assert torch.equal(BatchDropPath(0.9)(residual[:1]), residual[:1])  # a single sample always remains
    assert torch.equal(drop.eval()(residual), residual)


def test_drop_path_in_every_block_of_dinov2():
    torch.manual_seed(0)
    encoder = Dinov2Model(SMALL)
    with torch.no_grad():
        for name, weight in encoder.named_parameters():
            if "lambda1" in name:
                weight.fill_(1.0)
    images = torch.randn(8, 3, 28, 28)
    before = encoder.eval()(images).last_hidden_state
    add_drop_path(encoder, 0.5)
    assert torch.equal(encoder(images).last_hidden_state, before)
    encoder.train()
    changed = (encoder(images).last_hidden_state - before).flatten(1).abs().amax(1) > 1e-4
    assert changed.all()  # active samples are scaled up in each of the two blocks
    single = encoder(images[:1]).last_hidden_state
    torch.testing.assert_close(single, before[:1], atol=1e-5, rtol=0)


def test_invalid_drop_path():
    with pytest.raises(ConfigError, match="the drop path rate is 1"):
        add_drop_path(Dinov2Model(SMALL), 1.0)
    with pytest.raises(ConfigError, match="no blocks with stochastic depth"):
        add_drop_path(ConvEncoder(ConvEncoderConfig()), 0.1)


def test_tokens_of_action_units():
    """A token is its unit plus its intensity, interpolated; the language model's loss does not change the estimates."""
    torch.manual_seed(0)
    tokens = ActionUnitTokens(tokens=4, width_in=8, width=8, width_out=6)
    units, embeds = tokens(torch.randn(2, 4, 8, requires_grad=True))
    assert units.shape == (2, 24) and embeds.shape == (2, 24, 6)
    position = float(units[1, 5].detach()) * 10
    lower = int(position)
    level = tokens.level[lower] * (lower + 1 - position) + tokens.level[lower + 1] * (position - lower)
    torch.testing.assert_close(embeds[1, 5], tokens.unit[5] + level)
    embeds.sum().backward()
    assert all(weight.grad is None for weight in tokens.head.parameters())
    assert tokens.unit.grad is not None and tokens.level.grad is not None
    measured = torch.full((2, 24), torch.nan)
    measured[1, 5] = 0.3
    estimates, shown = tokens(torch.zeros(2, 4, 8), measured=measured)
    _, estimated = tokens(torch.zeros(2, 4, 8))
    torch.testing.assert_close(shown[1, 5], tokens.unit[5] + tokens.level[3])
    assert estimates[1, 5].item() != 0.3 and torch.equal(shown[0], estimated[0])


def test_normalization_in_place_gives_the_features_of_batch_normalization():
    """The same arithmetic in place: the largest difference measured is 0."""
    torch.manual_seed(0)
    encoder = ConvEncoder(ConvEncoderConfig(depths=(1, 2, 1, 1)))
    images = torch.randn(4, 3, 32, 32)
    encoder.train()(images)  # running statistics that are not 0 and 1
    encoder.eval()
    with_gradients = encoder(images).last_hidden_state
    assert with_gradients.requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(encoder(images).last_hidden_state, with_gradients.detach(), atol=1e-6, rtol=0)


def test_the_shape_of_an_encoder_is_found_once(monkeypatch):
    """And it follows every setting; the configuration stays as it was."""
    built = []
    monkeypatch.setattr(
        Dinov2Model, "__init__", lambda *options, init=Dinov2Model.__init__: built.append(init(*options))
    )
    config = Dinov2Config(**{**SMALL.to_dict(), "layer_norm_eps": 1e-5})
    before = config.to_dict()
    for size, tokens in ((28, 4), (28, 4), (56, 16), (28, 4)):
        assert vision_shape(config, size)[:2] == (tokens, 16)
    assert len(built) == 2 and config.to_dict() == before
    config.hidden_size = 32
    assert vision_shape(config, 28).width == 32
    assert vision_shape(config, 28, -1, "2x2").tokens == 1
    assert vision_shape(config, 28, with_earlier=True).earlier_widths == (32,)
    assert len(built) == 5
