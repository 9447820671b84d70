"""The hexagonal multi-scale encoding of Space2Vec."""

import math
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from satclip_model.positional_encoding.frequencies import geometric_frequencies
from satclip_model.positional_encoding.lonlat import LonLatEncoding

DIRECTIONS: Final = ((1.0, 0.0), (-0.5, math.sqrt(3.0) / 2.0), (-0.5, -math.sqrt(3.0) / 2.0))
"""Unit vectors (longitude, latitude), 120 degrees apart."""


class Theory(LonLatEncoding):
    """Sines and cosines along three directions of the (longitude, latitude) plane, 120 degrees apart.

    A direction's coordinate, in degrees, is multiplied by the frequency and taken as radians without conversion: the
    wavelength at radius r is 2 pi r degrees. Neither continuous across the antimeridian nor at the poles: 360 degrees
    are a whole number of wavelengths at no radius but 180 / (pi k). Longitudes must therefore be given in one range.

    Args:
        num_frequencies: Frequencies F.
        min_radius: Radius of the highest frequency, in degrees.
        max_radius: Radius of the lowest frequency, in degrees.

    Raises:
        ValueError: Fewer than 2 frequencies, or radii that are not positive and ascending.

    Source: Mai et al. (2020), Multi-scale representation learning for spatial feature distributions using grid cells.
    """

    def __init__(self, num_frequencies: int = 16, min_radius: float = 1.0, max_radius: float = 360.0) -> None:
        super().__init__()
        self.encoding_dim = 6 * num_frequencies
        # not a buffer: casting the module must not round the frequencies
        self.frequencies = geometric_frequencies(num_frequencies, min_radius, max_radius)

    def encode(
        self, lon_deg: Float[Tensor, " batch"], lat_deg: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch basis"]:
        """Columns: per frequency, from the highest on, sine and cosine along the first, second and third direction."""
        along = torch.stack([x * lon_deg + y * lat_deg for x, y in DIRECTIONS], dim=1)
        angles = self.frequencies.to(lon_deg.device)[:, None] * along[:, None, :]
        return torch.stack([torch.sin(angles), torch.cos(angles)], dim=-1).flatten(start_dim=1)
