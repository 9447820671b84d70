"""Maps whose classes follow from the position of each pixel, and datasets of patches on grids of our choice."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import rasterio
import shapely
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.transform import from_origin
from shapely.geometry import mapping

from pipelines.ground_cover.classes import LandCoverClasses
from pipelines.ground_cover.grids import PatchGrid
from pipelines.patches.dataset import PatchDataset, open_patch_dataset
from pipelines.patches.publication import publish_dataset
from pipelines.patches.rows import PATCH_COLUMNS, PatchRow
from pipelines.patches.store import StoreSchema, dataset_folder, open_store
from pipelines.sampling.footprints import normalized_footprint

COLLECTION = "land-cover"
DEGREE_PX = 12_000
"""Pixels per degree of ESA's WorldCover."""


def code_at(col: NDArray[np.int64], row: NDArray[np.int64], classes: LandCoverClasses) -> NDArray[np.uint8]:
    """The class of a pixel by its place on the grid of the whole map: no two neighbours have the same."""
    codes = np.array(classes.codes, dtype=np.uint8)
    return codes[(3 * col + 5 * row) % len(codes)]


@dataclass(frozen=True)
class MapFile:
    """One file of a map; ``col`` and ``row`` are of its corner on the grid of the whole map, counted from (0, 0).

    A map in degrees has 12,000 pixels per degree, others one per 10 m; rows count southwards.
    """

    name: str
    crs: str
    col: int
    row: int
    width: int
    height: int
    year: int = 2021
    holes: Sequence[tuple[slice, slice, int]] = ()
    turns: int = 0
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def step(self) -> float:
        return 1.0 / DEGREE_PX if self.crs == "EPSG:4326" else 10.0

    @property
    def left(self) -> float:
        return self.col * self.step + 360.0 * self.turns

    @property
    def top(self) -> float:
        return -self.row * self.step

    def values(self, classes: LandCoverClasses) -> NDArray[np.uint8]:
        cols, rows = np.meshgrid(self.col + np.arange(self.width), self.row + np.arange(self.height))
        if self.crs == "EPSG:4326":
            cols = cols % (360 * DEGREE_PX)
        values = code_at(cols, rows, classes)
        for rows_, cols_, code in self.holes:
            values[rows_, cols_] = code
        return values

    def write(self, folder: Path, classes: LandCoverClasses) -> None:
        with rasterio.open(
            folder / f"{self.name}.tif", "w", driver="GTiff", tiled=True, blockxsize=256, blockysize=256,
            compress="deflate", dtype="uint8", count=1, height=self.height, width=self.width, crs=self.crs, nodata=0,
            transform=from_origin(self.left, self.top, self.step, self.step),
        ) as target:  # fmt: skip
            target.write(self.values(classes), 1)

    def item(self, prefix: str) -> dict[str, Any]:
        right, bottom = self.left + self.width * self.step, self.top - self.height * self.step
        outline = shapely.box(self.left, bottom, right, self.top).segmentize(self.width * self.step / 8)
        if self.crs != "EPSG:4326":
            to_lonlat = Transformer.from_crs(self.crs, 4326, always_xy=True).transform
            outline = shapely.transform(outline, lambda xy: np.stack(to_lonlat(xy[:, 0], xy[:, 1]), axis=1))
        return {
            "type": "Feature",
            "stac_version": "1.0.0",
            "stac_extensions": [],
            "id": self.name,
            "collection": COLLECTION,
            "geometry": mapping(normalized_footprint(outline)),
            "properties": {
                "datetime": f"{self.year}-01-01T00:00:00Z",
                "start_datetime": f"{self.year}-01-01T00:00:00Z",
                "end_datetime": f"{self.year}-12-31T23:59:59Z",
            },
            "links": [],
            "assets": {"map": {"href": f"{prefix}/{self.name}.tif", "roles": ["data"]}},
        } | self.extra


