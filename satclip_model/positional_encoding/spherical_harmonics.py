"""Real spherical harmonics of longitude and latitude."""

import math
from collections.abc import Iterator
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from satclip_model.config import HarmonicsConvention
from satclip_model.positional_encoding.lonlat import validate_lonlat_deg

MAX_NUM_DEGREES: Final = 1000
"""Beyond it the sectoral terms leave the range of float64 while their column is still needed."""

_BLOCK_POINTS: Final = 512
"""Points whose intermediate results stay in a core's cache together."""


def real_spherical_harmonics(
    lonlat_deg: Float[Tensor, "batch 2"], num_degrees: int, convention: HarmonicsConvention = "orthonormal"
) -> Float[Tensor, "batch basis"]:
    """Real spherical harmonics at the given directions.

    Column ``l*l + l + m`` is degree l, order m, for l = 0 .. ``num_degrees`` - 1; m > 0 goes with cos(m lon), m < 0
    with sin(|m| lon). Computed in float64 and returned in it; differentiable, exact at the poles, and equal at
    longitudes that differ by 360 degrees.

    Args:
        lonlat_deg: Longitude and latitude in degrees, longitude first.
        num_degrees: Number of degrees L; the basis has L*L columns.
        convention: ``orthonormal``: the integral of Y_lm**2 over the unit sphere is 1, hence
            sum_m Y_lm**2 = (2l + 1) / 4pi everywhere; no Condon-Shortley phase. ``analytic``: the basis of the released
            SatCLIP weights, that is the same functions of azimuth lon + 180 and polar angle lat + 90, with the terms
            of order 0 multiplied by pi. ``closed-form``: the orthonormal functions of that azimuth and polar angle with
            the Condon-Shortley phase, so it differs from ``analytic`` in order 0 by 1/pi and in odd orders by sign.

    Raises:
        ValueError: ``num_degrees`` outside [1, 1000], another convention, a latitude outside [-90, 90], or a
            coordinate that is not finite.

    Source: Holmes and Featherstone (2002), A unified approach to the Clenshaw summation and the recursive computation
        of very high degree and order normalised associated Legendre functions, J. Geodesy 76, eqs. 11 to 13.
    """
    if not 1 <= num_degrees <= MAX_NUM_DEGREES:
        raise ValueError(f"num_degrees is {num_degrees}; expected 1 to {MAX_NUM_DEGREES}")
    validate_lonlat_deg(lonlat_deg)
    lon_deg, lat_deg = lonlat_deg.double().unbind(dim=1)
    sin_lat = torch.sin(torch.deg2rad(lat_deg))
    cos_lat = torch.sin(torch.deg2rad(90.0 - lat_deg.abs()))
    if convention == "analytic":
        cos_polar, azimuth_deg, zonal_factor = -sin_lat, lon_deg + 180.0, math.pi
    elif convention == "closed-form":  # the phase (-1)**m is half a turn, which takes lon + 180 back to lon
        cos_polar, azimuth_deg, zonal_factor = -sin_lat, lon_deg, 1.0
    elif convention == "orthonormal":
        cos_polar, azimuth_deg, zonal_factor = sin_lat, lon_deg, 1.0
    else:
        raise ValueError(f"convention is {convention!r}; expected 'orthonormal', 'analytic' or 'closed-form'")

    azimuth = torch.deg2rad(torch.remainder(azimuth_deg, 360.0))
    coefficients = _recurrence_coefficients(num_degrees, lonlat_deg.device)
    if lonlat_deg.requires_grad and torch.is_grad_enabled():
        return torch.cat(list(_degrees(azimuth, cos_polar, cos_lat, zonal_factor, coefficients))).T
    basis = torch.empty(num_degrees**2, len(lonlat_deg), dtype=torch.float64, device=lonlat_deg.device)
    for start in range(0, len(lonlat_deg), _BLOCK_POINTS):
        points = slice(start, start + _BLOCK_POINTS)
        pieces = _degrees(azimuth[points], cos_polar[points], cos_lat[points], zonal_factor, coefficients)
        for degree, piece in enumerate(pieces):
            basis[degree**2 : (degree + 1) ** 2, points] = piece
    return basis.T


def _recurrence_coefficients(num_degrees: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Per degree l the factors of the recurrence for orders 0 .. l - 2, each of shape (l - 1, 1)."""
    coefficients = []
    for degree in range(num_degrees):
        order = torch.arange(max(degree - 1, 0), dtype=torch.float64, device=device)[:, None]
        gain = torch.sqrt((4.0 * degree**2 - 1.0) / (degree**2 - order**2))
        ratio = torch.sqrt(((degree - 1.0) ** 2 - order**2) / (4.0 * (degree - 1.0) ** 2 - 1.0))
        coefficients.append((gain, gain * ratio))
    return coefficients


def _degrees(
    azimuth: Tensor,
    cos_polar: Tensor,
    sin_polar: Tensor,
    zonal_factor: float,
    coefficients: list[tuple[Tensor, Tensor]],
) -> Iterator[Tensor]:
    """Yields per degree l the functions of order -l .. l, shape (2l + 1, batch)."""
    num_degrees = len(coefficients)
    angles = torch.arange(1, num_degrees, dtype=torch.float64, device=azimuth.device)[:, None] * azimuth
    cosines = math.sqrt(2.0) * torch.cos(angles)
    sines = math.sqrt(2.0) * torch.sin(angles).flip(0)
    sectoral = torch.full_like(cos_polar, math.sqrt(0.25 / math.pi))
    before, legendre = sectoral[None][:0], sectoral[None]
    for degree, (gain, gain_ratio) in enumerate(coefficients):
        if degree > 0:
            below_sectoral = math.sqrt(2 * degree + 1) * cos_polar * sectoral
            sectoral = math.sqrt((2 * degree + 1) / (2 * degree)) * sin_polar * sectoral
            inner = gain * cos_polar * legendre[: degree - 1] - gain_ratio * before
            before, legendre = legendre, torch.cat([inner, below_sectoral[None], sectoral[None]])
        tesseral = legendre[1:]
        yield torch.cat(
            [
                sines[num_degrees - 1 - degree :] * tesseral.flip(0),
                zonal_factor * legendre[:1],
                cosines[:degree] * tesseral,
            ]
        )


class SphericalHarmonics(nn.Module):
    """``real_spherical_harmonics`` as a module without parameters."""

    def __init__(self, num_degrees: int, convention: HarmonicsConvention = "orthonormal") -> None:
        super().__init__()
        self.num_degrees = num_degrees
        self.convention: HarmonicsConvention = convention

    @property
    def encoding_dim(self) -> int:
        """Number of columns, L*L."""
        return self.num_degrees**2

    def forward(self, lonlat_deg: Float[Tensor, "batch 2"]) -> Float[Tensor, "batch basis"]:
        """The basis at ``lonlat_deg`` (degrees, longitude first), float64."""
        return real_spherical_harmonics(lonlat_deg, self.num_degrees, self.convention)
