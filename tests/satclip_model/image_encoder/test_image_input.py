import numpy as np
import pytest
import torch

from pipelines.sentinel2 import BANDS
from satclip_model.image_encoder.image_input import (
    S2_100K_BANDS,
    center_crop,
    insert_cirrus_band,
    match_channels,
    reflectance_from_dn,
    require_size,
)


def bands_numbered(num_bands: int) -> torch.Tensor:
    return torch.arange(1.0, num_bands + 1)[None, :, None, None].expand(2, num_bands, 3, 4)


def test_cirrus_band_of_zeros_stands_between_b09_and_b11() -> None:
    inserted = insert_cirrus_band(bands_numbered(12))
    assert inserted.shape == (2, 13, 3, 4)
    assert inserted[1, :, 2, 3].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0, 11, 12]


def test_bands_are_those_that_the_pipeline_writes() -> None:
    assert S2_100K_BANDS == BANDS


@pytest.mark.parametrize(("num_bands", "in_channels"), [(13, 13), (12, 12), (3, 3)])
def test_images_of_all_channels_pass_as_they_are(num_bands: int, in_channels: int) -> None:
    images = torch.rand(2, num_bands, 3, 4)
    assert torch.equal(match_channels(images, in_channels), images)


def test_twelve_bands_become_thirteen_channels() -> None:
    images = torch.rand(2, 12, 3, 4)
    assert torch.equal(match_channels(images, 13), insert_cirrus_band(images))


@pytest.mark.parametrize(
    ("num_bands", "in_channels", "message"),
    [
        (11, 13, "has 11 bands; this encoder takes 12 or 13"),
        (13, 12, "has 13 bands; this encoder takes 12"),
        (12, 4, "has 12 bands; this encoder takes 4"),
    ],
)
def test_other_numbers_of_bands_are_refused(num_bands: int, in_channels: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        match_channels(torch.rand(1, num_bands, 2, 2), in_channels)


def test_cirrus_is_not_inserted_twice() -> None:
    with pytest.raises(ValueError, match="13 bands; expected 12: B01, B02"):
        insert_cirrus_band(torch.rand(1, 13, 2, 2))


def test_digital_numbers_are_refused_where_reflectance_is_expected() -> None:
    dn = torch.tensor(np.full((1, 12, 2, 2), 2500, dtype=np.uint16))
    with pytest.raises(ValueError, match=r"torch\.uint16.*divide digital numbers by 10000"):
        match_channels(dn, 13)
    assert reflectance_from_dn(dn).dtype == torch.float32
    torch.testing.assert_close(match_channels(reflectance_from_dn(dn), 12), torch.full((1, 12, 2, 2), 0.25))


@pytest.mark.parametrize(("height", "width"), [(8, 11), (5, 6), (4, 4)])
def test_crop_is_the_middle(height: int, width: int) -> None:
    pixels = torch.arange(float(height * width)).reshape(1, 1, height, width)
    cropped = center_crop(pixels, 4)
    row, col = (height - 4) // 2, (width - 4) // 2
    assert cropped.shape == (1, 1, 4, 4)
    assert cropped[0, 0, 0, 0] == row * width + col
    assert cropped[0, 0, -1, -1] == (row + 3) * width + col + 3


def test_crop_refuses_smaller_images() -> None:
    with pytest.raises(ValueError, match="200 x 256 pixels; this encoder takes 224 x 224 or larger"):
        center_crop(torch.zeros(1, 1, 200, 256), 224)


def test_size_must_be_exact_where_the_encoder_says_so() -> None:
    require_size(torch.zeros(1, 1, 64, 64), 64)
    with pytest.raises(ValueError, match="64 x 96 pixels; this encoder takes 64 x 64"):
        require_size(torch.zeros(1, 1, 64, 96), 64)
