"""Which scenes may serve a place, on which window, in which order."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from pyproj import Transformer

from pipelines.provenance import content_hash
from pipelines.sampling.config import PlanConfig

CLOUD_COVER_BIN_PERCENT: Final = 5.0
PLACES_PER_BLOCK: Final = 32_768
SEAM_M: Final = 1.0
"""How far the halves of an outline cut at the antimeridian are widened to become one again."""
CANDIDATE_TYPES: Final = {
    "place_row": np.int32, "rank": np.int16, "scene_row": np.int32, "row_px": np.int32, "col_px": np.int32,
    "near_edge": np.bool_, "patch_lon_deg": np.float64, "patch_lat_deg": np.float64,
}  # fmt: skip
"""Columns of a table of candidates; rows of places and scenes are counted in the tables they were planned from."""

_Array = NDArray[Any]


@dataclass(frozen=True)
class SceneIndex:
    """Scenes prepared for being matched with many places.

    Attributes:
        tree: Outlines in degrees.
        inner: Per scene the part of the outline, in metres of its CRS, in which a centred patch is clear of the edge.
        item_hash: 64 bits of each item's id.
        day: Day of acquisition, counted from 1970-01-01.
        table: The scenes' numeric columns by name.
    """

    tree: shapely.STRtree
    inner: NDArray[np.object_]
    item_hash: NDArray[np.uint64]
    day: NDArray[np.int64]
    table: dict[str, _Array]


def index_scenes(scenes: pd.DataFrame, config: PlanConfig) -> SceneIndex:
    """Prepares a table of scenes (columns of `Scene` and ``footprint``) for `plan_candidates`."""
    footprints = np.array(scenes["footprint"], dtype=object)
    invalid = ~shapely.is_valid(footprints)
    footprints[invalid] = shapely.make_valid(footprints[invalid])
    numeric = ("epsg", "x_ul_m", "y_ul_m", "width_px", "height_px", "resolution_m", "scene_cloud_cover_percent")
    days = pd.to_datetime(scenes["datetime"], utc=True, format="ISO8601").to_numpy(dtype="datetime64[D]")
    return SceneIndex(
        tree=shapely.STRtree(footprints),
        inner=_inner_outlines(footprints, scenes, config),
        item_hash=np.fromiter((item_hash(item) for item in scenes["item_id"]), np.uint64, len(scenes)),
        day=days.astype(np.int64),
        table={name: scenes[name].to_numpy() for name in numeric},
    )


def item_hash(item_id: str) -> int:
    """64 bits that stand for an item's id in draws and in sets of pairs."""
    return int(content_hash(item_id)[:16], 16)


def plan_candidates(
    places: pd.DataFrame, scenes: SceneIndex, config: PlanConfig, eligible: "Eligibility | None" = None
) -> pd.DataFrame:
    """The ordered candidates of every place, with their windows.

    A window is centred on its place and snapped to the scene's grid; where it would leave the scene it is shifted
    inwards, as long as it still holds the place. The order of a place's candidates: days not yet tried before other
    tiles of a day (their sky is the same); clear of the scene's edge before near it; with ``season_balance`` the
    quarter that is drawn for the place first; then lower scene cloud cover in steps of 5 %; then a draw that depends on
    seed, place and item alone, which spreads the dates.

    Args:
        places: place_id, lon_deg, lat_deg.
        scenes: From `index_scenes`.
        config: Window, order, number of candidates.
        eligible: Restricts the pairs, for a refresh; None takes all.

    Returns:
        Columns of ``CANDIDATE_TYPES``, ordered by place_row and rank.
    """
    blocks = [_plan_block(block, places, scenes, config, eligible) for block in _blocks(len(places))]
    return pd.concat(blocks, ignore_index=True) if blocks else _empty()


@dataclass(frozen=True)
class Eligibility:
    """Which pairs of place and scene a refresh may use; one entry per place.

    Attributes:
        earliest_day: Acquisitions before this day are not wanted, days since 1970-01-01.
        tried: Sorted hashes (`pair_hashes`) of pairs that were tried before.
    """

    earliest_day: NDArray[np.int64]
    tried: NDArray[np.uint64]


