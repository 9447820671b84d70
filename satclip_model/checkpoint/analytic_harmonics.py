"""From the orthonormal spherical harmonics to those of the released weights, without a change of the embeddings."""

import math
from collections.abc import Mapping
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from satclip_model.config import LocationEncoderConfig, SphericalHarmonicsConfig

_FIRST_WEIGHT: Final = {
    "siren": "location_network.layers.0.weight",
    "fcnet": "location_network.feats.0.weight",
    "mlp": "location_network.features.0.weight",
    "linear": "location_network.weight",
}


def orthonormal_over_analytic(num_degrees: int) -> Float[Tensor, " basis"]:
    """Per column the constant that turns an ``analytic`` function into the ``orthonormal`` one, float64.

    The analytic functions are those of azimuth lon + 180 and polar angle lat + 90, which changes the sign of odd
    degrees, and their terms of order 0 are pi times too large.
    """
    factors = torch.ones(num_degrees**2, dtype=torch.float64)
    for degree in range(num_degrees):
        sign = -1.0 if degree % 2 else 1.0
        factors[degree**2 : (degree + 1) ** 2] = sign
        factors[degree**2 + degree] = sign / math.pi
    return factors


def to_analytic_harmonics(
    config: LocationEncoderConfig, state: Mapping[str, Tensor]
) -> tuple[LocationEncoderConfig, dict[str, Tensor]]:
    """Settings and weights of a location encoder with equal embeddings over the ``analytic`` harmonics.

    Every network begins with a linear layer, whose columns take up the constants; its weights become float64. What is
    not over orthonormal harmonics is returned as it is.

    Args:
        config: Settings of the encoder.
        state: The ``state_dict`` of its `LocationEncoder`.
    """
    encoding = config.positional_encoding
    if not isinstance(encoding, SphericalHarmonicsConfig) or encoding.convention != "orthonormal":
        return config, dict(state)
    first = _FIRST_WEIGHT[config.network.kind]
    weight = state[first]
    scaled = weight.double() * orthonormal_over_analytic(encoding.num_degrees).to(weight.device)
    analytic = encoding.model_copy(update={"convention": "analytic"})
    return config.model_copy(update={"positional_encoding": analytic}), {**state, first: scaled}
