"""Frequencies of the multi-scale encodings."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def geometric_frequencies(num_frequencies: int, min_radius: float, max_radius: float) -> Float[Tensor, " frequency"]:
    """Frequencies ``1 / radius`` for geometrically spaced radii, from the highest to the lowest, float64.

    Args:
        num_frequencies: Number of frequencies.
        min_radius: Radius of the first frequency.
        max_radius: Radius of the last frequency.

    Raises:
        ValueError: Fewer than 2 frequencies, or radii that are not positive and ascending.

    Source: Mai et al. (2020), Multi-scale representation learning for spatial feature distributions using grid cells.
    """
    if num_frequencies < 2:
        raise ValueError(f"num_frequencies is {num_frequencies}; expected at least 2")
    if not 0 < min_radius < max_radius < math.inf:
        raise ValueError(f"radii are {min_radius} and {max_radius}; expected 0 < min_radius < max_radius")
    step = math.log(max_radius / min_radius) / (num_frequencies - 1)
    return 1.0 / (min_radius * torch.exp(torch.arange(num_frequencies, dtype=torch.float64) * step))
