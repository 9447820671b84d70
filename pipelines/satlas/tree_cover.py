"""Tree cover as GeoTIFF per Web Mercator tile of zoom 7: overlapping tiles blended, five classes, 0 for no image."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipelines.errors import ArtefactError
from pipelines.patches.shard_lock import exclusive_writer
from pipelines.provenance import content_hash, git_commit, package_versions
from pipelines.satlas.geometry import wrap_lon
from pipelines.satlas.pending import require_whole
from pipelines.satlas.predictions import VALUES_FILE, TileGrid, list_predictions, read_predictions, read_record
from pipelines.satlas.products import LONGEST_WAIT_S
from pipelines.satlas.versions import Published, products_folder, publish, publish_latest

TASK: Final = "tree_cover"
WEB_MERCATOR: Final = "EPSG:3857"
HALF_WORLD_M: Final = 20_037_508.342789244
MAX_LAT_DEG: Final = 85.051128779806604
NO_DATA: Final = 0
CLASSES: Final = ("no data", "no trees", "low", "medium", "high", "full tree cover")
EDGE_POINTS: Final = 16


class TreeCoverConfig(BaseModel):
    """How tree cover becomes classes and tiles.

    Attributes:
        class_bounds: Share of a pixel under trees from which a class begins: low, medium, high, full. The bounds of the
            published product are not documented; these are ours.
        zoom: Of the Web Mercator tiles.
        tile_px: Side of a tile; 32,768 of zoom 7 make 9.55 m at the equator.
        block_px: Side of the squares worked on at a time, a multiple of 256.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    class_bounds: tuple[float, float, float, float] = (0.1, 0.3, 0.6, 0.9)
    zoom: int = Field(default=7, ge=0, le=14)
    tile_px: int = Field(default=32768, ge=256, le=65536, multiple_of=256)
    block_px: int = Field(default=2048, ge=256, le=8192, multiple_of=256)

    @model_validator(mode="after")
    def _bounds_ascend(self) -> "TreeCoverConfig":
        bounds = (0.0, *self.class_bounds, 1.0)
        if any(low >= high for low, high in itertools.pairwise(bounds)):
            raise ValueError(f"class_bounds are {self.class_bounds}; expected four that ascend between 0 and 1")
        return self


class MercatorTile(NamedTuple):
    """A Web Mercator tile: x counts from the antimeridian to the east, y from the north."""

    zoom: int
    x: int
    y: int

    @property
    def bounds_m(self) -> tuple[float, float, float, float]:
        """West, south, east, north in EPSG:3857."""
        side = 2 * HALF_WORLD_M / 2**self.zoom
        west, north = self.x * side - HALF_WORLD_M, HALF_WORLD_M - self.y * side
        return west, north - side, west + side, north


@dataclass(frozen=True)
class _Source:
    grid: TileGrid
    folder: Path
    boxes_m: Sequence[tuple[float, float, float, float]]


def build_tree_cover(root: Path, month: str, config: TreeCoverConfig) -> tuple[Published, Mapping[str, str]]:
    """Publishes the tree cover of a month as ``YYYY-MM/X_Y.tif``; returns the version, and why tiles were left out.

    Raises:
        ArtefactError: The month has no prediction that can be read, or is not predicted to its end.
        StoreError: Another process publishes tree cover and did not end within an hour.
    """
    with exclusive_writer(products_folder(root, TASK), "publication", "tree cover", wait_s=LONGEST_WAIT_S):
        require_whole(root, TASK, month)
        sources, hashes, radiometry, failures = _read_sources(root, month)
        if not sources:
            told = "; ".join(failures.values()) or "none are there"
            raise ArtefactError(f"{root}: no predictions of {TASK} in {month} ({told}); materialize satlas_predictions")
        settings = config.model_dump(mode="json")
        record = {
            "classes": list(CLASSES),
            "num_tiles": len(sources),
            "tiles_left_out": failures,
            "radiometry": sorted(radiometry),
            "config": settings,
            "config_sha256": content_hash(settings),
            "packages": package_versions(),
            "commit": git_commit(),
        }
        content = content_hash({"tiles": hashes, "config": settings})
        write = partial(_write_tiles, sources=sources, config=config)
        published = publish(root, TASK, month, content, write, record)
        publish_latest(root, TASK)
    return published, failures


def _read_sources(root: Path, month: str) -> tuple[list[_Source], dict[str, Any], set[str], dict[str, str]]:
    sources, hashes, radiometry, failures = [], {}, set(), {}
    for folder in list_predictions(root, TASK, month):
        try:
            grid = read_predictions(folder).grid
        except ArtefactError as error:
            failures[folder.name] = str(error)
            continue
        record = read_record(folder)
        hashes[folder.name] = {"values": record["files"][VALUES_FILE], "grid": record["grid"]}
        radiometry.add(str(record["parents"].get("radiometry", "not stated")))
        sources.append(_Source(grid, folder, mercator_boxes(grid)))
    return sources, hashes, radiometry, failures


def mercator_boxes(grid: TileGrid) -> list[tuple[float, float, float, float]]:
    """Bounds of a tile in EPSG:3857, two where it lies across the antimeridian."""
    from pyproj import Transformer

    west, south, east, north = grid.bounds_m
    across, along = np.linspace(west, east, EDGE_POINTS), np.linspace(south, north, EDGE_POINTS)
    x_m = np.concatenate([across, across, np.full(EDGE_POINTS, west), np.full(EDGE_POINTS, east)])
    y_m = np.concatenate([np.full(EDGE_POINTS, south), np.full(EDGE_POINTS, north), along, along])
    lon, lat = Transformer.from_crs(grid.epsg, "EPSG:4326", always_xy=True).transform(x_m, y_m)
    lon = wrap_lon(lon, float(lon[0]))
    x = (lon - 360.0 * np.floor((lon.min() + 180.0) / 360.0)) / 180.0 * HALF_WORLD_M
    y = np.arctanh(np.sin(np.radians(np.clip(lat, -MAX_LAT_DEG, MAX_LAT_DEG)))) / np.pi * HALF_WORLD_M
    left, right, bottom, top = (float(v) for v in (x.min(), x.max(), y.min(), y.max()))
    if right <= HALF_WORLD_M:
        return [(left, bottom, right, top)]
    return [(left, bottom, HALF_WORLD_M, top), (-HALF_WORLD_M, bottom, right - 2 * HALF_WORLD_M, top)]


