"""GeoCLIP's location encoder over the weights that come with its package.

Source: Vivanco Cepeda, Nayak and Shah (2023), GeoCLIP: Clip-inspired alignment between locations and images for
effective worldwide geo-localization, NeurIPS; package geoclip (MIT), whose weights are read and whose code is not run:
importing it would import its image encoder.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipelines.errors import ArtefactError, MissingWeightsError
from pipelines.evaluation.methods.base import batches
from pipelines.provenance import file_sha256
from satclip_model.checkpoint.archive import read_archive
from satclip_model.errors import CheckpointError

WEIGHTS: Final = Path("model") / "weights" / "location_encoder_weights.pth"
_NUM_SCALES, _NUM_FREQUENCIES, _HIDDEN, _EMBED = 3, 256, 1024, 512
_EQUAL_EARTH: Final = (1.340264, -0.081106, 0.000893, 0.003796)
"""Coefficients of Savric, Patterson and Jenny (2018), The Equal Earth map projection, IJGIS."""
_SCALE: Final = 66.50336 / 180.0
"""What GeoCLIP multiplies projected coordinates by."""


class RandomFourierFeatures(nn.Module):
    """Cosines, then sines, of 2 pi times fixed random combinations of the coordinates; ``b`` (frequency, 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.empty(_NUM_FREQUENCIES, 2), requires_grad=False)

    def forward(self, projected: Tensor) -> Tensor:
        """Features, shape (n, 512)."""
        angles = 2 * math.pi * projected @ self.b.T
        return torch.cat([torch.cos(angles), torch.sin(angles)], dim=1)


class ScaleEncoder(nn.Module):
    """The network of one scale; parameters have the names of the published weights."""

    def __init__(self) -> None:
        super().__init__()
        hidden = [layer for _ in range(2) for layer in (nn.Linear(_HIDDEN, _HIDDEN), nn.ReLU())]
        self.capsule = nn.Sequential(
            RandomFourierFeatures(), nn.Linear(2 * _NUM_FREQUENCIES, _HIDDEN), nn.ReLU(), *hidden
        )
        self.head = nn.Sequential(nn.Linear(_HIDDEN, _EMBED))

    def forward(self, projected: Tensor) -> Tensor:
        """Embeddings, shape (n, 512)."""
        embeddings: Tensor = self.head(self.capsule(projected))
        return embeddings


class GeoCLIPLocationEncoder(nn.Module):
    """The sum of three networks over Fourier features of different scales of the Equal Earth projection."""

    def __init__(self) -> None:
        super().__init__()
        for index in range(_NUM_SCALES):
            self.add_module(f"LocEnc{index}", ScaleEncoder())

    def forward(self, lonlat_deg: Tensor) -> Tensor:
        """Embeddings, shape (n, 512), of places, shape (n, 2), longitude first in degrees."""
        projected = equal_earth(lonlat_deg)
        return torch.stack([scale(projected) for scale in self.children()]).sum(0)


@dataclass(frozen=True)
class GeoCLIP:
    """Embeddings of GeoCLIP, 512 numbers, in float32 as published.

    Attributes:
        path: The weights of its location encoder.
        name: Short name in the rows of scores.
    """

    path: Path
    name: str = "geoclip"

    @cached_property
    def target(self) -> str:
        """SHA-256 of the weights."""
        return file_sha256(self.path)

    @cached_property
    def encoder(self) -> GeoCLIPLocationEncoder:
        """The network.

        Raises:
            ArtefactError: The file holds other weights.
        """
        encoder = GeoCLIPLocationEncoder()
        try:
            encoder.load_state_dict(read_archive(self.path))
        except (CheckpointError, RuntimeError, TypeError) as error:
            raise ArtefactError(f"{self.path}: no weights of GeoCLIP's location encoder ({error})") from error
        return encoder.eval()

    def features(self, lonlat_deg: NDArray[np.float64]) -> NDArray[np.float32]:
        """Embeddings, shape (n, 512)."""
        with torch.inference_mode():
            parts = [self.encoder(torch.from_numpy(batch).float()).numpy() for batch in batches(lonlat_deg)]
        return np.concatenate(parts)


def open_geoclip(weights: Path | None = None) -> GeoCLIP:
    """GeoCLIP over given weights, or those of the installed package.

    Raises:
        MissingWeightsError: Neither are there.
    """
    if weights is None:
        found = find_spec("geoclip")
        if found is None or found.origin is None:
            raise MissingWeightsError(
                "geoclip: the package that holds its weights is not installed; pip install geoclip, or give the file "
                f"{WEIGHTS.name} of it as geoclip:PATH"
            )
        weights = Path(found.origin).parent / WEIGHTS
    if not weights.is_file():
        raise MissingWeightsError(f"geoclip: {weights} is no file; give the weights of its location encoder")
    return GeoCLIP(weights)


def equal_earth(lonlat_deg: Tensor) -> Tensor:
    """Equal Earth projection of places, shape (n, 2), x and y in GeoCLIP's scale."""
    a1, a2, a3, a4 = _EQUAL_EARTH
    lon, lat = torch.deg2rad(lonlat_deg).unbind(dim=1)
    theta = torch.asin(math.sqrt(3.0) / 2 * torch.sin(lat))
    squared = theta**2
    x = (
        2 * math.sqrt(3.0) * lon * torch.cos(theta)
        / (3 * (9 * a4 * squared**4 + 7 * a3 * squared**3 + 3 * a2 * squared + a1))
    )  # fmt: skip
    y = theta * (a4 * squared**4 + a3 * squared**3 + a2 * squared + a1)
    return torch.stack([x, y], dim=1) * _SCALE
