"""Random numbers that follow from keys alone, whatever else is drawn, in whatever order."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

_INCREMENT: Final = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIERS: Final = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def draw_uniform(seed: int, stream: int, place_ids: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) per place, each row decided by (seed, stream, place id).

    Args:
        seed: 0 or more, below 2**63.
        stream: 0 or more; another stream gives independent numbers, as for another view or epoch.
        place_ids: Ids of places, shape (n,).
        count: Numbers per place.

    Returns:
        Shape (n, count), multiples of 2**-53.

    Source: Steele, Lea and Flood (2014), Fast splittable pseudorandom number generators, OOPSLA (SplitMix64).
    """
    state = np.full((len(place_ids), 1), seed, dtype=np.uint64)
    for key in (np.full_like(state, stream), place_ids.astype(np.uint64)[:, None]):
        state = _mixed(state + _INCREMENT) ^ key
    steps = np.arange(1, count + 1, dtype=np.uint64) * _INCREMENT
    bits = _mixed(_mixed(state + _INCREMENT) + steps)
    drawn: NDArray[np.float64] = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return drawn


def _mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * _MULTIPLIERS[0]
    state = (state ^ (state >> np.uint64(27))) * _MULTIPLIERS[1]
    return state ^ (state >> np.uint64(31))
