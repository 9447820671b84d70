"""Location embeddings per second: ours against the same encoder written with scipy's spherical harmonics.

Both sides run in this process, on the same random weights and places, with the same number of threads, in float64.

    python benchmarks/location_encoder.py [--check] [--points N] [--num-degrees L] [--threads T]

Prints a table, then one JSON line per measure; with ``--check`` the exit code is 1 unless every measure holds.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import sph_harm_y_all

from satclip_model.config import LocationEncoderConfig, SphericalHarmonicsConfig
from satclip_model.location_encoder import LocationEncoder, build_location_encoder, encode_in_blocks

MIN_SPEED_RATIO = 1.0
MAX_DIFFERENCE = 1e-9
REPEATS = 3


def scipy_basis(lonlat_deg: NDArray[np.float64], num_degrees: int) -> NDArray[np.float64]:
    azimuth, polar = np.radians(lonlat_deg[:, 0]), np.radians(90.0 - lonlat_deg[:, 1])
    complex_valued = sph_harm_y_all(num_degrees - 1, num_degrees - 1, polar, azimuth)
    basis = np.empty((len(lonlat_deg), num_degrees**2))
    for degree in range(num_degrees):
        basis[:, degree * degree + degree] = complex_valued[degree, 0].real
        for order in range(1, degree + 1):
            value = math.sqrt(2.0) * (-1) ** order * complex_valued[degree, order]
            basis[:, degree * degree + degree + order] = value.real
            basis[:, degree * degree + degree - order] = value.imag
    return basis


@torch.no_grad()
def encode_by_scipy(encoder: LocationEncoder, lonlat_deg: torch.Tensor, block_points: int = 2048) -> torch.Tensor:
    num_degrees = encoder.positional_encoding.num_degrees
    return torch.cat(
        [
            encoder.location_network(torch.from_numpy(scipy_basis(block.numpy(), num_degrees)))
            for block in torch.split(lonlat_deg, block_points)
        ]
    )


def fastest_s(call: Callable[[], torch.Tensor]) -> float:
    call()
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--points", type=int, default=16_384)
    parser.add_argument("--num-degrees", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    encoder = build_location_encoder(
        LocationEncoderConfig(positional_encoding=SphericalHarmonicsConfig(num_degrees=arguments.num_degrees)), seed=0
    ).double()
    rng = np.random.default_rng(0)
    lon_deg = rng.uniform(-180.0, 180.0, arguments.points)
    lat_deg = np.degrees(np.arcsin(rng.uniform(-1.0, 1.0, arguments.points)))
    lonlat_deg = torch.from_numpy(np.stack([lon_deg, lat_deg], axis=1))

    ours_s = fastest_s(lambda: encode_in_blocks(encoder, lonlat_deg))
    scipy_s = fastest_s(lambda: encode_by_scipy(encoder, lonlat_deg))
    few = lonlat_deg[:1000]
    difference = float((encode_in_blocks(encoder, few) - encode_by_scipy(encoder, few)).abs().max())

    print(f"{arguments.points} places, L = {arguments.num_degrees}, float64, {arguments.threads} threads")
    print(f"{'side':<22}{'embeddings per second':>22}")
    print(f"{'ours':<22}{arguments.points / ours_s:>22,.0f}")
    print(f"{'scipy + same network':<22}{arguments.points / scipy_s:>22,.0f}")
    measures = [
        ("location_encoder.embeddings_per_s", arguments.points / ours_s, None, True),
        ("location_encoder.speed_over_scipy", scipy_s / ours_s, MIN_SPEED_RATIO, scipy_s / ours_s >= MIN_SPEED_RATIO),
        ("location_encoder.max_difference", difference, MAX_DIFFERENCE, difference <= MAX_DIFFERENCE),
    ]
    for metric, value, target, holds in measures:
        print(json.dumps({"metric": metric, "value": value, "target": target, "holds": holds}))
    return 0 if all(holds for *_, holds in measures) or not arguments.check else 1


if __name__ == "__main__":
    sys.exit(main())
