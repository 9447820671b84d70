"""A scrambled (0, 2)-sequence in base 2, in which every point is a function of seed and number alone."""

import hashlib
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

MAX_POINTS: Final = 2**32
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_MIXERS: Final = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)))
_SWAPS: Final = ((1, 0x55555555), (2, 0x33333333), (4, 0x0F0F0F0F), (8, 0x00FF00FF), (16, 0x0000FFFF))


def scrambled_points(first: int, count: int, seed: int) -> NDArray[np.float64]:
    """Points ``first`` to ``first + count - 1`` of the sequence, in the unit square.

    The first two dimensions of Sobol's sequence under nested uniform scrambling by hashing. Of the first 2**m points,
    as of every later run of 2**m that starts at a multiple of it, each elementary interval of area 2**-m (2**-k wide
    and 2**(k - m) high) holds exactly one. The points lie in the middle of cells of 2**-32.

    Args:
        first: Number of the first point, from 0.
        count: How many.
        seed: Any whole number from 0; other seeds give other sequences.

    Returns:
        float64 in (0, 1), shape (count, 2).

    Raises:
        ValueError: beyond 2**32 points the sequence would repeat.

    Source: Burley (2020), Practical Hash-based Owen Scrambling, Journal of Computer Graphics Techniques 9(4). Its hash
    takes the first five halvings of an axis from five bits of the seed, so that one seed in 32 repeats another at large
    scale; here each node of Owen's tree has a hash of its own (splitmix64; Steele, Lea and Flood 2014).
    """
    if not 0 <= first <= first + count <= MAX_POINTS:
        raise ValueError(f"points {first} to {first + count}: expected numbers from 0 to {MAX_POINTS}")
    number = np.arange(first, first + count, dtype=np.uint64).astype(np.uint32)
    digest = hashlib.sha256(f"scrambled_points {seed}".encode()).digest()
    keys = np.frombuffer(digest[:16], dtype="<u8")
    planes = (_reverse_bits(number), _second_dimension(number))
    scrambled = [_scramble(plane, key) for plane, key in zip(planes, keys, strict=True)]
    points: NDArray[np.float64] = (np.column_stack(scrambled).astype(np.float64) + 0.5) * 2.0**-32
    return points


def _scramble(plane: NDArray[np.uint32], key: np.uint64) -> NDArray[np.uint32]:
    """Flips each bit, or not, by a hash of the bits above it."""
    value = plane.astype(np.uint64)
    flips = np.zeros_like(value)
    for level in range(32):
        node = (value >> np.uint64(32 - level)) | np.uint64(1 << level)
        mixed = node * _GOLDEN + key
        for shift, factor in _MIXERS:
            mixed = (mixed ^ (mixed >> shift)) * factor
        flips |= (mixed >> np.uint64(63)) << np.uint64(31 - level)
    return (value ^ flips).astype(np.uint32)


def _reverse_bits(value: NDArray[np.uint32]) -> NDArray[np.uint32]:
    for shift, mask in _SWAPS:
        value = ((value >> np.uint32(shift)) & np.uint32(mask)) | ((value & np.uint32(mask)) << np.uint32(shift))
    return value


def _second_dimension(number: NDArray[np.uint32]) -> NDArray[np.uint32]:
    tables = _direction_tables()
    value = np.zeros_like(number)
    for byte in range(4):
        value ^= tables[byte][(number >> np.uint32(8 * byte)) & np.uint32(0xFF)]
    return value


@cache
def _direction_tables() -> NDArray[np.uint32]:
    """What each value of each byte of a point's number adds, shape (4, 256): Pascal's triangle modulo 2, by columns."""
    directions = [1 << 31]
    for _ in range(31):
        directions.append(directions[-1] ^ (directions[-1] >> 1))
    tables = np.zeros((4, 256), dtype=np.uint32)
    for byte in range(4):
        for bit in range(8):
            chosen = (np.arange(256) >> bit) & 1 == 1
            tables[byte, chosen] ^= np.uint32(directions[8 * byte + bit])
    return tables