def expected_codes(grid: PatchGrid, crs: str, classes: LandCoverClasses) -> NDArray[np.uint8]:
    """The class at the middle of each pixel of a patch, from the definition of the map alone."""
    steps = (np.arange(grid.size_px) + 0.5) * grid.resolution_m
    x, y = np.meshgrid(grid.x_ul_m + steps, grid.y_ul_m - steps)
    if crs != f"EPSG:{grid.epsg}":
        x, y = Transformer.from_crs(grid.epsg, crs, always_xy=True).transform(x, y)
    per_unit = DEGREE_PX if crs == "EPSG:4326" else 0.1
    cols, rows = np.floor(x * per_unit).astype(np.int64), np.floor(-y * per_unit).astype(np.int64)
    if crs == "EPSG:4326":
        cols = cols % (360 * DEGREE_PX)
    return code_at(cols, rows, classes)


def grid_around(lon_deg: float, lat_deg: float, epsg: int, size_px: int, shift_m: float = 0.0) -> PatchGrid:
    """A patch whose corner is a multiple of 10 m and a shift, around a place."""
    x, y = Transformer.from_crs(4326, epsg, always_xy=True).transform(lon_deg, lat_deg)
    half = size_px * 5
    return PatchGrid(epsg, (x - half) // 10 * 10 + shift_m, (y + half) // 10 * 10 + shift_m, 10.0, size_px)


def file_under(grid: PatchGrid, name: str, crs: str, margin: int = 20, **options: Any) -> MapFile:
    """The smallest file of a map that covers a patch, with a margin in pixels."""
    steps = np.linspace(0.0, grid.size_px * grid.resolution_m, 9)
    x, y = np.meshgrid(grid.x_ul_m + steps, grid.y_ul_m - steps)
    if crs != f"EPSG:{grid.epsg}":
        x, y = Transformer.from_crs(grid.epsg, crs, always_xy=True).transform(x, y)
    per_unit = DEGREE_PX if crs == "EPSG:4326" else 0.1
    if crs == "EPSG:4326" and np.ptp(x) > 180:
        x = x % 360.0
    cols, rows = np.floor(x * per_unit).astype(int), np.floor(-y * per_unit).astype(int)
    col, row = int(cols.min()) - margin, int(rows.min()) - margin
    return MapFile(name, crs, col, row, int(cols.max()) + margin - col, int(rows.max()) + margin - row, **options)


def publish_patches(
    root: Path, grids: Sequence[PatchGrid | None], dates: Sequence[str], shard_size: int = 2
) -> PatchDataset:
    """A published dataset with patches on the grids, none where a grid is None."""
    size = next(each.size_px for each in grids if each is not None)
    rows = []
    for place, (grid, date) in enumerate(zip(grids, dates, strict=True)):
        if grid is None:
            rows.append(PatchRow(place, 0.0, 0.0, 0.0, 0.0, valid=False, reason="exhausted"))
            continue
        middle = size * grid.resolution_m / 2
        lon, lat = Transformer.from_crs(grid.epsg, 4326, always_xy=True).transform(
            grid.x_ul_m + middle, grid.y_ul_m - middle
        )
        rows.append(
            PatchRow(
                place,
                lon,
                lat,
                lon,
                lat,
                valid=True,
                datetime=date,
                epsg=grid.epsg,
                x_ul_m=grid.x_ul_m,
                y_ul_m=grid.y_ul_m,
                resolution_m=grid.resolution_m,
            )
        )
    table = pd.DataFrame([asdict(row) for row in rows], columns=list(PATCH_COLUMNS))
    schema = StoreSchema("patches", len(grids), size, shard_size)
    store = open_store(dataset_folder(root, "patches"), schema)
    rng = np.random.default_rng(0)
    for shard in schema.own_shards:
        own = list(schema.plan_rows(shard))
        dn = rng.integers(1, 5000, (len(own), 12, size, size), dtype=np.uint16)
        dn[~table["valid"].to_numpy()[own]] = 0
        store.write_shard(shard, dn, table.iloc[own].reset_index(drop=True), {})
    record = publish_dataset(root, "patches", "test", minimum_valid_fraction=0.1)
    assert record.passed, record.problems
    return open_patch_dataset(root)


def map_collection() -> dict[str, Any]:
    """The STAC collection of the maps."""
    return {
        "type": "Collection", "stac_version": "1.0.0", "id": COLLECTION, "description": "maps", "license": "other",
        "links": [], "extent": {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [[None, None]]}},
    }  # fmt: skip


def days(text: str) -> float:
    """Days since 1970 of a date."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() / 86_400
