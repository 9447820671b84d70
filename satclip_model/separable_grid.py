"""Location embeddings of regular grids without the basis of every place."""

import torch
from jaxtyping import Float
from torch import Tensor

from satclip_model.location_network import LocationNetwork
from satclip_model.positional_encoding.spherical_harmonics import SphericalHarmonics, function_orders

_BLOCK_PLACES = {"cpu": 4096, "cuda": 1 << 17}
_LATITUDES_AT_ONCE = 64
"""Rows whose latitude part is held at a time: 2L - 1 numbers per hidden unit and row."""


@torch.no_grad()
def encode_separable_grid(
    encoding: SphericalHarmonics,
    network: LocationNetwork,
    lon_deg: Float[Tensor, " column"],
    lat_deg: Float[Tensor, " row"],
) -> Float[Tensor, "row column embed"]:
    """Embeddings of all places of a grid of spherical harmonics and a network that begins with a linear layer.

    With Y_lm = N_l|m|(lat) T_m(lon), the first layer of unit k is the sum over m of T_m(lon) A_mk(lat), where A_mk(lat)
    is the sum over l of N_l|m|(lat) W_k,lm: L*L products per latitude and 2L - 1 per place, instead of L*L per place.

    Args:
        encoding: The harmonics.
        network: What follows the harmonics.
        lon_deg: Finite longitudes in degrees.
        lat_deg: Latitudes in degrees within [-90, 90].
    """
    weight, bias = network.first_layer()
    longitude_part = encoding.fourier(lon_deg).to(weight.dtype).T.contiguous()
    legendre = encoding.legendre(lat_deg).to(weight.dtype)
    block_places = _BLOCK_PLACES.get(lon_deg.device.type, _BLOCK_PLACES["cpu"])
    rows_at_once = min(max(1, block_places // max(len(lon_deg), 1)), _LATITUDES_AT_ONCE)
    embeddings = weight.new_empty(len(lat_deg), len(lon_deg), network.out_dim)
    for outer in range(0, len(lat_deg), _LATITUDES_AT_ONCE):
        latitude_part = _latitude_part(encoding, weight, legendre[:, outer : outer + _LATITUDES_AT_ONCE])
        for inner in range(0, len(latitude_part), rows_at_once):
            rows = latitude_part[inner : inner + rows_at_once]
            scaled = torch.matmul(longitude_part, rows).add_(bias).flatten(0, 1)
            block = network.after_first_layer(scaled)
            embeddings[outer + inner : outer + inner + len(rows)] = block.reshape(
                len(rows), len(lon_deg), network.out_dim
            )
    return embeddings


def _latitude_part(
    encoding: SphericalHarmonics, weight: Float[Tensor, "hidden basis"], legendre: Float[Tensor, "basis row"]
) -> Float[Tensor, "row order hidden"]:
    """A_mk(lat) for order m = -(L-1) .. L-1."""
    orders = function_orders(encoding.num_degrees).to(weight.device)
    num_orders = 2 * encoding.num_degrees - 1
    part = weight.new_empty(legendre.shape[1], num_orders, len(weight))
    for index in range(num_orders):
        functions = (orders == index - encoding.num_degrees + 1).nonzero()[:, 0]
        part[:, index] = legendre[functions].T @ weight[:, functions].T
    return part