def pair_hashes(place_id: _Array, item_hashes: NDArray[np.uint64], seed: int = 0) -> NDArray[np.uint64]:
    """64 well-mixed bits of each pair of place and item (the finalizer of SplitMix64, Steele et al. 2014)."""
    mixed = item_hashes ^ (place_id.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    hashes: NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(31))
    return hashes


def _blocks(num_places: int) -> Iterator[slice]:
    for start in range(0, num_places, PLACES_PER_BLOCK):
        yield slice(start, min(start + PLACES_PER_BLOCK, num_places))


def _empty() -> pd.DataFrame:
    return pd.DataFrame({name: np.empty(0, dtype) for name, dtype in CANDIDATE_TYPES.items()})


def _plan_block(
    block: slice, places: pd.DataFrame, scenes: SceneIndex, config: PlanConfig, eligible: Eligibility | None
) -> pd.DataFrame:
    lon_deg, lat_deg = (places[name].to_numpy()[block] for name in ("lon_deg", "lat_deg"))
    at, scene_row = scenes.tree.query(shapely.points(lon_deg, lat_deg), predicate="intersects")
    if eligible is not None:
        wanted = scenes.day[scene_row] >= eligible.earliest_day[block][at]
        at, scene_row = at[wanted], scene_row[wanted]
    if not len(at):
        return _empty()
    windows = _windows(lon_deg[at], lat_deg[at], scene_row, scenes, config)
    windows["place_row"] = block.start + at
    windows = windows[windows.pop("inside")]
    place_id = places["place_id"].to_numpy()[windows["place_row"]]
    ranked = _rank(windows, place_id, scenes, config)
    if eligible is not None:
        place_id = places["place_id"].to_numpy()[ranked["place_row"]]
        hashes = pair_hashes(place_id, scenes.item_hash[ranked["scene_row"]])
        ranked = ranked[~np.isin(hashes, eligible.tried)]
        ranked = ranked.assign(rank=ranked.groupby("place_row").cumcount())
    return ranked.astype(CANDIDATE_TYPES)[list(CANDIDATE_TYPES)].reset_index(drop=True)


