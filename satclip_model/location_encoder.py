"""From longitude and latitude to an embedding."""

from copy import deepcopy
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional

from satclip_model.config import LocationEncoderConfig
from satclip_model.location_network import build_location_network
from satclip_model.positional_encoding import build_positional_encoding


class LocationEncoder(nn.Module):
    """A positional encoding followed by a network.

    The encoding is computed in float64 and cast to the type of the network's weights.
    """

    def __init__(self, config: LocationEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.positional_encoding = build_positional_encoding(config.positional_encoding)
        self.location_network = build_location_network(
            config.network, in_dim=config.positional_encoding.encoding_dim, out_dim=config.embedding_dim
        )

    def forward(self, lonlat_deg: Float[Tensor, "batch 2"]) -> Float[Tensor, "batch embed"]:
        """Embeddings of places, not normalised, in the type of the weights.

        Args:
            lonlat_deg: Longitude and latitude in degrees, longitude first; float64 keeps places exact.

        Raises:
            ValueError: A latitude outside [-90, 90] or a coordinate that is not finite.
        """
        encoded = self.positional_encoding(lonlat_deg.double())
        embeddings: Tensor = self.location_network(encoded.to(self.dtype))
        return embeddings

    def encode(
        self, lonlat_deg: ArrayLike, *, dtype: torch.dtype | None = None, normalize: bool = False
    ) -> NDArray[np.floating[Any]]:
        """Embeddings of places as an array, shape (n, embedding_dim); no gradients, no dropout."""
        encoder = self if dtype in {None, self.dtype} and not self.training else deepcopy(self).to(dtype).eval()
        with torch.inference_mode():
            embeddings = encode_in_blocks(encoder, torch.from_numpy(np.array(lonlat_deg, dtype=np.float64)))
            array: NDArray[np.floating[Any]] = (functional.normalize(embeddings) if normalize else embeddings).numpy()
        return array

    def encode_grid(
        self, lon_deg: ArrayLike, lat_deg: ArrayLike, *, dtype: torch.dtype | None = None, normalize: bool = False
    ) -> NDArray[np.floating[Any]]:
        """Embeddings of all places of a grid, shape (rows, columns, embedding_dim)."""
        lat, lon = np.meshgrid(np.asarray(lat_deg), np.asarray(lon_deg), indexing="ij")
        encoded = self.encode(np.column_stack([lon.ravel(), lat.ravel()]), dtype=dtype, normalize=normalize)
        return encoded.reshape(*lat.shape, -1)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights and of the embeddings."""
        return next(self.location_network.parameters()).dtype


def build_location_encoder(config: LocationEncoderConfig, seed: int) -> LocationEncoder:
    """An untrained location encoder in evaluation mode; the same seed gives the same weights.

    The global random state of PyTorch is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LocationEncoder(config).eval()


@torch.no_grad()
def encode_in_blocks(
    encoder: nn.Module, lonlat_deg: Float[Tensor, "batch 2"], block_points: int = 8192
) -> Float[Tensor, "batch embed"]:
    """Applies a module of (n, 2) coordinates block by block, so that memory does not grow with the harmonics of all."""
    return torch.cat([encoder(block) for block in torch.split(lonlat_deg, block_points)])
