"""The original's procedure, for comparison: a random scene, a random window in it, no look at the window's clouds."""

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from pyproj import Transformer

from pipelines.errors import ConfigurationError
from pipelines.sampling.scene_table import FOOTPRINT

MAX_SCENE_CLOUD_COVER_PERCENT = 20.0
MIN_COVERED_FRACTION = 0.9
"""A window with 10 % or more without data was drawn again."""
CHECKED_POINTS = 7
ATTEMPTS_PER_BLOCK = 4_096
MAX_BLOCKS_WITHOUT_WINDOW = 16


def draw_original(
    scenes: pd.DataFrame, num_places: int, seed: int, patch_size_px: int = 256
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Draws scenes uniformly, and in each a window uniformly, as the published S2-100K was drawn.

    Places follow from scenes, so that the result is dense where scenes are many: towards the poles, where tracks come
    together, and where skies are clear. The first n places of a longer draw are those of a shorter one.

    Args:
        scenes: All scenes of the period that touch land, from `find_scenes` with places close enough to hit each tile;
            those at or above 20 % cloud cover are not drawn.
        num_places: How many windows.
        seed: Key of the counter-based generator (Philox).
        patch_size_px: Side of a window.

    Returns:
        Places (place_id, lon_deg, lat_deg: the windows' centres) and their candidates, one each, in the columns of
        `plan_candidates`: place_row, rank (0), scene_row (in ``scenes``), row_px, col_px, near_edge, patch_lon_deg,
        patch_lat_deg.

    Raises:
        ConfigurationError: no scene can be drawn from.

    Source: download_s2.py of microsoft/satclip, as far as it decides where patches lie.
    """
    fits = scenes["scene_cloud_cover_percent"].to_numpy() < MAX_SCENE_CLOUD_COVER_PERCENT
    fits &= scenes[["width_px", "height_px"]].min(axis=1).to_numpy() >= patch_size_px
    drawable = np.flatnonzero(fits)
    if not len(drawable):
        raise ConfigurationError(
            f"{len(scenes)} scenes, none with less than {MAX_SCENE_CLOUD_COVER_PERCENT:g} % cloud cover and room for "
            f"{patch_size_px} pixels; give all scenes of the period, found at places all over the land"
        )
    rng = np.random.Generator(np.random.Philox(key=seed))
    drawn: list[pd.DataFrame] = []
    found = empty = 0
    while found < num_places:
        uniform = rng.random((ATTEMPTS_PER_BLOCK, 3))
        rows = drawable[(uniform[:, 0] * len(drawable)).astype(np.int64)]
        block = _windows(scenes, rows, uniform[:, 1:], patch_size_px)
        empty = 0 if len(block) else empty + 1
        if empty == MAX_BLOCKS_WITHOUT_WINDOW:
            raise ConfigurationError(
                f"{len(drawable)} scenes, none whose footprint covers a window of {patch_size_px} pixels of its grid; "
                "check footprints and grids"
            )
        drawn.append(block)
        found += len(block)
    candidates = pd.concat(drawn, ignore_index=True).iloc[:num_places]
    candidates.insert(0, "place_row", np.arange(num_places, dtype=np.int32))
    candidates.insert(1, "rank", np.zeros(num_places, dtype=np.int16))
    places = pd.DataFrame(
        {
            "place_id": np.arange(num_places),
            "lon_deg": candidates["patch_lon_deg"].to_numpy(),
            "lat_deg": candidates["patch_lat_deg"].to_numpy(),
        }
    )
    return places, candidates


def _windows(scenes: pd.DataFrame, rows: NDArray[np.int64], uniform: NDArray[np.float64], size: int) -> pd.DataFrame:
    """Windows at random positions in the scenes of ``rows``, those left out that lie too far outside the footprint."""
    grid = {
        name: scenes[name].to_numpy()[rows]
        for name in ("epsg", "x_ul_m", "y_ul_m", "resolution_m", "width_px", "height_px")
    }
    col_px = np.floor(uniform[:, 0] * (grid["width_px"] - size + 1)).astype(np.int32)
    row_px = np.floor(uniform[:, 1] * (grid["height_px"] - size + 1)).astype(np.int32)
    inner = (np.arange(CHECKED_POINTS) + 0.5) / CHECKED_POINTS * size
    col, row = (each.ravel() for each in np.meshgrid(inner, inner))
    x_m = grid["x_ul_m"][:, None] + (col_px[:, None] + col) * grid["resolution_m"][:, None]
    y_m = grid["y_ul_m"][:, None] - (row_px[:, None] + row) * grid["resolution_m"][:, None]
    lon_deg, lat_deg = np.empty_like(x_m), np.empty_like(y_m)
    for epsg in np.unique(grid["epsg"]):
        of = grid["epsg"] == epsg
        to_lonlat = Transformer.from_crs(int(epsg), 4326, always_xy=True)
        lon_deg[of], lat_deg[of] = to_lonlat.transform(x_m[of], y_m[of])
    footprints = scenes[FOOTPRINT].to_numpy()[rows]
    covered = shapely.contains_xy(footprints[:, None], lon_deg, lat_deg).mean(axis=1) > MIN_COVERED_FRACTION
    middle = len(col) // 2
    return pd.DataFrame(
        {
            "scene_row": rows.astype(np.int32),
            "row_px": row_px,
            "col_px": col_px,
            "near_edge": False,
            "patch_lon_deg": lon_deg[:, middle],
            "patch_lat_deg": lat_deg[:, middle],
        }
    )[covered]
