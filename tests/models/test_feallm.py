"""FEALLM's modules are wired as the figure draws them: shown by what moves and what does not."""

import pytest
import torch

from explllm.models.feallm import FACE_REGIONS, LocalClueAggregator, MultiPerspectiveProjector

WIDTH, LANGUAGE = 16, 24


@pytest.fixture
def local():
    torch.manual_seed(0)
    return LocalClueAggregator(8, WIDTH, LANGUAGE, crop_size=8, heads=2).eval()


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
        projector.local_attention.in_proj_bias.zero_()
        projector.local_attention.out_proj.bias.zero_()
    # Zero clues add nothing; the tokens of the earlier blocks remain.
    without = projector(last, earlier, zero)
    with torch.no_grad():
        projector.local_attention.out_proj.weight.zero_()
    assert torch.allclose(without, projector(last, earlier, local), atol=1e-6)
    assert without.std() > 1e-3
