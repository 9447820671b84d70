import numpy as np
import pytest
import torch

from pipelines.training.coordinate_jitter import EARTH_RADIUS_M, jitter_lonlat
from pipelines.training.retrieval import great_circle_km


def unit_vectors(lonlat_deg: np.ndarray) -> np.ndarray:
    lon, lat = np.radians(lonlat_deg).T
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)


@pytest.mark.parametrize("place", [[10.0, 0.0], [-73.0, 64.0], [180.0, -30.0], [25.0, 90.0], [-120.0, -90.0]])
def test_displacement_has_no_mean_and_the_asked_spread_anywhere(place: list[float]) -> None:
    spread_m, num = 20_000.0, 40_000
    lonlat_deg = torch.tensor([place], dtype=torch.float64).expand(num, 2)
    moved = jitter_lonlat(lonlat_deg, spread_m, torch.Generator().manual_seed(0)).numpy()
    assert (np.abs(moved[:, 1]) <= 90).all()
    assert ((moved[:, 0] >= -180) & (moved[:, 0] < 180)).all()
    displacement_m = (unit_vectors(moved) - unit_vectors(np.array([place]))) * EARTH_RADIUS_M
    standard_error_m = spread_m / np.sqrt(num)
    assert np.linalg.norm(displacement_m.mean(axis=0)) < 5 * standard_error_m + spread_m**2 / EARTH_RADIUS_M
    distance_m = 1000 * great_circle_km(lonlat_deg.numpy(), moved)
    assert np.sqrt((distance_m**2).mean()) == pytest.approx(np.sqrt(2) * spread_m, rel=0.02)


def test_spread_is_equal_along_both_axes() -> None:
    lonlat_deg = torch.tensor([[40.0, 60.0]], dtype=torch.float64).expand(40_000, 2)
    moved = jitter_lonlat(lonlat_deg, 5_000.0, torch.Generator().manual_seed(1)).numpy()
    metres_per_degree = np.radians(1.0) * EARTH_RADIUS_M
    east_m = (moved[:, 0] - 40) * np.cos(np.radians(60)) * metres_per_degree
    north_m = (moved[:, 1] - 60) * metres_per_degree
    assert east_m.std() == pytest.approx(5_000, rel=0.02)
    assert north_m.std() == pytest.approx(5_000, rel=0.02)
    assert abs(np.corrcoef(east_m, north_m)[0, 1]) < 0.02


def test_generator_decides() -> None:
    lonlat_deg = torch.tensor([[0.0, 1.0], [2.0, 3.0]], dtype=torch.float64)
    first, again, other = (jitter_lonlat(lonlat_deg, 1e4, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.testing.assert_close(jitter_lonlat(lonlat_deg, 0.0, torch.Generator()), lonlat_deg)