def _windows(
    lon_deg: _Array, lat_deg: _Array, scene_row: NDArray[np.intp], scenes: SceneIndex, config: PlanConfig
) -> pd.DataFrame:
    """Window of each pair, whether its place lies inside the grid, and whether it comes near the scene's edge."""
    size, step = config.patch_size_px, config.align_px
    grid = {name: values[scene_row] for name, values in scenes.table.items()}
    frame: dict[str, _Array] = {
        name: np.zeros(len(scene_row), dtype) for name, dtype in CANDIDATE_TYPES.items() if name != "rank"
    }
    frame["scene_row"], frame["inside"] = scene_row, np.zeros(len(scene_row), bool)
    for epsg in np.unique(grid["epsg"]):
        of = np.flatnonzero(grid["epsg"] == epsg)
        to_grid = Transformer.from_crs(4326, int(epsg), always_xy=True)
        x_m, y_m = to_grid.transform(lon_deg[of], lat_deg[of])
        x_ul_m, y_ul_m, resolution_m = (grid[name][of] for name in ("x_ul_m", "y_ul_m", "resolution_m"))
        col, row = (x_m - x_ul_m) / resolution_m, (y_ul_m - y_m) / resolution_m
        width, height = grid["width_px"][of], grid["height_px"][of]
        inside = (col >= 0) & (col < width) & (row >= 0) & (row < height) & (width >= size) & (height >= size)
        col, row = (np.where(inside, each, 0.0) for each in (col, row))
        corners = [np.round(each / step - size / (2 * step)).astype(np.int64) * step for each in (col, row)]
        limits = [np.maximum(extent - size, 0) // step * step for extent in (width, height)]
        col_px, row_px = (np.clip(corner, 0, limit) for corner, limit in zip(corners, limits, strict=True))
        holds = (col >= col_px) & (col < col_px + size) & (row >= row_px) & (row < row_px + size)
        centre_x_m, centre_y_m = (
            x_ul_m + (col_px + size / 2) * resolution_m,
            y_ul_m - (row_px + size / 2) * resolution_m,
        )
        lon, lat = to_grid.transform(centre_x_m, centre_y_m, direction="INVERSE")
        shifted = (col_px != corners[0]) | (row_px != corners[1])
        clear_of_edge = shapely.contains_xy(scenes.inner[scene_row[of]], x_m, y_m)
        columns = {"row_px": row_px, "col_px": col_px, "patch_lon_deg": lon, "patch_lat_deg": lat}
        for name, values in (columns | {"inside": inside & holds, "near_edge": shifted | ~clear_of_edge}).items():
            frame[name][of] = values
    return pd.DataFrame(frame)


def _inner_outlines(footprints: NDArray[np.object_], scenes: pd.DataFrame, config: PlanConfig) -> NDArray[np.object_]:
    """Outlines in metres, shrunk by half the diagonal of a patch and the margin."""
    shrink_m = scenes["resolution_m"].to_numpy() * config.patch_size_px / np.sqrt(2) + config.edge_margin_m
    inner = np.full(len(footprints), shapely.Polygon(), dtype=object)
    epsg = scenes["epsg"].to_numpy()
    for code in np.unique(epsg):
        of = np.flatnonzero(epsg == code)
        to_grid = Transformer.from_crs(4326, int(code), always_xy=True)
        outlines = shapely.transform(
            footprints[of], lambda xy, to=to_grid: np.column_stack(to.transform(xy[:, 0], xy[:, 1]))
        )
        bounded = np.isfinite(shapely.bounds(outlines)).all(axis=1)
        of, outlines = of[bounded], shapely.buffer(outlines[bounded], SEAM_M, quad_segs=1)
        inner[of] = shapely.buffer(outlines, -(shrink_m[of] + SEAM_M), quad_segs=1)
    shapely.prepare(inner)
    return inner


def _rank(windows: pd.DataFrame, place_id: _Array, scenes: SceneIndex, config: PlanConfig) -> pd.DataFrame:
    """Orders the candidates of each place and keeps the first ``max_candidates``."""
    scene_row, place_row = windows["scene_row"].to_numpy(), windows["place_row"].to_numpy()
    draw = pair_hashes(place_id, scenes.item_hash[scene_row], seed=config.seed)
    cloud = np.floor(scenes.table["scene_cloud_cover_percent"][scene_row] / CLOUD_COVER_BIN_PERCENT)
    season = _season_distance(place_id, scenes.day[scene_row], config) if config.season_balance else np.zeros(len(draw))
    keys = (draw, cloud, season, windows["near_edge"].to_numpy())
    first = np.lexsort((*keys, place_row))
    day = pd.DataFrame({"place": place_row[first], "day": scenes.day[scene_row[first]]})
    repeat = np.empty(len(first), dtype=np.int64)
    repeat[first] = day.groupby(["place", "day"], sort=False).cumcount().to_numpy()
    ordered = windows.iloc[np.lexsort((*keys, repeat, place_row))]
    rank = ordered.groupby("place_row", sort=False).cumcount()
    return ordered.assign(rank=rank)[rank < config.max_candidates]


def _season_distance(place_id: _Array, day: NDArray[np.int64], config: PlanConfig) -> _Array:
    """Quarters of a year between an acquisition and the quarter that is drawn for its place, 0 to 2."""
    wanted = pair_hashes(place_id, np.zeros(len(place_id), np.uint64), seed=config.seed) % np.uint64(4)
    month = day.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64) % 12
    apart = np.abs(month // 3 - wanted.astype(np.int64))
    distance: _Array = np.minimum(apart, 4 - apart)
    return distance
