"""Numbers that follow from a name and a shape, so that two programs hold equal weights without a file of them."""

import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


def draw_uniform(name: str, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0) -> Tensor:
    """Uniform float32 numbers."""
    return torch.tensor(_generator(name).uniform(low, high, shape).astype(np.float32))


def seed_by_name(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state_dict of the original with every tensor but ``logit_scale`` replaced, integers by zero.

    Both copies of the location network get the numbers of ``model.nnet``.
    """
    return {name: tensor if name.endswith("logit_scale") else _seeded(name, tensor) for name, tensor in state.items()}


def _seeded(name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return torch.zeros_like(tensor)
    normal = _generator(name.replace("location.nnet.", "nnet.")).standard_normal(tuple(tensor.shape))
    if tensor.ndim > 1:
        numbers = normal / np.sqrt(np.prod(tensor.shape[1:]))
    elif "running_var" in name:
        numbers = 0.5 + np.abs(normal)
    else:
        numbers = float(name.endswith("weight")) + 0.1 * normal
    return torch.tensor(numbers, dtype=tensor.dtype)


def _generator(name: str) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(name.encode()))
