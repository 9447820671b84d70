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
    out: Float[Tensor, "row column embed"],
) -> None:
    """Writes embeddings of all places of a grid of spherical harmonics and a network that begins with a linear layer.

    With Y_lm = N_l|m|(lat) T_m(lon), the first layer of unit k is the sum over m of T_m(lon) A_mk(lat), where A_mk(lat)
    is the sum over l of N_l|m|(lat) W_k,lm: L*L products per latitude and 2L - 1 per place, instead of L*L per place.

    Args:
        encoding: The harmonics.
        network: What follows the harmonics.
        lon_deg: Finite longitudes in degrees.
        lat_deg: Latitudes in degrees within [-90, 90].
        out: Where the embeddings go, contiguous, in the type of the weights.
    """
    weight, bias, scale = network.first_layer()
    longitude_part = encoding.fourier(lon_deg).to(weight.dtype).T.contiguous()
    parts = _parts_by_order(encoding.num_degrees, scale * weight, encoding.legendre(lat_deg, weight.dtype))
    block_places = _BLOCK_PLACES.get(lon_deg.device.type, _BLOCK_PLACES["cpu"])
    rows_at_once = min(max(1, block_places // max(len(lon_deg), 1)), _LATITUDES_AT_ONCE)
    linear = weight.new_empty(rows_at_once, len(lon_deg), len(weight))
    for outer in range(0, len(lat_deg), _LATITUDES_AT_ONCE):
        latitude_part = _latitude_part(parts, slice(outer, outer + _LATITUDES_AT_ONCE))
        for inner in range(0, len(latitude_part), rows_at_once):
            rows = latitude_part[inner : inner + rows_at_once]
            for row, target in zip(rows, linear, strict=False):
                torch.mm(longitude_part, row, out=target)
            block = linear[: len(rows)].flatten(0, 1).add_(scale * bias)
            network.after_first_layer(block, out[outer + inner : outer + inner + len(rows)].flatten(0, 1))


def _parts_by_order(
    num_degrees: int, weight: Float[Tensor, "hidden basis"], legendre: Float[Tensor, "basis row"]
) -> list[tuple[Float[Tensor, "row _"], Float[Tensor, "_ hidden"]]]:
    """Legendre functions (row, degree) and weights (degree, hidden) of each order m = -(L-1) .. L-1."""
    orders = function_orders(num_degrees).to(weight.device)
    functions = [(orders == order).nonzero()[:, 0] for order in range(1 - num_degrees, num_degrees)]
    return [(legendre[each].T.contiguous(), weight[:, each].T.contiguous()) for each in functions]


def _latitude_part(
    parts: list[tuple[Float[Tensor, "row _"], Float[Tensor, "_ hidden"]]], rows: slice
) -> Float[Tensor, "chosen_row order hidden"]:
    """A_mk(lat) of some latitudes for order m = -(L-1) .. L-1."""
    return torch.stack([legendre[rows] @ weight for legendre, weight in parts], dim=1)