def covered_tiles(sources: Sequence[_Source], zoom: int) -> list[MercatorTile]:
    """Web Mercator tiles that sources touch, by x then y."""
    side, last = 2 * HALF_WORLD_M / 2**zoom, 2**zoom - 1
    found: set[MercatorTile] = set()
    for west, south, east, north in itertools.chain.from_iterable(source.boxes_m for source in sources):
        columns = range(max(int((west + HALF_WORLD_M) / side), 0), min(int((east + HALF_WORLD_M) / side), last) + 1)
        rows = range(max(int((HALF_WORLD_M - north) / side), 0), min(int((HALF_WORLD_M - south) / side), last) + 1)
        found.update(MercatorTile(zoom, x, y) for x in columns for y in rows)
    return sorted(found)


def _write_tiles(folder: Path, sources: Sequence[_Source], config: TreeCoverConfig) -> None:
    for tile in covered_tiles(sources, config.zoom):
        _write_tile(folder / f"{tile.x}_{tile.y}.tif", tile, sources, config)


def _write_tile(path: Path, tile: MercatorTile, sources: Sequence[_Source], config: TreeCoverConfig) -> None:
    import rasterio
    from rasterio.transform import from_bounds
    from rasterio.windows import Window, bounds

    transform = from_bounds(*tile.bounds_m, config.tile_px, config.tile_px)
    profile = {
        "driver": "GTiff",
        "dtype": "uint8",
        "count": 1,
        "height": config.tile_px,
        "width": config.tile_px,
        "crs": WEB_MERCATOR,
        "transform": transform,
        "nodata": NO_DATA,
        "compress": "deflate",
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "sparse_ok": True,
    }
    with rasterio.open(path, "w", **profile) as target:
        target.update_tags(1, **{f"class_{number}": name for number, name in enumerate(CLASSES)})
        for row, column in itertools.product(range(0, config.tile_px, config.block_px), repeat=2):
            side = (min(config.block_px, config.tile_px - row), min(config.block_px, config.tile_px - column))
            window = Window(column, row, side[1], side[0])
            box = bounds(window, transform)
            near = [source for source in sources if any(_overlap(box, other) for other in source.boxes_m)]
            if near:
                share = blend(near, from_bounds(*box, side[1], side[0]), side)
                target.write(classify(share, config.class_bounds), 1, window=window)


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def blend(sources: Sequence[_Source], transform: Any, shape: tuple[int, int]) -> NDArray[np.float32]:  # noqa: ANN401
    """Mean of overlapping tiles on a Web Mercator grid, NaN where none has an image.

    A tile weighs as much as a pixel is away from its edge, so that there is no step where one begins. Values are
    interpolated bilinearly, among pixels that were observed only; a pixel whose nearest was not stays empty.

    Args:
        sources: Tiles with values.
        transform: Of the grid.
        shape: Rows and columns.
    """
    total = np.zeros(shape, dtype=np.float64)
    weight = np.zeros(shape, dtype=np.float64)
    for source in sources:
        values = read_predictions(source.folder).values
        assert values is not None
        seen = np.isfinite(values)
        distance = np.where(seen, edge_distance(values.shape), 0.0).astype(np.float32)
        weighted = (np.where(seen, values, 0.0) * distance).astype(np.float32)
        nearest = _warp(seen.astype(np.float32), source.grid, transform, shape, "nearest") > 0
        total += np.where(nearest, _warp(weighted, source.grid, transform, shape, "bilinear"), 0.0)
        weight += np.where(nearest, _warp(distance, source.grid, transform, shape, "bilinear"), 0.0)
    with np.errstate(invalid="ignore"):
        return np.where(weight > 0, total / np.where(weight > 0, weight, 1.0), np.nan).astype(np.float32)


def edge_distance(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Distance of each pixel's center from the nearest edge of its tile, in pixels."""
    height, width = shape
    down = np.minimum(np.arange(height), np.arange(height)[::-1]) + 0.5
    right = np.minimum(np.arange(width), np.arange(width)[::-1]) + 0.5
    return np.minimum(down[:, None], right[None, :])


def _warp(array: NDArray[np.float32], grid: TileGrid, transform: Any, shape: tuple[int, int], method: str) -> Any:  # noqa: ANN401
    from rasterio.enums import Resampling
    from rasterio.transform import from_bounds
    from rasterio.warp import reproject

    target = np.zeros(shape, dtype=np.float32)
    reproject(
        array,
        target,
        src_transform=from_bounds(*grid.bounds_m, grid.width_px, grid.height_px),
        src_crs=f"EPSG:{grid.epsg}",
        dst_transform=transform,
        dst_crs=WEB_MERCATOR,
        resampling=Resampling[method],
    )
    return target


def classify(share: NDArray[np.float32], class_bounds: Sequence[float]) -> NDArray[np.uint8]:
    """Classes 1 to 5 of a share under trees, 0 where it is NaN; a share at a bound belongs to the class above."""
    classes = np.digitize(share, np.asarray(class_bounds, dtype=np.float32)) + 1
    return np.where(np.isfinite(share), classes, NO_DATA).astype(np.uint8)
