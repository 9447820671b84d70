"""Samples per second of our loader beside the original's: one GeoTIFF per patch through rasterio in a DataLoader.

Both give the same patches in batches to one process, decoded by as many workers, started by a fork server and kept over
epochs; start-up and the first epoch are not counted, files are in the page cache. The original's patches are uint16
GeoTIFFs of 12 bands, LZW with predictor 2; they become float32 reflectance with a cirrus band of zeros in the workers,
without its augmentations. Ours arrive as digital numbers, since scale and offset are applied on the device; the line
"reflectance on the CPU" does that in the training process. The bare loop decodes the same chunks in one process.

    python benchmarks/loader.py [--check] [--patches N] [--batch-size N] [--workers N] [--rounds N] [--folder PATH]

Prints a table, then one JSON line per measure; with ``--check`` the exit code is 1 unless every measure holds.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs.blosc
import numpy as np
import rasterio
import torch
import zarr
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from sample_patches import SIZE_PX, publish_patches, sample_patches
from torch.utils.data import DataLoader, Dataset

from pipelines.patches.dataset import PatchDataset
from pipelines.training.config import PixelLoaderConfig
from pipelines.training.part_sampling import PartSampler
from pipelines.training.pixel_reading import PatchReader, PatchStream
from pipelines.training.pixels import PixelBatches, open_shard_reader, pixel_places
from pipelines.training.shuffling import epoch_order, measure_shuffle, windowed_order

MINIMUM_RATIO = 8.0
MAXIMUM_SHUFFLE_BIAS = 0.05
PLACES_OF_SHUFFLE, SHARD_SIZE, BATCH_OF_SHUFFLE, WINDOW = 100_000, 256, 512, 16


class GeoTiffPatches(Dataset[dict[str, Any]]):
    """The original's way: a file per patch, made float32 reflectance of 13 bands by the worker."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        with warnings.catch_warnings(), rasterio.open(self.paths[index]) as source:
            values = source.read().astype(np.float32) / 10_000.0
        cirrus = np.zeros((1, *values.shape[1:]), dtype=np.float32)
        image = np.concatenate([values[:10], cirrus, values[10:]])
        return {"image": torch.from_numpy(image), "point": torch.zeros(2)}


class ZarrReader:
    """Reads patches with zarr-python."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.patch_shape: tuple[int, int, int] = (12, SIZE_PX, SIZE_PX)

    def read(self, rows: NDArray[np.int64], out: NDArray[np.uint16]) -> None:
        """Digital numbers of rows of the store into ``out``."""
        out[:] = zarr.open_array(self.path, mode="r").oindex[rows]


def write_geotiffs(folder: Path, patches: Iterator[NDArray[np.uint16]]) -> list[Path]:
    folder.mkdir()
    paths = []
    for index, patch in enumerate(patches):
        paths.append(folder / f"patch_{index}.tif")
        with rasterio.open(
            paths[-1], "w", driver="GTiff", count=12, dtype="uint16", height=SIZE_PX, width=SIZE_PX, tiled=True,
            blockxsize=512, blockysize=512, interleave="pixel", compress="LZW", predictor=2,
            crs="EPSG:32632", transform=rasterio.transform.from_origin(500_000, 5_000_000, 10, 10),
        ) as target:  # fmt: skip
            target.write(patch)
    return paths


def geotiff_epochs(paths: list[Path], batch_size: int, workers: int) -> Callable[[], int]:
    loader = DataLoader(
        GeoTiffPatches(paths), batch_size, shuffle=True, drop_last=True, num_workers=workers,
        multiprocessing_context="forkserver", persistent_workers=True,
    )  # fmt: skip
    return lambda: sum(len(batch["image"]) for batch in loader)


def store_epochs(dataset: PatchDataset, reader: PatchReader, batch_size: int, workers: int) -> Callable[[], int]:
    config = PixelLoaderConfig(num_workers=workers)
    places = pixel_places(dataset)
    sampler = PartSampler(places.shards, batch_size, config, 0)
    stream = PatchStream(reader, places.rows, sampler, config)
    batch = torch.empty((batch_size, *reader.patch_shape), dtype=torch.uint16)

    def epoch() -> int:
        taken = 0
        for dn, positions in stream:
            start = taken % batch_size
            batch[start : start + len(positions)] = dn
            taken += len(positions)
        sampler.set_epoch(sampler.epoch + 1)
        return taken

    return epoch


def reflectance_epochs(dataset: PatchDataset, batch_size: int, workers: int) -> Callable[[], int]:
    batches = PixelBatches(
        pixel_places(dataset), open_shard_reader(dataset), batch_size, PixelLoaderConfig(num_workers=workers),
        torch.device("cpu"), shuffle_seed=0,
    )  # fmt: skip
    return lambda: sum(len(reflectance) for reflectance, _ in batches)


def bare_loop(dataset: PatchDataset) -> Callable[[], int]:
    chunks = []
    for shard in dataset.store.finished_shards():
        content = dataset.store.shard_path(shard).read_bytes()
        index = np.frombuffer(content[-(SHARD_SIZE * 16 + 4) : -4], dtype="<u8").reshape(SHARD_SIZE, 2)
        chunks += [content[start : start + size - 4] for start, size in index.tolist() if size < len(content)]
    out = np.empty((12, SIZE_PX, SIZE_PX), dtype=np.uint16)

    def decode() -> int:
        for chunk in chunks:
            google_crc32c.value(chunk)
            numcodecs.blosc.decompress(chunk, out)
        return len(chunks)

    return decode


def require_equal(dataset: PatchDataset, paths: list[Path]) -> None:
    rows = np.random.default_rng(0).permutation(len(paths))[:8]
    out = np.empty((len(rows), 12, SIZE_PX, SIZE_PX), dtype=np.uint16)
    open_shard_reader(dataset).read(rows, out)
    for row, patch in zip(rows, out, strict=True):
        with rasterio.open(paths[row]) as source:
            assert (source.read() == patch).all(), f"patch {row} differs"


def measure(ways: dict[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    """Samples per second, median over rounds in which every way has its turn."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, epoch in ways.items():
            started = time.perf_counter()
            taken = epoch()
            if number:
                rates[name].append(taken / (time.perf_counter() - started))
    return {name: statistics.median(found) for name, found in rates.items()}


