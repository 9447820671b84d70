import math
import time
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import sph_harm_y_all

from satclip_model.config import HarmonicsConvention
from satclip_model.positional_encoding.spherical_harmonics import SphericalHarmonics, real_spherical_harmonics

GOLDEN = Path(__file__).resolve().parents[2] / "data" / "satclip_reference"
CONVENTIONS: tuple[HarmonicsConvention, ...] = ("orthonormal", "analytic", "closed-form")
HARD_LONLAT_DEG = np.array(
    [
        *([lon, lat] for lon in (-180.0, 180.0) for lat in (-90.0, -89.9999, -60.0, 0.0, 12.5, 89.995, 90.0)),
        *([33.0, sign * (90.0 - gap)] for sign in (-1, 1) for gap in (9e-3, 1e-4, 1e-7, 1e-11)),
        [0.0, 0.0],
        [-7.0, 45.0],
        [179.99999, -1e-9],
    ]
)


def random_lonlat_deg(num: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.uniform(-180, 180, num), np.degrees(np.arcsin(rng.uniform(-1, 1, num)))], axis=1)


def scipy_harmonics(lonlat_deg: np.ndarray, num_degrees: int, convention: str) -> np.ndarray:
    """Real harmonics from scipy's complex ones, which carry the Condon-Shortley phase."""
    azimuth, polar = np.radians(lonlat_deg[:, 0]), np.radians(90 - lonlat_deg[:, 1])
    if convention != "orthonormal":
        azimuth, polar = np.radians(lonlat_deg[:, 0] + 180), np.radians(lonlat_deg[:, 1] + 90)
    complex_valued = sph_harm_y_all(num_degrees - 1, num_degrees - 1, polar, azimuth)
    columns = []
    for degree in range(num_degrees):
        for order in range(-degree, degree + 1):
            value = complex_valued[degree, abs(order)] * (1 if convention == "closed-form" else (-1) ** order)
            if order == 0:
                columns.append(value.real * (math.pi if convention == "analytic" else 1))
            else:
                columns.append(math.sqrt(2) * (value.real if order > 0 else value.imag))
    return np.stack(columns, axis=1)


def orders_of(num_degrees: int) -> torch.Tensor:
    return torch.cat([torch.arange(-degree, degree + 1) for degree in range(num_degrees)])


@pytest.mark.parametrize("num_degrees", [5, 10])
def test_analytic_convention_equals_the_basis_of_the_released_weights(num_degrees: int) -> None:
    golden = np.load(GOLDEN / "spherical_harmonics_analytic.npz")
    basis = real_spherical_harmonics(torch.tensor(golden["lonlat_deg"]), num_degrees, "analytic")
    np.testing.assert_allclose(basis.numpy(), golden[f"analytic_L{num_degrees}"], rtol=0, atol=1e-11)


@pytest.mark.parametrize("num_degrees", [5, 10])
def test_closed_form_convention_equals_the_reference(num_degrees: int) -> None:
    golden = np.load(GOLDEN / "positional_encodings.npz")
    basis = real_spherical_harmonics(torch.tensor(golden["lonlat_deg"]), num_degrees, "closed-form")
    expected = golden[f"sphericalharmonics_closedform_L{num_degrees}"]
    np.testing.assert_allclose(basis.numpy(), expected, rtol=0, atol=1e-12)


def test_closed_form_and_analytic_differ_by_pi_in_order_zero_and_by_sign_in_odd_orders() -> None:
    lonlat_deg = torch.tensor(np.concatenate([random_lonlat_deg(20, seed=8), HARD_LONLAT_DEG]))
    analytic, closed_form = (real_spherical_harmonics(lonlat_deg, 30, each) for each in ("analytic", "closed-form"))
    orders = orders_of(30)
    factors = torch.where(orders % 2 == 0, 1.0, -1.0).double()
    factors[orders == 0] = 1 / math.pi
    torch.testing.assert_close(closed_form, factors * analytic, rtol=0, atol=1e-13)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("num_degrees", [1, 2, 10, 40, 100])
def test_agrees_with_scipy(convention: HarmonicsConvention, num_degrees: int) -> None:
    lonlat_deg = np.concatenate([random_lonlat_deg(60, seed=num_degrees), HARD_LONLAT_DEG])
    expected = scipy_harmonics(lonlat_deg, num_degrees, convention)
    basis = real_spherical_harmonics(torch.tensor(lonlat_deg), num_degrees, convention)
    assert basis.dtype == torch.float64
    np.testing.assert_allclose(basis.numpy(), expected, rtol=0, atol=1e-11 * np.abs(expected).max())


