"""The multi-scale encodings grid, sphereC, sphereC+, sphereM and sphereM+."""

from typing import Final, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from satclip_model.positional_encoding.frequencies import geometric_frequencies
from satclip_model.positional_encoding.lonlat import LonLatEncoding

SphereGridKind = Literal["grid", "spherec", "spherecplus", "spherem", "spheremplus"]

_COLUMNS_PER_FREQUENCY: Final = {"grid": 4, "spherec": 6, "spherecplus": 12, "spherem": 10, "spheremplus": 16}


class SphereGrid(LonLatEncoding):
    """Sines and cosines of longitude and latitude at several frequencies, or products of them.

    Degrees are multiplied by the frequency and taken as radians without conversion, as in SatCLIP's implementation: the
    wavelength at radius r is 2 pi r degrees, and what ``spherem`` leaves unscaled has a wavelength of 2 pi degrees.
    Therefore none of them is continuous across the antimeridian or at the poles: 360 degrees are a whole number of
    wavelengths at no radius but 180 / (pi k). Longitudes must be given in one range.

    Columns, with x the longitude and y the latitude at one frequency, u and v the unscaled ones:

    - ``grid``: for all frequencies sin x, cos x; then for all frequencies sin y, cos y.
    - ``spherec``: per frequency sin y, cos y cos x, cos y sin x.
    - ``spherecplus``: per frequency sin y, cos y, sin x, cos x, cos y cos x, cos y sin x.
    - ``spherem``: per frequency sin y, cos y cos u, cos v cos x, cos y sin u, cos v sin x.
    - ``spheremplus``: per frequency sin y, cos y, sin x, cos x, and the four products of ``spherem``.

    Frequencies go from the highest to the lowest. In all but ``grid`` each column stands twice in a row, as in SatCLIP.

    Args:
        kind: Name of the encoding.
        num_frequencies: Frequencies F.
        min_radius: Radius of the highest frequency, in degrees.
        max_radius: Radius of the lowest frequency, in degrees.

    Raises:
        ValueError: Another kind, fewer than 2 frequencies, or radii that are not positive and ascending.

    Source: Mai et al. (2022), Sphere2Vec: multi-scale representation learning over a spherical surface for geospatial
        predictions, arXiv:2201.10489, eqs. 3 (grid) and 4 (spherec).
    """

    def __init__(
        self, kind: SphereGridKind, num_frequencies: int = 16, min_radius: float = 1.0, max_radius: float = 360.0
    ) -> None:
        super().__init__()
        if kind not in _COLUMNS_PER_FREQUENCY:
            raise ValueError(f"kind is {kind!r}; expected one of {', '.join(get_args(SphereGridKind))}")
        self.kind: SphereGridKind = kind
        self.encoding_dim = _COLUMNS_PER_FREQUENCY[kind] * num_frequencies
        # not a buffer: casting the module must not round the frequencies
        self.frequencies = geometric_frequencies(num_frequencies, min_radius, max_radius)

    def encode(
        self, lon_deg: Float[Tensor, " batch"], lat_deg: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch basis"]:
        """Columns as listed for the class."""
        frequencies = self.frequencies.to(lon_deg.device)
        lon, lat = lon_deg[:, None] * frequencies, lat_deg[:, None] * frequencies
        sin_lon, cos_lon, sin_lat, cos_lat = torch.sin(lon), torch.cos(lon), torch.sin(lat), torch.cos(lat)
        if self.kind == "grid":
            halves = [torch.stack(pair, dim=-1).flatten(1) for pair in ((sin_lon, cos_lon), (sin_lat, cos_lat))]
            return torch.cat(halves, dim=1)
        columns = [sin_lat, cos_lat, sin_lon, cos_lon] if self.kind.endswith("plus") else [sin_lat]
        if self.kind in {"spherec", "spherecplus"}:
            columns += [cos_lat * cos_lon, cos_lat * sin_lon]
        else:
            unscaled_lon, unscaled_cos_lat = lon_deg[:, None], torch.cos(lat_deg)[:, None]
            columns += [cos_lat * torch.cos(unscaled_lon), unscaled_cos_lat * cos_lon]
            columns += [cos_lat * torch.sin(unscaled_lon), unscaled_cos_lat * sin_lon]
        return torch.stack(columns, dim=-1).repeat_interleave(2, dim=-1).flatten(start_dim=1)
