"""Readers of other projects, timed in an environment of their own (stackstac needs pandas below 3).

Started by benchmarks/patches.py, never by hand: reads one JSON request per line from stdin, answers one per line. The
clock runs around the reading alone; interpreter and imports are paid before.
"""

import json
import sys
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask
import numpy as np
import odc.stac
import pystac
import rasterio
import stackstac
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.windows import Window

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
FACTORS = dict.fromkeys(BANDS, 2) | {"B01": 6, "B02": 1, "B03": 1, "B04": 1, "B08": 1, "B09": 6}
EPSG, X_UL_M, Y_UL_M, SIZE_PX, PATCH_PX = 32632, 399960.0, 5300040.0, 10980, 256
TUNED: dict[str, Any] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".tif",
    "GDAL_INGESTED_BYTES_AT_OPEN": 32768,
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_HTTP_MAX_RETRY": 5,
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "VSI_CACHE": "FALSE",
    "GDAL_CACHEMAX": 64,
    "CPL_VSIL_CURL_CACHE_SIZE": 16777216,
}
ODC_CONFIG = {"sentinel-2-l2a": {"assets": {"*": {"data_type": "uint16", "nodata": 0}}}}


def item(base: str) -> dict[str, Any]:
    """The scene's STAC item with addresses below ``base``."""
    lower, upper = Transformer.from_crs(EPSG, 4326, always_xy=True), SIZE_PX * 10
    west, south = lower.transform(X_UL_M, Y_UL_M - upper)
    east, north = lower.transform(X_UL_M + upper, Y_UL_M)
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    assets = {
        band: {
            "href": f"{base}/{band}.tif",
            "type": "image/tiff; application=geotiff; profile=cloud-optimized",
            "roles": ["data"],
            "proj:shape": [SIZE_PX // FACTORS[band]] * 2,
            "proj:transform": [10 * FACTORS[band], 0, X_UL_M, 0, -10 * FACTORS[band], Y_UL_M],
            "proj:bbox": [X_UL_M, Y_UL_M - upper, X_UL_M + upper, Y_UL_M],
        }
        for band in BANDS
    }
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": ["https://stac-extensions.github.io/projection/v1.0.0/schema.json"],
        "id": "scene",
        "collection": "sentinel-2-l2a",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": [west, south, east, north],
        "properties": {"datetime": "2022-06-01T10:20:31Z", "proj:epsg": EPSG},
        "links": [],
        "assets": assets,
    }


def origin(row: int, col: int) -> tuple[float, float]:
    """Easting and northing of a window's upper-left corner."""
    return X_UL_M + 10 * col, Y_UL_M - 10 * row


def stackstac_published(base: str, row: int, col: int, threads: int) -> np.ndarray:
    """As the original's script does: the whole scene in EPSG:4326, then 256 x 256 pixels of it."""
    del threads
    stack = stackstac.stack([item(base)], assets=list(BANDS), epsg=4326)
    x_m, y_m = origin(row, col)
    lon, lat = Transformer.from_crs(EPSG, 4326, always_xy=True).transform(x_m + 1280, y_m - 1280)
    left = int(np.clip(np.searchsorted(stack.x, lon) - 128, 0, stack.sizes["x"] - 256))
    top = int(np.clip(np.searchsorted(-stack.y, -lat) - 128, 0, stack.sizes["y"] - 256))
    return stack[0, :, top : top + 256, left : left + 256].compute().to_numpy()


def stackstac_utm(base: str, row: int, col: int, threads: int) -> np.ndarray:
    """The window alone on the scene's own grid."""
    x_m, y_m = origin(row, col)
    stack = stackstac.stack(
        [item(base)], assets=list(BANDS), epsg=EPSG, resolution=10, bounds=(x_m, y_m - 2560, x_m + 2560, y_m),
        dtype=np.dtype("uint16"), fill_value=np.uint16(0), rescale=False, chunksize=256, xy_coords=False,
        gdal_env=stackstac.DEFAULT_GDAL_ENV.updated(always=TUNED),
    )  # fmt: skip
    with dask.config.set(pool=ThreadPoolExecutor(threads)):
        return stack[0].compute().to_numpy()


def odc_stac(base: str, row: int, col: int, threads: int) -> np.ndarray:
    """odc-stac's eager load of the window."""
    x_m, y_m = origin(row, col)
    box = GeoBox((PATCH_PX, PATCH_PX), Affine(10, 0, x_m, 0, -10, y_m), f"EPSG:{EPSG}")
    found = odc.stac.load(
        [pystac.Item.from_dict(item(base))], bands=list(BANDS), geobox=box, stac_cfg=ODC_CONFIG, resampling="nearest",
        pool=threads if threads > 1 else None,
    )  # fmt: skip
    return np.stack([found[band].to_numpy()[0] for band in BANDS])


def rasterio_threads(base: str, row: int, col: int, threads: int) -> np.ndarray:
    """Tuned rasterio: a window of each file, replicated to 10 m, bands in ``threads`` threads."""

    def read(band: str) -> np.ndarray:
        factor = FACTORS[band]
        rows, cols = np.arange(row, row + PATCH_PX) // factor, np.arange(col, col + PATCH_PX) // factor
        window = Window(cols[0], rows[0], cols[-1] - cols[0] + 1, rows[-1] - rows[0] + 1)
        with rasterio.Env(**TUNED), rasterio.open(f"{base}/{band}.tif") as source:
            values = source.read(1, window=window)
        return values[np.ix_(rows - rows[0], cols - cols[0])]

    if threads == 1:
        return np.stack([read(band) for band in BANDS])
    with ThreadPoolExecutor(threads) as pool:
        return np.stack(list(pool.map(read, BANDS)))


READERS: dict[str, Callable[[str, int, int, int], np.ndarray]] = {
    each.__name__: each for each in (stackstac_published, stackstac_utm, odc_stac, rasterio_threads)
}


def main() -> None:
    """Answers requests until stdin ends."""
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        request = json.loads(line)
        read, windows = READERS[request["reader"]], request["windows"]
        begun = time.perf_counter()

        bases = [f"{request['base']}/{request['unique']}-{number}" for number in range(len(windows))]
        rows, cols = zip(*windows, strict=True)
        with ThreadPoolExecutor(request["in_flight"]) as pool:
            patches = list(pool.map(read, bases, rows, cols, [request["threads"]] * len(windows)))
        seconds = time.perf_counter() - begun
        if request.get("save"):
            np.save(Path(request["save"]), np.stack(patches))
        sys.stdout.write(json.dumps({"seconds": seconds}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    odc.stac.configure_rio(cloud_defaults=True, **TUNED)
    main()