@pytest.mark.parametrize("degree", [40, 99])
@pytest.mark.parametrize("lonlat_deg", [(180.0, 12.5), (-77.25, -54.0), (33.0, 89.991), (5.0, -89.99999)])
def test_agrees_with_forty_digits(degree: int, lonlat_deg: tuple[float, float]) -> None:
    with mpmath.workdps(40):
        lon, polar = (mpmath.mpf(angle) * mpmath.pi / 180 for angle in (lonlat_deg[0], 90 - mpmath.mpf(lonlat_deg[1])))
        exact = [mpmath.spherharm(degree, order, polar, lon) * (-1) ** order for order in range(degree + 1)]
        root = mpmath.sqrt(2)
        positive = [float(root * each.real) for each in exact[1:]]
        negative = [float(root * each.imag) for each in exact[1:]]
        expected = np.array([*negative[::-1], float(exact[0].real), *positive])
    tolerance = 1e-11 * np.abs(expected).max()
    columns = slice(degree**2, (degree + 1) ** 2)
    basis = real_spherical_harmonics(torch.tensor([lonlat_deg], dtype=torch.float64), degree + 1)[0, columns]
    np.testing.assert_allclose(basis.numpy(), expected, rtol=0, atol=tolerance)
    scipy_basis = scipy_harmonics(np.array([lonlat_deg]), degree + 1, "orthonormal")[0, columns]
    np.testing.assert_allclose(scipy_basis, expected, rtol=0, atol=tolerance)


@settings(max_examples=60, deadline=None)
@given(
    lon=st.floats(-360, 360),
    lat=st.one_of(st.floats(-90, 90), st.floats(89.99, 90), st.floats(-90, -89.99)),
    convention=st.sampled_from(CONVENTIONS),
)
def test_addition_theorem_holds_everywhere(lon: float, lat: float, convention: HarmonicsConvention) -> None:
    basis = real_spherical_harmonics(torch.tensor([[lon, lat]], dtype=torch.float64), 100, convention)[0]
    if convention == "analytic":
        basis = torch.where(orders_of(100) == 0, basis / math.pi, basis)
    power = [float((basis[degree**2 : (degree + 1) ** 2] ** 2).sum()) for degree in range(100)]
    np.testing.assert_allclose(power, (2 * np.arange(100) + 1) / (4 * math.pi), rtol=1e-11)


def test_basis_is_orthonormal_under_exact_quadrature() -> None:
    num_degrees = 12
    nodes, weights = np.polynomial.legendre.leggauss(num_degrees)
    lon_deg = np.arange(2 * num_degrees) * 360 / (2 * num_degrees) - 180
    lat_deg, lon_deg = (grid.ravel() for grid in np.meshgrid(np.degrees(np.arcsin(nodes)), lon_deg, indexing="ij"))
    area = np.repeat(weights, 2 * num_degrees) * 2 * np.pi / (2 * num_degrees)
    basis = real_spherical_harmonics(torch.tensor(np.stack([lon_deg, lat_deg], axis=1)), num_degrees).numpy()
    np.testing.assert_allclose((basis * area[:, None]).T @ basis, np.eye(num_degrees**2), atol=1e-12)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("lat", [90.0, -90.0])
def test_a_pole_is_one_place_whatever_its_longitude(convention: HarmonicsConvention, lat: float) -> None:
    lonlat_deg = torch.tensor([[lon, lat] for lon in (-180.0, -31.0, 0.0, 77.5)], dtype=torch.float64)
    basis = real_spherical_harmonics(lonlat_deg, 20, convention)
    orders = orders_of(20)
    assert torch.equal(basis, basis[:1].expand_as(basis))
    assert bool((basis[:, orders != 0] == 0).all())
    scale = math.pi if convention == "analytic" else 1.0
    expected = scale * np.sqrt((2 * np.arange(20) + 1) / (4 * np.pi))
    np.testing.assert_allclose(np.abs(basis[0, orders == 0].numpy()), expected, rtol=1e-13)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_both_sides_of_the_antimeridian_are_equal(convention: HarmonicsConvention) -> None:
    lat = torch.linspace(-90, 90, 19, dtype=torch.float64)
    west, east = (torch.stack([torch.full_like(lat, lon), lat], dim=1) for lon in (-180.0, 180.0))
    assert torch.equal(real_spherical_harmonics(west, 40, convention), real_spherical_harmonics(east, 40, convention))