def measure_orders() -> dict[str, tuple[float, float]]:
    """Correlation with the order of the store, and neighbours from one shard over those of a uniform order."""
    shards = np.arange(PLACES_OF_SHUFFLE) // SHARD_SIZE
    found = {}
    for name, order in (
        ("all places", epoch_order(PLACES_OF_SHUFFLE, 0, 0).numpy()),
        (f"windows of {WINDOW} shards", windowed_order(shards, WINDOW, 0, 0)),
    ):
        quality = measure_shuffle(order, shards, BATCH_OF_SHUFFLE)
        found[name] = (quality.rank_correlation, quality.neighbor_ratio)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="where files go; default the system's temporary one")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    options = parser.parse_args()
    numcodecs.blosc.use_threads = False
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    patches, kind = sample_patches(options.patches)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        dataset = publish_patches(Path(name), patches(), options.patches)
        paths = write_geotiffs(Path(name) / "images", patches())
        require_equal(dataset, paths)
        direct = open_shard_reader(dataset)
        with_zarr = ZarrReader(dataset.path / "patches.zarr" / "image")
        size, workers = options.batch_size, options.workers
        ways = {
            "GeoTIFF, rasterio": geotiff_epochs(paths, size, workers),
            "ours": store_epochs(dataset, direct, size, workers),
            "ours, zarr-python": store_epochs(dataset, with_zarr, size, workers),
            "ours, reflectance on the CPU": reflectance_epochs(dataset, size, workers),
            "bare loop, one process": bare_loop(dataset),
        }
        rates = measure(ways, options.rounds)
    theirs, ours = rates["GeoTIFF, rasterio"], rates["ours"]
    orders = measure_orders()
    print(
        f"{options.patches} patches ({kind}), batches of {size}, {workers} workers, median of {options.rounds} rounds"
    )
    print(f"{'way':<32}{'samples/s':>12}{'ratio':>8}")
    for way, rate in rates.items():
        print(f"{way:<32}{rate:>12.0f}{rate / theirs:>8.1f}")
    for order, (correlation, neighbors) in orders.items():
        print(f"order of {order}: correlation {correlation:+.4f}, neighbours from one shard {neighbors:.2f} x uniform")
    correlation, neighbors = orders["all places"]
    measures = [
        ("loader.ratio_to_geotiff", ours / theirs, MINIMUM_RATIO, ours / theirs >= MINIMUM_RATIO),
        ("loader.zarr_python_ratio_to_geotiff", rates["ours, zarr-python"] / theirs, None, True),
        ("loader.reflectance_ratio_to_geotiff", rates["ours, reflectance on the CPU"] / theirs, None, True),
        ("loader.ratio_to_bare_loop", ours / rates["bare loop, one process"], None, True),
        ("loader.order_correlation", correlation, MAXIMUM_SHUFFLE_BIAS, abs(correlation) <= MAXIMUM_SHUFFLE_BIAS),
        ("loader.order_neighbors", neighbors, 1.0, abs(neighbors - 1.0) <= MAXIMUM_SHUFFLE_BIAS),
    ]
    for metric, value, target, holds in measures:
        print(json.dumps({"metric": metric, "value": round(value, 4), "target": target, "holds": bool(holds)}))
    return 0 if all(holds for *_, holds in measures) or not options.check else 1


if __name__ == "__main__":
    sys.exit(main())
