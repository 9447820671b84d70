"""Encodings of a few numbers per place: angles, the unit vector, sines and cosines."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from satclip_model.positional_encoding.lonlat import LonLatEncoding, sin_cos_lat, sin_cos_lon


class Direct(LonLatEncoding):
    """Longitude and latitude in radians, each less pi.

    Not continuous: both sides of the antimeridian differ by 2 pi, and a pole is as many points as it has longitudes.
    """

    encoding_dim = 2

    def encode(self, lon_deg: Float[Tensor, " batch"], lat_deg: Float[Tensor, " batch"]) -> Float[Tensor, "batch 2"]:
        """Columns: longitude, latitude."""
        return torch.deg2rad(torch.stack([lon_deg, lat_deg], dim=1)) - math.pi


class Cartesian3D(LonLatEncoding):
    """The unit vector from the center of the sphere to the place.

    Continuous everywhere: equal at longitudes that differ by 360 degrees, and one point at each pole.
    """

    encoding_dim = 3

    def encode(self, lon_deg: Float[Tensor, " batch"], lat_deg: Float[Tensor, " batch"]) -> Float[Tensor, "batch 3"]:
        """Columns: x towards (0, 0), y towards (90, 0), z towards the north pole."""
        (sin_lon, cos_lon), (sin_lat, cos_lat) = sin_cos_lon(lon_deg), sin_cos_lat(lat_deg)
        return torch.stack([cos_lon * cos_lat, sin_lon * cos_lat, sin_lat], dim=1)


class Wrap(LonLatEncoding):
    """Sines and cosines of longitude and latitude.

    Continuous across the antimeridian: equal at longitudes that differ by 360 degrees. Not at the poles, where the
    longitude still counts.

    Source: Mac Aodha et al. (2019), Presence-only geographical priors for fine-grained image classification.
    """

    encoding_dim = 4

    def encode(self, lon_deg: Float[Tensor, " batch"], lat_deg: Float[Tensor, " batch"]) -> Float[Tensor, "batch 4"]:
        """Columns: cosine and sine of the longitude, cosine and sine of the latitude."""
        (sin_lon, cos_lon), (sin_lat, cos_lat) = sin_cos_lon(lon_deg), sin_cos_lat(lat_deg)
        return torch.stack([cos_lon, sin_lon, cos_lat, sin_lat], dim=1)
