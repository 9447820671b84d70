"""Small random displacements of places on the sphere."""

import math
from typing import Final

import torch
from torch import Tensor

EARTH_RADIUS_M: Final = 6_371_008.8
"""Mean radius of the Earth (IUGG, R1)."""


def jitter_lonlat(lonlat_deg: Tensor, standard_deviation_m: float, generator: torch.Generator) -> Tensor:
    """Places displaced along great circles, equally likely in every direction.

    The displacement is Gaussian in the tangent plane with the given standard deviation along each axis, so its mean is
    zero, at the poles and across the antimeridian as well.

    Args:
        lonlat_deg: Longitude and latitude in degrees, shape (n, 2), float64.
        standard_deviation_m: In metres.
        generator: Source of randomness, on the device of ``lonlat_deg``.

    Returns:
        Longitude in [-180, 180) and latitude in degrees, shape (n, 2), float64.
    """
    lon, lat = torch.deg2rad(lonlat_deg.double()).unbind(dim=1)
    east, north = (
        torch.randn(2, len(lonlat_deg), generator=generator, dtype=torch.float64, device=lonlat_deg.device)
        * (standard_deviation_m / EARTH_RADIUS_M)
    ).unbind(dim=0)
    angle = torch.hypot(east, north)
    bearing = torch.atan2(east, north)
    sin_lat = torch.sin(lat) * torch.cos(angle) + torch.cos(lat) * torch.sin(angle) * torch.cos(bearing)
    new_lat = torch.asin(sin_lat.clamp(-1.0, 1.0))
    new_lon = lon + torch.atan2(
        torch.sin(bearing) * torch.sin(angle) * torch.cos(lat), torch.cos(angle) - torch.sin(lat) * sin_lat
    )
    wrapped = torch.remainder(new_lon + math.pi, 2 * math.pi) - math.pi
    return torch.rad2deg(torch.stack([wrapped, new_lat], dim=1))
