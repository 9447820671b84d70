"""From longitude and latitude to an embedding."""

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional

from satclip_model.config import LocationEncoderConfig
from satclip_model.location_network import LocationNetwork, build_location_network
from satclip_model.positional_encoding import build_positional_encoding
from satclip_model.positional_encoding.lonlat import validate_axes_deg, validate_lonlat_deg
from satclip_model.positional_encoding.spherical_harmonics import SphericalHarmonics
from satclip_model.separable_grid import encode_separable_grid

_CPU_BLOCK_BYTES = 16 << 20
"""Bound of the features that are held at a time on a CPU, so that they share the caches with the weights."""

_MAX_CPU_BLOCK_POINTS = 8192
_GPU_BLOCK_POINTS = 1 << 16
_NO_DEGREES = "cmM"
"""Kinds of arrays that NumPy casts to numbers without complaint: complex numbers, spans and points of time."""


class LocationEncoder(nn.Module):
    """A positional encoding followed by a network.

    The encoding is computed in float64 and rounded to the type of the network's weights.
    """

    def __init__(self, config: LocationEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.positional_encoding = build_positional_encoding(config.positional_encoding)
        self.location_network = build_location_network(
            config.network, in_dim=config.positional_encoding.encoding_dim, out_dim=config.embedding_dim
        )

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights and of the embeddings."""
        return next(self.location_network.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.location_network.parameters()).device

    def forward(self, lonlat_deg: Float[Tensor, "batch 2"]) -> Float[Tensor, "batch embed"]:
        """Embeddings of places, not normalised, in the type of the weights.

        Without gradients the places are encoded block by block, so that memory does not grow with the encoding of all.

        Args:
            lonlat_deg: Longitude and latitude in degrees, longitude first; float64 keeps places exact.

        Raises:
            ValueError: Another shape, a latitude outside [-90, 90] or a coordinate that is not finite.
        """
        return encode_places(self.positional_encoding, self.location_network, lonlat_deg)

    def encode(
        self, lonlat_deg: ArrayLike, *, dtype: torch.dtype | None = None, normalize: bool = False
    ) -> NDArray[np.floating[Any]]:
        """Embeddings of places as an array, shape (n, embedding_dim); no gradients, no dropout.

        Args:
            lonlat_deg: Longitude and latitude in degrees, longitude first, shape (n, 2).
            dtype: Type to compute and return, float64 or float32; None takes that of the weights.
            normalize: Whether to scale embeddings to unit length.

        Raises:
            ValueError: Another shape or dtype, no numbers, a latitude outside [-90, 90] or a coordinate that is not
                finite.
        """
        encoder = self._for_inference(dtype)
        places = _as_places(lonlat_deg, encoder.device)
        with torch.inference_mode():
            return _as_array(encoder(places), normalize)

    def encode_grid(
        self, lon_deg: ArrayLike, lat_deg: ArrayLike, *, dtype: torch.dtype | None = None, normalize: bool = False
    ) -> NDArray[np.floating[Any]]:
        """Embeddings of all places of a grid, shape (rows, columns, embedding_dim).

        Over spherical harmonics the first layer is a product of a part per latitude and a part per longitude, so that
        the basis is never formed per place; other encodings go place by place.

        Args:
            lon_deg: Longitudes of the columns in degrees, shape (columns,).
            lat_deg: Latitudes of the rows in degrees, shape (rows,).
            dtype: Type to compute and return, float64 or float32; None takes that of the weights.
            normalize: Whether to scale embeddings to unit length.

        Raises:
            ValueError: Another shape or dtype, a latitude outside [-90, 90] or a coordinate that is not finite.
        """
        encoder = self._for_inference(dtype)
        columns, rows = (_as_places(each, encoder.device) for each in (lon_deg, lat_deg))
        validate_axes_deg(columns, rows)
        with torch.inference_mode():
            encoding = encoder.positional_encoding
            shape = len(rows), len(columns), self.config.embedding_dim
            embeddings = torch.empty(shape, dtype=encoder.dtype, device=encoder.device)
            if isinstance(encoding, SphericalHarmonics):
                encode_separable_grid(encoding, encoder.location_network, columns, rows, embeddings)
            else:
                lat, lon = torch.meshgrid(rows, columns, indexing="ij")
                embeddings = encoder(torch.stack([lon.flatten(), lat.flatten()], dim=1)).view_as(embeddings)
            return _as_array(embeddings, normalize)

    def _for_inference(self, dtype: torch.dtype | None) -> "LocationEncoder":
        wanted = dtype or self.dtype
        if wanted not in {torch.float32, torch.float64}:
            raise ValueError(f"dtype is {wanted}; expected torch.float32 or torch.float64")
        if wanted == self.dtype and not self.training:
            return self
        return deepcopy(self).to(wanted).eval()


def encode_places(
    encoding: nn.Module, network: LocationNetwork, lonlat_deg: Float[Tensor, "batch 2"]
) -> Float[Tensor, "batch embed"]:
    """A network applied to a positional encoding; without gradients block by block.

    Args:
        encoding: Maps (n, 2) places to (n, f) features.
        network: Maps features, in the type of its weights, to (n, embed) embeddings.
        lonlat_deg: Longitude and latitude in degrees, longitude first.

    Raises:
        ValueError: Another shape, a latitude outside [-90, 90] or a coordinate that is not finite.
    """
    weight = next(network.parameters())
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        whole: Tensor = network(encoding(lonlat_deg.double()).to(weight.dtype))
        return whole
    validate_lonlat_deg(lonlat_deg)
    embeddings = weight.new_empty(len(lonlat_deg), network.out_dim)
    block_points = _block_points(network)
    blocks = _encoded_blocks(encoding, lonlat_deg, weight.dtype, block_points)
    for features, out in zip(blocks, torch.split(embeddings, block_points), strict=True):
        network(features, out)
    return embeddings


def _block_points(network: LocationNetwork) -> int:
    """Places to encode at a time, a power of two."""
    weight, *_ = network.first_layer()
    if weight.device.type != "cpu":
        return _GPU_BLOCK_POINTS
    fitting = _CPU_BLOCK_BYTES // (weight.shape[1] * weight.element_size())
    return min(_MAX_CPU_BLOCK_POINTS, 1 << max(fitting, 1).bit_length() - 1)


def _encoded_blocks(
    encoding: nn.Module, lonlat_deg: Tensor, dtype: torch.dtype, block_points: int
) -> Iterator[Float[Tensor, "batch basis"]]:
    """Encoded places; over spherical harmonics every block is written over the one before."""
    if not isinstance(encoding, SphericalHarmonics) or dtype not in {torch.float32, torch.float64}:
        for block in torch.split(lonlat_deg, block_points):
            yield encoding(block.double()).to(dtype)
        return
    basis = lonlat_deg.new_empty(encoding.encoding_dim, min(block_points, len(lonlat_deg)), dtype=dtype)
    writer = encoding.writer(basis)
    for block in torch.split(lonlat_deg, block_points):
        if len(block) < basis.shape[1]:
            basis = basis[:, : len(block)]
            writer = encoding.writer(basis)
        writer.write(block)
        yield basis.T


def _as_places(degrees: ArrayLike | Tensor, device: torch.device) -> Tensor:
    """Coordinates as float64; NaN where an array is masked.

    Raises:
        ValueError: Not numbers, or not real ones.
    """
    given = np.ma.asarray(degrees.detach().cpu() if isinstance(degrees, Tensor) else degrees)
    if given.dtype.kind in _NO_DEGREES:
        raise ValueError(f"coordinates are {given.dtype}; expected degrees as real numbers")
    try:
        array = np.ma.filled(given.astype(np.float64), np.nan)
    except TypeError as error:
        raise ValueError(f"coordinates are no numbers ({error}); expected degrees") from error
    return torch.as_tensor(array, device=device)


def _as_array(embeddings: Tensor, normalize: bool) -> NDArray[np.floating[Any]]:
    if normalize:
        embeddings = functional.normalize(embeddings, dim=-1, out=embeddings)
    array: NDArray[np.floating[Any]] = embeddings.cpu().numpy()
    return array


def build_location_encoder(config: LocationEncoderConfig, seed: int) -> LocationEncoder:
    """An untrained location encoder in evaluation mode; the same seed gives the same weights.

    The global random state of PyTorch is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LocationEncoder(config).eval()
