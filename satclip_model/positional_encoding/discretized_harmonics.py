"""Spherical harmonics read from a table of whole degrees, as one option of the original SatCLIP does."""

import math
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from satclip_model.positional_encoding.lonlat import LonLatEncoding
from satclip_model.positional_encoding.spherical_harmonics import MAX_NUM_DEGREES, real_spherical_harmonics

_NUM_LON: Final = 360
_NUM_LAT: Final = 180

_PADDED_NUM_LAT: Final = 192
"""A multiple of 32: the scalar end of a vectorised loop rounds powers differently."""

_NUM_POLYNOMIAL_DEGREES: Final = 10
"""Degrees whose zonal functions are summed in powers of the cosine."""


class DiscretizedSphericalHarmonics(LonLatEncoding):
    """The ``analytic`` spherical harmonics read from a float32 table of 360 longitudes and 180 latitudes.

    For reading what was trained with it; new models do better with ``orthonormal``. It keeps the original's departures
    from a bilinear reading. The table spans [-180, 180] and [-90, 90] with both ends, so its step is a little over one
    degree, and is read as if it were one; its ends stand for what lies beyond them. Of the four neighbors only the
    south-western and the north-eastern count, with weights that sum to 1 less the fraction of the latitude. Values
    therefore jump at whole degrees of either coordinate, and sink to 0 towards the next whole degree of latitude.

    Longitudes that differ by 360 degrees are equal, and a pole is one point; beyond that it is continuous neither
    across the antimeridian nor at the poles. The gradient is that of the interpolation between its jumps.

    Only entries in use are computed. Table and interpolation are float32. The original sums its entries in powers of
    the cosine, whose rounding grows to 7e-5 in the zonal function of degree 9 and is reproduced so far; the original's
    higher degrees lose their digits towards the poles (1e-3 at degree 12, all of them at 20), and are exact here.

    Args:
        num_degrees: Degrees L; the basis has L*L columns, ordered as in ``real_spherical_harmonics``.

    Raises:
        ValueError: ``num_degrees`` outside [1, 1000].
    """

    def __init__(self, num_degrees: int = 10) -> None:
        super().__init__()
        if not 1 <= num_degrees <= MAX_NUM_DEGREES:
            raise ValueError(f"num_degrees is {num_degrees}; expected 1 to {MAX_NUM_DEGREES}")
        self.num_degrees = num_degrees
        self.encoding_dim = num_degrees**2

    def encode(
        self, lon_deg: Float[Tensor, " batch"], lat_deg: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch basis"]:
        """Columns: degree l, order m at ``l*l + l + m``."""
        wrapped = torch.where(lon_deg.abs() > 180.0, torch.remainder(lon_deg + 180.0, 360.0) - 180.0, lon_deg)
        column, row = wrapped.float() + 180.0, lat_deg.float() + 90.0
        lon_fraction, lat_fraction = (place - place.detach().floor() for place in (column, row))
        below = self._entries(column.detach().floor(), row.detach().floor())
        above = self._entries(column.detach().ceil(), row.detach().ceil())
        weight_below = (1.0 - lon_fraction) * (1.0 - lat_fraction)
        weight_above = lon_fraction * (1.0 - lat_fraction)
        return weight_below[:, None] * below + weight_above[:, None] * above

    def _entries(self, column: Tensor, row: Tensor) -> Tensor:
        """The table at whole columns and rows, (batch, basis) float32; beyond its ends, the ends."""
        columns, rows = column.long().clamp(max=_NUM_LON - 1), row.long().clamp(max=_NUM_LAT - 1)
        table_lon_deg = torch.linspace(-180.0, 180.0, _NUM_LON, dtype=torch.float32, device=column.device)
        table_lat_deg = torch.linspace(-90.0, 90.0, _NUM_LAT, dtype=torch.float32, device=column.device)
        places = torch.stack([table_lon_deg[columns], table_lat_deg[rows]], dim=1)
        entries = real_spherical_harmonics(places, self.num_degrees, "analytic").float()
        padded_lat_deg = functional.pad(table_lat_deg, (0, _PADDED_NUM_LAT - _NUM_LAT))
        cos_polar = torch.cos(torch.deg2rad(padded_lat_deg + 90.0))
        for degree in range(min(self.num_degrees, _NUM_POLYNOMIAL_DEGREES)):
            entries[:, degree * (degree + 1)] = _zonal_polynomial(degree, cos_polar)[rows]
        return entries


def _zonal_polynomial(degree: int, cos_polar: Tensor) -> Tensor:
    """The ``analytic`` zonal function summed in falling powers of the cosine, which rounds as the original does."""
    scale = math.sqrt((2 * degree + 1) * math.pi / 4) / 2**degree
    value = torch.zeros_like(cos_polar)
    for term in range(degree // 2 + 1):
        binomials = math.comb(degree, term) * math.comb(2 * (degree - term), degree)
        value = value + (-1) ** term * scale * binomials * cos_polar ** (degree - 2 * term)
    return value