def test_column_of_degree_one_orders_point_along_y_z_x() -> None:
    lonlat_deg = torch.tensor([[90.0, 0.0], [0.0, 90.0], [0.0, 0.0]], dtype=torch.float64)
    basis = real_spherical_harmonics(lonlat_deg, 2)[:, 1:]
    np.testing.assert_allclose(basis.numpy(), math.sqrt(3 / (4 * math.pi)) * np.eye(3), atol=1e-15)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_gradient_is_finite_everywhere_and_right(convention: HarmonicsConvention) -> None:
    lonlat_deg = torch.tensor([[13.0, 90.0], [180.0, -90.0], [-180.0, 0.0], [40.0, -33.0]], dtype=torch.float64)
    lonlat_deg.requires_grad_()
    real_spherical_harmonics(lonlat_deg, 12, convention).sum().backward()
    assert lonlat_deg.grad is not None
    assert bool(torch.isfinite(lonlat_deg.grad).all())
    inner = torch.tensor([[40.0, -33.0], [-120.0, 71.0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: real_spherical_harmonics(x, 6, convention), (inner,))
    with_gradient = real_spherical_harmonics(inner, 6, convention).detach()
    without = real_spherical_harmonics(inner.detach(), 6, convention)
    torch.testing.assert_close(with_gradient, without, rtol=0, atol=1e-14)


def test_many_points_equal_points_one_by_one() -> None:
    lonlat_deg = torch.tensor(random_lonlat_deg(1100, seed=3))
    basis = real_spherical_harmonics(lonlat_deg, 7)
    for row in (0, 511, 512, 1099):
        alone = real_spherical_harmonics(lonlat_deg[row : row + 1], 7)[0]
        torch.testing.assert_close(basis[row], alone, rtol=0, atol=1e-14)


def test_ten_thousand_points_of_forty_degrees_take_under_a_second() -> None:
    lonlat_deg = torch.tensor(random_lonlat_deg(10_000, seed=4))
    real_spherical_harmonics(lonlat_deg[:100], 40)
    fastest = math.inf
    for _ in range(3):
        started = time.thread_time()
        real_spherical_harmonics(lonlat_deg, 40)
        fastest = min(fastest, time.thread_time() - started)
    assert fastest < 1.0


@pytest.mark.parametrize(
    ("lonlat_deg", "message"),
    [
        ([[0.0, 0.0], [12.0, 95.0]], r"row 1 is \[12\.0, 95\.0\].*\[-90, 90\]"),
        ([[0.0, -90.5]], "latitude"),
        ([[float("nan"), 1.0]], "finite"),
        ([[1.0, float("inf")]], "finite"),
        ([[1.0, 2.0, 3.0]], r"shape \(1, 3\)"),
    ],
)
def test_bad_coordinates_are_named(lonlat_deg: list[list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        real_spherical_harmonics(torch.tensor(lonlat_deg, dtype=torch.float64), 3)


@pytest.mark.parametrize("num_degrees", [0, 1001])
def test_number_of_degrees_is_bounded(num_degrees: int) -> None:
    with pytest.raises(ValueError, match=f"num_degrees is {num_degrees}"):
        real_spherical_harmonics(torch.zeros(1, 2), num_degrees)


def test_another_convention_is_refused() -> None:
    with pytest.raises(ValueError, match=r"convention is 'discretized'; expected one of .*closed-form"):
        real_spherical_harmonics(torch.zeros(1, 2), 3, "discretized")


def test_no_points_give_an_empty_basis() -> None:
    assert SphericalHarmonics(4)(torch.zeros(0, 2)).shape == (0, SphericalHarmonics(4).encoding_dim)


@pytest.mark.parametrize(("num_degrees", "tolerance"), [(10, 3e-6), (40, 1e-4)])
def test_float32_costs_digits_and_nothing_else(num_degrees: int, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(4)
    lonlat_deg = torch.rand(200, 2, dtype=torch.float64, generator=generator) * torch.tensor([360.0, 180.0])
    lonlat_deg -= torch.tensor([180.0, 90.0])
    lonlat_deg[:2] = torch.tensor([[12.0, 90.0], [33.0, -89.999]])
    functions = SphericalHarmonics(num_degrees)
    exact = functions(lonlat_deg)
    functions.compute_dtype = torch.float32
    rounded = functions(lonlat_deg)
    assert (exact.dtype, rounded.dtype) == (torch.float64, torch.float32)
    torch.testing.assert_close(rounded.double(), exact, rtol=0, atol=tolerance)
    torch.testing.assert_close(functions.traceable(lonlat_deg), rounded, rtol=0, atol=tolerance)
    functions.compute_dtype = torch.float64
    assert torch.equal(functions(lonlat_deg), exact)
