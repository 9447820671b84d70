import math
from pathlib import Path

import numpy as np
import pytest
import torch

from satclip_model.positional_encoding.discretized_harmonics import DiscretizedSphericalHarmonics
from satclip_model.positional_encoding.spherical_harmonics import real_spherical_harmonics

GOLDEN = Path(__file__).resolve().parents[2] / "data" / "satclip_reference" / "positional_encodings.npz"
ROUNDING = 2e-5  # of polynomials of degree 7 in float32


def lonlat(*places: tuple[float, float]) -> torch.Tensor:
    return torch.tensor(places, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_reference(dtype: torch.dtype) -> None:
    golden = np.load(GOLDEN)
    encoded = DiscretizedSphericalHarmonics(10)(torch.tensor(golden["lonlat_deg"]).to(dtype))
    assert encoded.dtype == dtype
    np.testing.assert_allclose(encoded.numpy(), golden["sphericalharmonics_discretized_L10"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("column", "row"), [(0, 0), (1, 3), (200, 90), (359, 179), (17, 178)])
def test_whole_degrees_read_table_entries_whose_step_is_a_little_over_one_degree(column: int, row: int) -> None:
    encoded = DiscretizedSphericalHarmonics(8)(lonlat((column - 180, row - 90)))
    entry = real_spherical_harmonics(lonlat((column * 360 / 359 - 180, row * 180 / 179 - 90)), 8, "analytic")
    np.testing.assert_allclose(encoded.numpy(), entry.numpy(), rtol=0, atol=ROUNDING)


def test_last_entries_stand_for_what_lies_beyond_them() -> None:
    encoded = DiscretizedSphericalHarmonics(8)(lonlat((180, 90), (180, 12), (179, 12), (-180, 12)))
    pole = real_spherical_harmonics(lonlat((0, 90)), 8, "analytic")
    np.testing.assert_allclose(encoded[:1].numpy(), pole.numpy(), rtol=0, atol=ROUNDING)
    torch.testing.assert_close(encoded[1:], encoded[1:2].expand(3, -1), rtol=0, atol=1e-6)


def test_values_sink_with_the_fraction_of_the_latitude_and_jump_at_the_next_degree() -> None:
    encoded = DiscretizedSphericalHarmonics(8)(lonlat((40, 20), (40, 20.25), (40, 20.75), (40, 21)))
    whole, _, _, following = encoded
    torch.testing.assert_close(encoded[1], 0.75 * whole, rtol=0, atol=1e-6)
    torch.testing.assert_close(encoded[2], 0.25 * whole, rtol=0, atol=1e-6)
    assert float((following - whole).abs().max()) < 0.2 < float(whole.abs().max())


def test_south_western_and_north_eastern_neighbors_mix_with_the_fraction_of_the_longitude() -> None:
    encoding = DiscretizedSphericalHarmonics(8)
    south_west, east, north_east = encoding(lonlat((40, 20), (41, 20), (41, 21)))
    level, raised = encoding(lonlat((40.25, 20), (40.25, 20.5)))
    torch.testing.assert_close(level, 0.75 * south_west + 0.25 * east, rtol=0, atol=1e-6)
    torch.testing.assert_close(raised, 0.375 * south_west + 0.125 * north_east, rtol=0, atol=1e-6)


def test_gradient_is_that_of_the_interpolation() -> None:
    place = lonlat((40.25, 20.75)).requires_grad_()
    encoding = DiscretizedSphericalHarmonics(5)
    weights = torch.linspace(-1, 1, 25, dtype=torch.float64)
    value = encoding(place)[0] @ weights
    value.backward()
    assert place.grad is not None
    corner_below, corner_above = encoding(lonlat((40, 20), (41, 21))) @ weights
    lon_slope = 0.25 * float(corner_above - corner_below)
    lat_slope = -float(value.detach()) / 0.25
    np.testing.assert_allclose(place.grad[0].numpy(), [lon_slope, lat_slope], rtol=0, atol=1e-5)


def test_forty_degrees_stay_within_the_bounds_of_the_functions() -> None:
    generator = torch.Generator().manual_seed(1)
    places = torch.rand(500, 2, generator=generator, dtype=torch.float64) * torch.tensor([360, 180])
    encoded = DiscretizedSphericalHarmonics(40)(places - torch.tensor([180, 90]))
    assert float(encoded.abs().max()) <= math.pi * math.sqrt(79 / (4 * math.pi)) + 1e-4


@pytest.mark.parametrize("num_degrees", [0, 1001])
def test_number_of_degrees_is_bounded(num_degrees: int) -> None:
    with pytest.raises(ValueError, match=f"num_degrees is {num_degrees}"):
        DiscretizedSphericalHarmonics(num_degrees)
