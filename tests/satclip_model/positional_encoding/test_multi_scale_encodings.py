import math
from pathlib import Path

import numpy as np
import pytest
import torch

from satclip_model.positional_encoding.frequencies import geometric_frequencies
from satclip_model.positional_encoding.lonlat import LonLatEncoding
from satclip_model.positional_encoding.sphere_grid import SphereGrid, SphereGridKind
from satclip_model.positional_encoding.theory import Theory

GOLDEN = Path(__file__).resolve().parents[2] / "data" / "satclip_reference" / "positional_encodings.npz"
SPHERE_KINDS: tuple[SphereGridKind, ...] = ("spherec", "spherecplus", "spherem", "spheremplus")
GRID_KINDS: tuple[SphereGridKind, ...] = ("grid", *SPHERE_KINDS)


def multi_scale(kind: str, num_frequencies: int, min_radius: float, max_radius: float) -> LonLatEncoding:
    if kind == "theory":
        return Theory(num_frequencies, min_radius, max_radius)
    return SphereGrid(kind, num_frequencies, min_radius, max_radius)


@pytest.mark.parametrize(
    ("suffix", "settings"), [("f16_min1_max360", (16, 1.0, 360.0)), ("f32_min0.001_max10", (32, 0.001, 10.0))]
)
@pytest.mark.parametrize("kind", ["theory", *GRID_KINDS])
def test_equals_the_reference(kind: str, suffix: str, settings: tuple[int, float, float]) -> None:
    golden = np.load(GOLDEN)
    encoded = multi_scale(kind, *settings)(torch.tensor(golden["lonlat_deg"]))
    np.testing.assert_allclose(encoded.numpy(), golden[f"{kind}_{suffix}"], rtol=0, atol=1e-9)


def test_frequencies_fall_geometrically() -> None:
    expected = torch.tensor([10.0, 1.0, 0.1, 0.01], dtype=torch.float64)
    torch.testing.assert_close(geometric_frequencies(4, 0.1, 100.0), expected, rtol=1e-14, atol=0)


def test_grid_puts_all_longitudes_first() -> None:
    encoded = SphereGrid("grid", 2, 1.0, 10.0)(torch.tensor([[3.0, -5.0]], dtype=torch.float64))[0]
    angles = [3.0, 0.3, -5.0, -0.5]
    expected = [function(angle) for angle in angles for function in (math.sin, math.cos)]
    np.testing.assert_allclose(encoded.numpy(), expected, rtol=0, atol=1e-15)


def test_theory_looks_along_three_directions() -> None:
    encoded = Theory(2, 1.0, 10.0)(torch.tensor([[3.0, -5.0]], dtype=torch.float64))[0]
    along = [3.0 * math.cos(turn) - 5.0 * math.sin(turn) for turn in (0.0, 2 * math.pi / 3, 4 * math.pi / 3)]
    expected = [function(way / radius) for radius in (1, 10) for way in along for function in (math.sin, math.cos)]
    np.testing.assert_allclose(encoded.numpy(), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("kind", SPHERE_KINDS)
def test_each_column_of_the_sphere_encodings_stands_twice(kind: SphereGridKind) -> None:
    encoded = SphereGrid(kind, 5, 2.0, 300.0)(torch.tensor([[31.0, -12.0], [-170.0, 66.0]], dtype=torch.float64))
    assert torch.equal(encoded[:, ::2], encoded[:, 1::2])
    assert len(set(encoded[0, ::2].tolist())) == encoded.shape[1] // 2


@pytest.mark.parametrize("kind", ["grid", "spherec", "spherecplus"])
def test_radii_that_fit_360_degrees_make_the_encoding_periodic(kind: SphereGridKind) -> None:
    lonlat_deg = torch.tensor([[-180.0, 10.0], [-33.0, -80.0]], dtype=torch.float64)
    turned = lonlat_deg + torch.tensor([360.0, 0.0])
    fitting = SphereGrid(kind, 2, 180 / (4 * math.pi), 180 / math.pi)
    torch.testing.assert_close(fitting(turned), fitting(lonlat_deg), rtol=0, atol=1e-12)
    assert float((SphereGrid(kind)(turned) - SphereGrid(kind)(lonlat_deg)).abs().max()) > 0.1


@pytest.mark.parametrize("kind", GRID_KINDS)
def test_casting_the_module_does_not_round_its_frequencies(kind: SphereGridKind) -> None:
    lonlat_deg = torch.tensor([[151.25, -33.5]], dtype=torch.float64)
    encoding = SphereGrid(kind, 8, 1e-3, 10.0)
    before = encoding(lonlat_deg)
    assert torch.equal(encoding.half()(lonlat_deg), before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("grid", 1), "num_frequencies is 1"),
        (("spherec", 4, 0.0, 1.0), r"radii are 0\.0 and 1\.0"),
        (("spherem", 4, 5.0, 5.0), "min_radius < max_radius"),
        (("theory", 4), "kind is 'theory'; expected one of grid"),
    ],
)
def test_settings_without_meaning_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SphereGrid(*arguments)
