"""Location embeddings per second: ours beside torchgeo's SatCLIP, SciPy's harmonics, and the bare products and sines.

All sides run in this process on the same random weights and places, with the same number of threads, in turn within
each round, backwards in every other round; torchgeo takes batches of the size that is fastest for it. The bare limit is
the matrix products and sines that the network needs, from arrays that are already there to embeddings in new memory: of
scattered places from the basis on, of a grid from the longitude and latitude parts on.

    python benchmarks/location_encoder.py [--check] [--points N [N ...]] [--num-degrees L] [--threads T] [--rounds R]

Prints a table, then one JSON line per measure; with ``--check`` the exit code is 1 unless every measure holds.
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import sph_harm_y_all
from torchgeo.models import SatCLIP as TorchgeoSatCLIP

from satclip_model.config import LocationEncoderConfig, SirenConfig, SphericalHarmonicsConfig
from satclip_model.location_encoder import LocationEncoder, build_location_encoder

HIDDEN_DIM, EMBEDDING_DIM = 512, 256
GRID_DEG = 0.5
PEER_BATCHES = (1024, 4096, 16_384)
LIMIT_BLOCK = 2048
MIN_SCATTERED = {"float64": 1.5, "float32": 1.4}
MIN_GRID = {"float64": 2.3, "float32": 3.0}
MIN_GRID_FLOAT32_OVER_PEER_FLOAT64 = 6.0
MIN_SHARE_OF_LIMIT = 0.75
MIN_OVER_SCIPY = 1.0
MAX_DIFFERENCE = 1e-9
MAX_FLOAT32_ERROR = 1e-5
PEER_CLAMP_DEG = 89.9

Side = Callable[[], object]


@dataclass(frozen=True)
class Measure:
    """One line of the result."""

    metric: str
    value: float
    target: float
    holds: bool


def at_least(metric: str, value: float, target: float) -> Measure:
    return Measure(metric, value, target, value >= target)


def at_most(metric: str, value: float, target: float) -> Measure:
    return Measure(metric, value, target, value <= target)


def scattered_places(count: int) -> torch.Tensor:
    rng = np.random.default_rng(0)
    lat_deg = np.degrees(np.arcsin(rng.uniform(-1.0, 1.0, count)))
    return torch.from_numpy(np.stack([rng.uniform(-180.0, 180.0, count), lat_deg], axis=1))


def grid_axes() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    half = GRID_DEG / 2
    return np.arange(-180 + half, 180, GRID_DEG), np.arange(90 - half, -90, -GRID_DEG)


def twins(num_degrees: int, dtype: torch.dtype) -> tuple[LocationEncoder, TorchgeoSatCLIP]:
    config = LocationEncoderConfig(
        positional_encoding=SphericalHarmonicsConfig(num_degrees=num_degrees, convention="analytic"),
        network=SirenConfig(hidden_dim=HIDDEN_DIM),
        embedding_dim=EMBEDDING_DIM,
    )
    ours = build_location_encoder(config, seed=0).to(dtype)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # torchgeo rounds its harmonics' coefficients to the default type
    try:
        peer = TorchgeoSatCLIP(num_degrees, HIDDEN_DIM, EMBEDDING_DIM).eval()
    finally:
        torch.set_default_dtype(default)
    peer.nnet.load_state_dict(ours.location_network.state_dict())
    return ours, peer


def in_batches(peer: TorchgeoSatCLIP, lonlat_deg: torch.Tensor, batch: int) -> torch.Tensor:
    return torch.cat([peer(places) for places in torch.split(lonlat_deg, batch)])


def fastest_batch(peer: TorchgeoSatCLIP, lonlat_deg: torch.Tensor) -> int:
    few = lonlat_deg[: PEER_BATCHES[-1]]
    return min(PEER_BATCHES, key=lambda batch: min(seconds(lambda: in_batches(peer, few, batch)) for _ in range(3)))


def seconds(side: Side) -> float:
    started = time.perf_counter()
    side()
    return time.perf_counter() - started


def rounds_of(sides: Mapping[str, Side], count: int) -> dict[str, list[float]]:
    for side in sides.values():
        side()
    taken: dict[str, list[float]] = {name: [] for name in sides}
    order = list(sides)
    for _ in range(count):
        for name in order:
            taken[name].append(seconds(sides[name]))
        order.reverse()
    return taken


def median_ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def bare_network(hidden: torch.Tensor, second: torch.Tensor, last: torch.Tensor, out: torch.Tensor) -> None:
    hidden.sin_()
    torch.mm(torch.mm(hidden, second).sin_(), last, out=out)


def scattered_limit(count: int, num_degrees: int, dtype: torch.dtype) -> Side:
    basis = torch.rand(LIMIT_BLOCK, num_degrees**2, dtype=dtype)
    first, second, last = (
        torch.rand(shape, dtype=dtype) / shape[0]
        for shape in ((num_degrees**2, HIDDEN_DIM), (HIDDEN_DIM, HIDDEN_DIM), (HIDDEN_DIM, EMBEDDING_DIM))
    )

    def run() -> None:
        embeddings = torch.empty(count, EMBEDDING_DIM, dtype=dtype)
        for out in torch.split(embeddings, LIMIT_BLOCK):
            bare_network(torch.mm(basis[: len(out)], first), second, last, out)

    return run


def grid_limit(num_lon: int, num_lat: int, num_degrees: int, dtype: torch.dtype) -> Side:
    num_orders = 2 * num_degrees - 1
    longitude_part = torch.rand(num_lon, num_orders, dtype=dtype)
    latitude_part = torch.rand(num_orders, HIDDEN_DIM, dtype=dtype) / num_orders
    second = torch.rand(HIDDEN_DIM, HIDDEN_DIM, dtype=dtype) / HIDDEN_DIM
    last = torch.rand(HIDDEN_DIM, EMBEDDING_DIM, dtype=dtype) / HIDDEN_DIM

    def run() -> None:
        for out in torch.empty(num_lat, num_lon, EMBEDDING_DIM, dtype=dtype):
            bare_network(torch.mm(longitude_part, latitude_part), second, last, out)

    return run


def scipy_basis(lonlat_deg: NDArray[np.float64], num_degrees: int) -> NDArray[np.float64]:
    azimuth, polar = np.radians(lonlat_deg[:, 0] + 180.0), np.radians(90.0 + lonlat_deg[:, 1])
    complex_valued = sph_harm_y_all(num_degrees - 1, num_degrees - 1, polar, azimuth)
    basis = np.empty((len(lonlat_deg), num_degrees**2))
    for degree in range(num_degrees):
        basis[:, degree * degree + degree] = math.pi * complex_valued[degree, 0].real
        for order in range(1, degree + 1):
            value = math.sqrt(2.0) * (-1) ** order * complex_valued[degree, order]
            basis[:, degree * degree + degree + order] = value.real
            basis[:, degree * degree + degree - order] = value.imag
    return basis


def by_scipy(ours: LocationEncoder, lonlat_deg: torch.Tensor, num_degrees: int) -> torch.Tensor:
    blocks = torch.split(lonlat_deg, LIMIT_BLOCK)
    return torch.cat(
        [ours.location_network(torch.from_numpy(scipy_basis(each.numpy(), num_degrees))) for each in blocks]
    )


def print_row(name: str, side: str, count: int, taken: Sequence[float]) -> None:
    print(f"{name:<34}{side:<12}{count / statistics.median(taken):>22,.0f}")


def measure_scattered(count: int, arguments: argparse.Namespace, dtype: torch.dtype) -> list[Measure]:
    kind = str(dtype).removeprefix("torch.")
    ours, peer = twins(arguments.num_degrees, dtype)
    lonlat_deg = scattered_places(count)
    in_type = lonlat_deg.to(dtype)
    batch = fastest_batch(peer, in_type)
    sides = {
        "torchgeo": lambda: in_batches(peer, in_type, batch),
        "ours": lambda: ours(lonlat_deg),
        "limit": scattered_limit(count, arguments.num_degrees, dtype),
    }
    taken = rounds_of(sides, arguments.rounds)
    for side, times in taken.items():
        print_row(f"{count:,} places, {kind}", side, count, times)
    ratio, share = median_ratio(taken["torchgeo"], taken["ours"]), median_ratio(taken["limit"], taken["ours"])
    return [
        at_least(f"location_encoder.{kind}.{count}.over_torchgeo", ratio, MIN_SCATTERED[kind]),
        at_least(f"location_encoder.{kind}.{count}.share_of_limit", share, MIN_SHARE_OF_LIMIT),
    ]


def measure_grid(arguments: argparse.Namespace) -> list[Measure]:
    lon_deg, lat_deg = grid_axes()
    count = len(lon_deg) * len(lat_deg)
    lat, lon = np.meshgrid(lat_deg, lon_deg, indexing="ij")
    lonlat_deg = torch.from_numpy(np.stack([lon.ravel(), lat.ravel()], axis=1))
    measures, taken_by_kind = [], {}
    for dtype in (torch.float64, torch.float32):
        kind = str(dtype).removeprefix("torch.")
        ours, peer = twins(arguments.num_degrees, dtype)
        in_type = lonlat_deg.to(dtype)
        batch = fastest_batch(peer, in_type)
        sides = {
            "torchgeo": lambda peer=peer, places=in_type, batch=batch: in_batches(peer, places, batch),
            "ours": lambda ours=ours: ours.encode_grid(lon_deg, lat_deg),
            "limit": grid_limit(len(lon_deg), len(lat_deg), arguments.num_degrees, dtype),
        }
        taken = taken_by_kind[kind] = rounds_of(sides, arguments.rounds)
        for side, times in taken.items():
            print_row(f"grid of {GRID_DEG} degrees, {kind}", side, count, times)
        ratio, share = median_ratio(taken["torchgeo"], taken["ours"]), median_ratio(taken["limit"], taken["ours"])
        measures.append(at_least(f"location_encoder.{kind}.grid.over_torchgeo", ratio, MIN_GRID[kind]))
        measures.append(at_least(f"location_encoder.{kind}.grid.share_of_limit", share, MIN_SHARE_OF_LIMIT))
    across = median_ratio(taken_by_kind["float64"]["torchgeo"], taken_by_kind["float32"]["ours"])
    name = "location_encoder.float32.grid.over_torchgeo_float64"
    return [*measures, at_least(name, across, MIN_GRID_FLOAT32_OVER_PEER_FLOAT64)]


def measure_scipy(arguments: argparse.Namespace) -> list[Measure]:
    count = min(arguments.points)
    ours, _ = twins(arguments.num_degrees, torch.float64)
    lonlat_deg = scattered_places(count)
    sides = {"scipy": lambda: by_scipy(ours, lonlat_deg, arguments.num_degrees), "ours": lambda: ours(lonlat_deg)}
    taken = rounds_of(sides, min(arguments.rounds, 3))
    print_row(f"{count:,} places, float64", "scipy", count, taken["scipy"])
    few = lonlat_deg[:1000]
    difference = float((ours(few) - by_scipy(ours, few, arguments.num_degrees)).abs().max())
    return [
        at_least("location_encoder.over_scipy", median_ratio(taken["scipy"], taken["ours"]), MIN_OVER_SCIPY),
        at_most("location_encoder.difference_from_scipy", difference, MAX_DIFFERENCE),
    ]


def measure_values(arguments: argparse.Namespace) -> list[Measure]:
    lonlat_deg = scattered_places(min(arguments.points))
    ours, peer = twins(arguments.num_degrees, torch.float64)
    exact = ours(lonlat_deg)
    below = lonlat_deg[:, 1].abs() < PEER_CLAMP_DEG
    difference = float((exact - in_batches(peer, lonlat_deg, PEER_BATCHES[0]))[below].abs().max())
    error = float((ours.float()(lonlat_deg).double() - exact).abs().max() / exact.abs().max())
    return [
        at_most("location_encoder.difference_from_torchgeo", difference, MAX_DIFFERENCE),
        at_most("location_encoder.float32_relative_error", error, MAX_FLOAT32_ERROR),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--points", type=int, nargs="+", default=[16_384, 262_144])
    parser.add_argument("--num-degrees", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    print(
        f"L = {arguments.num_degrees}, {HIDDEN_DIM} hidden units, {EMBEDDING_DIM} numbers, {arguments.threads} threads"
    )
    print(f"{'places':<34}{'side':<12}{'embeddings per second':>22}")
    measures: list[Measure] = []
    with torch.inference_mode():
        for count in arguments.points:
            for dtype in (torch.float64, torch.float32):
                measures += measure_scattered(count, arguments, dtype)
        measures += measure_grid(arguments)
        measures += measure_scipy(arguments)
        measures += measure_values(arguments)
    for each in measures:
        print(json.dumps({"metric": each.metric, "value": each.value, "target": each.target, "holds": each.holds}))
    return 0 if all(each.holds for each in measures) or not arguments.check else 1


if __name__ == "__main__":
    sys.exit(main())
