"""Land and sea of the sandbox: a packed raster made once from the GSHHG shorelines.

``python -m pipelines.sandbox.land_raster`` writes ``land_raster.npz`` anew (half a minute, 1 GB of memory).
"""

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CELL_DEG = 0.05
NUM_ROWS, NUM_COLS = 3600, 7200
SUBSAMPLES = 4
MIN_LAND_SUBSAMPLES = 4
"""A cell is land when at least this many of its 4 x 4 sub-samples are, so that narrow coasts and islands stay land."""
RASTER_PATH = Path(__file__).with_name("land_raster.npz")


def build_land_raster() -> NDArray[np.bool_]:
    """Land mask of the sandbox, shape (3600, 7200), north first, longitudes from -180, cells of 0.05 degrees."""
    from roaring_landmask import LandmaskProvider, RoaringMask

    mask = RoaringMask.new(LandmaskProvider.Gshhg)
    step = CELL_DEG / SUBSAMPLES
    lon = -180.0 + step * (np.arange(NUM_COLS * SUBSAMPLES) + 0.5)
    land = np.zeros((NUM_ROWS, NUM_COLS), dtype=np.bool_)
    for row in range(NUM_ROWS):
        counts = np.zeros(NUM_COLS, dtype=np.int64)
        for part in range(SUBSAMPLES):
            lat = np.full_like(lon, 90.0 - CELL_DEG * row - step * (part + 0.5))
            counts += np.asarray(mask.contains_many(lon, lat)).reshape(NUM_COLS, SUBSAMPLES).sum(axis=1)
        land[row] = counts >= MIN_LAND_SUBSAMPLES
    return land


def write_land_raster(land: NDArray[np.bool_], path: Path = RASTER_PATH) -> None:
    """Writes the mask packed to bits, each row as its difference from the row above, compressed."""
    change = land.copy()
    change[1:] ^= land[:-1]
    np.savez_compressed(path, packed=np.packbits(change, axis=1))


@cache
def read_land_raster(path: Path = RASTER_PATH) -> NDArray[np.uint8]:
    """The packaged mask as zeros (sea) and ones (land), shape (3600, 7200), north first; read-only."""
    with np.load(path) as archive:
        change = np.unpackbits(archive["packed"], axis=1)
    land = np.bitwise_xor.accumulate(change, axis=0)
    land.flags.writeable = False
    return land


if __name__ == "__main__":
    write_land_raster(build_land_raster())
