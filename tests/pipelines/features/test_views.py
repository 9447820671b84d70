import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from pipelines.features.config import ViewsConfig
from pipelines.features.keyed_draws import draw_uniform
from pipelines.features.views import augment, draw_views, reflectance_tensor
from pipelines.patches.radiometry import reflectance

NOTHING = ViewsConfig(num_views=4, flips=False, min_crop_fraction=1.0, max_blur_sigma_px=0.0, max_band_jitter=0.0)
FLIPS = NOTHING.model_copy(update={"flips": True})
CROPS = NOTHING.model_copy(update={"min_crop_fraction": 0.5})
BLUR = NOTHING.model_copy(update={"max_blur_sigma_px": 3.0})
JITTER = NOTHING.model_copy(update={"max_band_jitter": 0.2})
EVERYTHING = ViewsConfig(num_views=4)
HEIGHT, WIDTH = 24, 32
IDS = np.arange(40) * 11 + 5


def coordinate_patches(num: int) -> Tensor:
    """Band 0 is the row, band 1 the column of each pixel, in pixels; the other bands are constant."""
    patch = torch.ones(12, HEIGHT, WIDTH) * torch.arange(1.0, 13.0)[:, None, None]
    patch[0] = torch.arange(HEIGHT, dtype=torch.float32)[:, None]
    patch[1] = torch.arange(WIDTH, dtype=torch.float32)
    return patch.expand(num, -1, -1, -1).clone()


def noise_patches(num: int) -> Tensor:
    return torch.rand(num, 12, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(3))


def test_view_zero_is_the_patch_itself() -> None:
    patches = noise_patches(3)
    assert augment(patches, IDS[:3], 0, EVERYTHING) is patches


def test_nothing_asked_for_changes_nothing() -> None:
    patches = noise_patches(5)
    assert torch.equal(augment(patches, IDS[:5], 1, NOTHING), patches)


def test_flips_reverse_rows_and_columns_of_half_of_the_patches() -> None:
    flipped = augment(coordinate_patches(len(IDS)), IDS, 1, FLIPS)
    reversed_rows, reversed_columns = flipped[:, 0, 0, 0] > 0, flipped[:, 1, 0, 0] > 0
    for rows, columns, view in zip(reversed_rows, reversed_columns, flipped, strict=True):
        dims = [dim for dim, reverse in ((1, rows), (2, columns)) if reverse]
        assert torch.equal(view, coordinate_patches(1)[0].flip(dims))
    combinations = {(bool(rows), bool(columns)) for rows, columns in zip(reversed_rows, reversed_columns, strict=True)}
    assert len(combinations) == 4


def test_crops_keep_orientation_aspect_and_stay_inside() -> None:
    viewed = augment(coordinate_patches(len(IDS)), IDS, 2, CROPS)
    fraction = torch.tensor(draw_views(IDS, 2, 12, CROPS).crop_fraction, dtype=torch.float32)
    assert 0.5 <= fraction.min() < 0.6 < 0.9 < fraction.max() <= 1
    inner = viewed[:, :, 2:-2, 2:-2]
    for band, along, across in ((0, 1, 2), (1, 2, 1)):
        step = inner[:, band].diff(dim=along)
        torch.testing.assert_close(step, fraction[:, None, None].expand_as(step), rtol=0, atol=1e-4)
        assert inner[:, band].diff(dim=across).abs().max() < 1e-5
    assert viewed[:, 0].min() >= 0
    assert viewed[:, 0].max() <= HEIGHT - 1
    assert viewed[:, 1].max() <= WIDTH - 1
    starts = viewed[:, :2, 0, 0]
    assert (starts.std(dim=0) > 1).all()


def test_crops_resample_constant_bands_to_themselves() -> None:
    viewed = augment(coordinate_patches(8), IDS[:8], 3, EVERYTHING.model_copy(update={"max_band_jitter": 0.0}))
    torch.testing.assert_close(viewed[:, 2:], coordinate_patches(8)[:, 2:], rtol=1e-6, atol=0)


def test_blur_keeps_the_mean() -> None:
    patches = noise_patches(len(IDS))
    blurred = augment(patches, IDS, 1, BLUR)
    torch.testing.assert_close(blurred.mean(dim=(2, 3)), patches.mean(dim=(2, 3)), rtol=1e-5, atol=1e-6)


def test_blur_spreads_a_point_to_its_standard_deviation() -> None:
    point = torch.zeros(len(IDS), 12, HEIGHT, WIDTH)
    point[:, :, 12, 15] = 1.0
    spread = augment(point, IDS, 1, BLUR)[:, 4]
    sigma_px = draw_views(IDS, 1, 12, BLUR).blur_sigma_px
    assert sigma_px.max() > 2.5
    for dim, center in ((1, 12), (2, 15)):
        distance = torch.arange(spread.shape[dim]) - center
        variance = (spread.sum(dim=3 - dim) * distance**2).sum(dim=1)
        wide = sigma_px > 0.8
        np.testing.assert_allclose(variance[wide].sqrt(), sigma_px[wide], rtol=0.01)


