"""What every encoding asks of coordinates, and the frame of those that keep their type."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn


def validate_lonlat_deg(lonlat_deg: Tensor) -> None:
    """Raises ValueError unless ``lonlat_deg`` has shape (n, 2), is finite and its latitudes lie in [-90, 90]."""
    if lonlat_deg.ndim != 2 or lonlat_deg.shape[1] != 2:
        raise ValueError(f"lonlat_deg has shape {tuple(lonlat_deg.shape)}; expected (n, 2), longitude first")
    if not lonlat_deg.numel():
        return
    if not bool(torch.isfinite(lonlat_deg).all()):
        row = int((~torch.isfinite(lonlat_deg)).any(dim=1).nonzero()[0])
        raise ValueError(f"lonlat_deg: row {row} is {lonlat_deg[row].tolist()}; coordinates must be finite")
    latitude = lonlat_deg[:, 1].abs()
    if bool((latitude > 90.0).any()):
        row = int(latitude.argmax())
        raise ValueError(
            f"lonlat_deg: row {row} is {lonlat_deg[row].tolist()}; latitude must lie in [-90, 90], and longitude "
            "comes first"
        )


def validate_axes_deg(lon_deg: Tensor, lat_deg: Tensor) -> None:
    """Raises ValueError unless both are one axis, finite, and latitudes lie in [-90, 90]."""
    if lon_deg.ndim != 1 or lat_deg.ndim != 1:
        raise ValueError(
            f"lon_deg has shape {tuple(lon_deg.shape)} and lat_deg {tuple(lat_deg.shape)}; expected one axis each"
        )
    for name, axis_deg in (("lon_deg", lon_deg), ("lat_deg", lat_deg)):
        not_finite = (~torch.isfinite(axis_deg)).nonzero()
        if len(not_finite):
            raise ValueError(f"{name}: number {int(not_finite[0])} is not finite; coordinates must be finite")
    beyond = (lat_deg.abs() > 90.0).nonzero()
    if len(beyond):
        index = int(beyond[0])
        raise ValueError(
            f"lat_deg: number {index} is {float(lat_deg[index])}; latitude must lie in [-90, 90], and lon_deg comes "
            "first"
        )


class LonLatEncoding(nn.Module, ABC):
    """An encoding without parameters that is computed in float64 and returned in the type of the coordinates.

    Attributes:
        encoding_dim: Length of an encoded place.
    """

    encoding_dim: int

    def forward(self, lonlat_deg: Float[Tensor, "batch 2"]) -> Float[Tensor, "batch basis"]:
        """The encoding of places, in the type and on the device of ``lonlat_deg``; differentiable.

        Args:
            lonlat_deg: Longitude and latitude in degrees, longitude first.

        Raises:
            ValueError: Another shape, a latitude outside [-90, 90], a coordinate that is not finite, or integers.
        """
        validate_lonlat_deg(lonlat_deg)
        if not lonlat_deg.is_floating_point():
            raise ValueError(f"lonlat_deg holds {lonlat_deg.dtype}; expected floating point, best torch.float64")
        lon_deg, lat_deg = lonlat_deg.double().unbind(dim=1)
        return self.encode(lon_deg, lat_deg).to(lonlat_deg.dtype)

    @abstractmethod
    def encode(
        self, lon_deg: Float[Tensor, " batch"], lat_deg: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch basis"]:
        """The encoding of checked coordinates in float64."""


def sin_cos_lon(lon_deg: Float[Tensor, " batch"]) -> tuple[Tensor, Tensor]:
    """Sine and cosine of longitudes in degrees, equal at longitudes that differ by 360 degrees."""
    lon = torch.deg2rad(torch.remainder(lon_deg, 360.0))
    return torch.sin(lon), torch.cos(lon)


def sin_cos_lat(lat_deg: Float[Tensor, " batch"]) -> tuple[Tensor, Tensor]:
    """Sine and cosine of latitudes in degrees; the cosine is exactly 0 at the poles."""
    return torch.sin(torch.deg2rad(lat_deg)), torch.sin(torch.deg2rad(90.0 - lat_deg.abs()))
