"""What one patch costs to read from COGs over HTTP: requests, bytes, CPU, beside plain rioxarray in the same run.

    python benchmarks/reading.py --check

Serves a scene of 12 bands and SCL on loopback (512-pixel DEFLATE tiles with overviews, pixels of the synthetic planet),
reads random unaligned windows of 2,560 m, each from
addresses never seen before, and compares every value. Requests and bytes are the server's own counts.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import numpy as np
import rasterio
import requests
import rioxarray
from numpy.typing import NDArray
from rasterio.transform import from_origin

from pipelines.patches.read import Grid, PatchWindow, WindowReader
from pipelines.sampling.catalog import open_catalog
from pipelines.sandbox.config import SandboxConfig
from pipelines.sandbox.fields import Planet
from pipelines.sandbox.lifecycle import SandboxHandle, start_sandbox
from pipelines.sandbox.rendering import Renderer
from pipelines.sandbox.scenes import tile_scenes
from pipelines.sandbox.tiling import tile_from_id
from pipelines.sentinel2 import ALL_ASSETS, BANDS, NATIVE_GSD_M

SIZE_PX = 3072
EPSG, X_UL_M, Y_UL_M = 32632, 399_960.0, 5_300_040.0
GRID = Grid(EPSG, X_UL_M, Y_UL_M, SIZE_PX, SIZE_PX, 10.0)
MAX_REQUESTS = 50.0
MAX_MEGABYTES = 9.0
COLLECTION = {
    "type": "Collection",
    "stac_version": "1.0.0",
    "id": "sentinel-2-l2a",
    "description": "One scene",
    "license": "proprietary",
    "links": [],
    "extent": {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [["2015-06-27T00:00:00Z", None]]}},
}


def write_scene(folder: Path) -> None:
    """Thirteen COGs, and a catalog that names none of them: windows are read by address."""
    renderer = Renderer(Planet(0))
    scene = min(tile_scenes(tile_from_id("32UNA"), 0), key=lambda each: each.product_name)
    for band in ALL_ASSETS:
        gsd_m = NATIVE_GSD_M[band]
        size = SIZE_PX * 10 // gsd_m
        blocks = range(-(-size // 256))
        rows = [np.concatenate([renderer.render(scene, band, 8 + r, 8 + c) for c in blocks], axis=1) for r in blocks]
        values = np.concatenate(rows)[:size, :size]
        with rasterio.open(
            folder / f"{band}.tif", "w", driver="COG", count=1, dtype=values.dtype.name, nodata=0, crs=f"EPSG:{EPSG}",
            height=size, width=size, transform=from_origin(X_UL_M, Y_UL_M, gsd_m, gsd_m), blocksize=512,
            compress="DEFLATE", predictor="YES",
        ) as target:  # fmt: skip
            target.write(values, 1)
    (folder / "collection.json").write_text(json.dumps(COLLECTION))
    item = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "scene",
        "geometry": {"type": "Point", "coordinates": [9, 47]},
        "bbox": [9, 47, 9, 47],
        "properties": {"datetime": "2022-06-01T00:00:00Z", "eo:cloud_cover": 0},
        "links": [],
        "assets": {"B02": {"href": "B02.tif"}},
    }
    (folder / "items.ndjson").write_text(json.dumps(item))


def read_ours(handle: SandboxHandle) -> Callable[[PatchWindow], NDArray[np.uint16]]:
    """Our reader, as a shard uses it: two bands at a time."""
    reader = WindowReader(open_catalog(handle.stac_url, "sentinel-2-l2a", "none"))
    pool = ThreadPoolExecutor(2)
    number = count()

    def read(window: PatchWindow) -> NDArray[np.uint16]:
        futures = [
            pool.submit(reader.read_band, f"{handle.origin}/files/{b}.tif?{next(number)}", b, GRID, window)
            for b in BANDS
        ]
        return np.stack([future.result() for future in futures])

    return read


def read_rioxarray(handle: SandboxHandle) -> Callable[[PatchWindow], NDArray[np.uint16]]:
    """The peer: rioxarray with its defaults, band after band."""
    number = count(1_000_000)

    def read(window: PatchWindow) -> NDArray[np.uint16]:
        bands = []
        for band in BANDS:
            factor = NATIVE_GSD_M[band] // 10
            rows = np.arange(window.row_px, window.row_px + window.size_px) // factor
            cols = np.arange(window.col_px, window.col_px + window.size_px) // factor
            with rioxarray.open_rasterio(f"{handle.origin}/files/{band}.tif?{next(number)}") as source:
                cut = source[0, rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1].to_numpy()
            bands.append(cut[np.ix_(rows - rows[0], cols - cols[0])])
        return np.stack(bands)

    return read


def measure(
    handle: SandboxHandle, read: Callable[[PatchWindow], NDArray[np.uint16]], windows: list[PatchWindow]
) -> tuple[list[NDArray[np.uint16]], dict[str, float]]:
    """Patches, and medians per patch."""
    patches, wall_s, cpu_s = [], [], []
    before = requests.get(f"{handle.origin}/stats", timeout=10).json()
    for window in windows:
        started, used = time.perf_counter(), time.process_time()
        patches.append(read(window))
        wall_s.append(time.perf_counter() - started)
        cpu_s.append(time.process_time() - used)
    after = requests.get(f"{handle.origin}/stats", timeout=10).json()
    counts = {name: (after[name] - before.get(name, 0)) / len(windows) for name in ("files_requests", "files_bytes")}
    return patches, {
        "requests": counts["files_requests"],
        "megabytes": counts["files_bytes"] / 1e6,
        "wall_s": statistics.median(wall_s),
        "cpu_s": statistics.median(cpu_s),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=24)
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    corners = rng.integers(0, SIZE_PX - 256, (options.windows, 2)).tolist()
    windows = [PatchWindow(row, col, 256) for row, col in corners]
    with tempfile.TemporaryDirectory() as name:
        write_scene(Path(name))
        with start_sandbox(SandboxConfig(catalog=name)) as handle:
            ours, found = measure(handle, read_ours(handle), windows)
            theirs, peer = measure(handle, read_rioxarray(handle), windows)
    print("reader      requests   MB    wall s  CPU s   (per patch)")
    for label, figures in (("ours", found), ("rioxarray", peer)):
        print(
            f"{label:10} {figures['requests']:8.1f} {figures['megabytes']:6.2f} "
            f"{figures['wall_s']:7.3f} {figures['cpu_s']:6.3f}"
        )
    equal = all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    lines = [
        {"metric": "patches_equal_rioxarray", "value": float(equal), "target": 1.0, "holds": equal},
        {"metric": "requests_per_patch", "value": round(found["requests"], 1), "target": MAX_REQUESTS,
         "holds": found["requests"] <= MAX_REQUESTS},
        {"metric": "megabytes_per_patch", "value": round(found["megabytes"], 2), "target": MAX_MEGABYTES,
         "holds": found["megabytes"] <= MAX_MEGABYTES},
    ]  # fmt: skip
    for each in lines:
        print(json.dumps(each))
    return int(options.check and not all(each["holds"] for each in lines))


if __name__ == "__main__":
    raise SystemExit(main())