def test_jitter_scales_each_band_within_its_bounds() -> None:
    patches = noise_patches(len(IDS)) + 0.5
    ratio = augment(patches, IDS, 1, JITTER) / patches
    gain = ratio.mean(dim=(2, 3))
    torch.testing.assert_close(ratio, gain[:, :, None, None].expand_as(ratio), rtol=1e-5, atol=0)
    assert 0.8 <= gain.min() < 0.82
    assert 1.18 < gain.max() <= 1.2
    assert abs(float(gain.mean()) - 1) < 4 * 0.2 / np.sqrt(3 * gain.numel())
    assert abs(np.corrcoef(gain[:, 0], gain[:, 1])[0, 1]) < 0.5


def test_a_view_is_the_same_alone_in_another_order_and_again() -> None:
    patches = noise_patches(6)
    views = augment(patches, IDS[:6], 2, EVERYTHING)
    assert torch.equal(augment(patches, IDS[:6], 2, EVERYTHING), views)
    order = [4, 0, 5, 2, 1, 3]
    shuffled = augment(patches[order], torch.tensor(IDS[order]), 2, EVERYTHING)
    torch.testing.assert_close(shuffled, views[order], rtol=1e-6, atol=1e-7)
    alone = augment(patches[3:4], [int(IDS[3])], 2, EVERYTHING)
    torch.testing.assert_close(alone, views[3:4], rtol=1e-6, atol=1e-7)


def test_global_random_states_neither_matter_nor_move() -> None:
    patches = noise_patches(2)
    torch.manual_seed(1)
    first, state = augment(patches, IDS[:2], 1, EVERYTHING), torch.random.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(augment(patches, IDS[:2], 1, EVERYTHING), first)
    torch.manual_seed(1)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_views_differ_by_number_seed_and_place() -> None:
    patches = noise_patches(1)
    others = EVERYTHING.model_copy(update={"seed": 1})
    variants = [
        augment(patches, [place], view, config)
        for place, view, config in ((7, 1, EVERYTHING), (7, 2, EVERYTHING), (8, 1, EVERYTHING), (7, 1, others))
    ]
    assert all((a - b).abs().max() > 0.01 for i, a in enumerate(variants) for b in variants[:i])


def test_half_precision_comes_back_as_it_was_also_under_autocast() -> None:
    patches = noise_patches(2)
    views = augment(patches, IDS[:2], 1, EVERYTHING)
    halved = augment(patches.to(torch.bfloat16), IDS[:2], 1, EVERYTHING)
    assert halved.dtype == torch.bfloat16
    torch.testing.assert_close(halved.float(), views, rtol=0.01, atol=0.01)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(augment(patches, IDS[:2], 1, EVERYTHING), views)


def test_unusable_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"patches are torch\.int32; expected reflectance"):
        augment(torch.zeros(1, 12, 8, 8, dtype=torch.int32), [1], 1, EVERYTHING)
    with pytest.raises(ValueError, match="3 place ids for 2 patches"):
        augment(noise_patches(2), [1, 2, 3], 1, EVERYTHING)
    with pytest.raises(ValidationError, match="min_crop_fraction"):
        ViewsConfig(min_crop_fraction=0.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_views_on_a_gpu_are_those_of_the_cpu() -> None:
    patches = noise_patches(8)
    viewed = augment(patches.cuda(), torch.tensor(IDS[:8]).cuda(), 3, EVERYTHING)
    assert viewed.is_cuda
    torch.testing.assert_close(viewed.cpu(), augment(patches, IDS[:8], 3, EVERYTHING), rtol=1e-5, atol=1e-6)


def test_tensors_of_digital_numbers_become_reflectance_as_arrays_do() -> None:
    rng = np.random.default_rng(1)
    dn = rng.integers(0, 2**16, (3, 12, 8, 6)).astype(np.uint16)
    dn[rng.random(dn.shape) < 0.1] = 0
    offsets = np.array([0, -1000, -1000])
    found = reflectance_tensor(torch.from_numpy(dn), torch.from_numpy(offsets)).numpy()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, reflectance(dn, offsets))


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    stream=st.integers(0, 2**40),
    ids=st.lists(st.integers(0, 2**62), min_size=1, max_size=20, unique=True),
)
def test_draws_follow_from_their_keys(seed: int, stream: int, ids: list[int]) -> None:
    drawn = draw_uniform(seed, stream, np.array(ids), 5)
    assert ((drawn >= 0) & (drawn < 1)).all()
    np.testing.assert_array_equal(draw_uniform(seed, stream, np.array(ids[::-1]), 5)[::-1], drawn)
    np.testing.assert_array_equal(draw_uniform(seed, stream, np.array(ids), 3), drawn[:, :3])


def test_draws_are_uniform_and_uncorrelated_between_neighbouring_keys() -> None:
    ids = np.arange(20_000)
    drawn = np.concatenate([draw_uniform(seed, stream, ids, 2) for seed in (0, 1) for stream in (1, 2)], axis=1)
    counts = np.stack([np.histogram(column, 20, (0, 1))[0] for column in drawn.T])
    expected = len(ids) / 20
    assert (((counts - expected) ** 2 / expected).sum(axis=1) < 50).all()
    correlation = np.corrcoef(np.concatenate([drawn[:-1], drawn[1:]], axis=1).T)
    assert np.abs(correlation[~np.eye(len(correlation), dtype=bool)]).max() < 0.04


def test_draws_are_the_known_ones() -> None:
    known = [[0.2308834254822586, 0.3198261400786935], [0.02987671510060319, 0.5514875307804359]]
    np.testing.assert_array_equal(draw_uniform(3, 2, np.array([10, 11]), 2), known)
