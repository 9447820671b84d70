"""Known objects with the months in which they stood, as what a model should see in the images of a place."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import ArtefactError
from pipelines.satlas.months import month_number, validate_month
from pipelines.satlas.mosaics import ImagePeriod
from pipelines.satlas.predictions import TileGrid
from pipelines.satlas.training.examples import BoxTarget, MaskTarget, Target
from satclip_model.satlas.config import DetectionConfig, HeadConfig, SegmentationConfig

if TYPE_CHECKING:
    import geopandas

BOX_SIZE_PX: Final = 40
"""Side of the boxes that points are learned as: wide enough for the shadow. Source: allenai/satlas, DatasetSpec.md."""
_COLUMNS: Final = ("category", "first_month", "last_month")


def read_known_objects(path: Path, categories: Sequence[str]) -> "geopandas.GeoDataFrame":
    """Points or polygons with ``category``, ``first_month`` and ``last_month``, in EPSG:4326.

    Args:
        path: Any file that pyogrio or geopandas' reader of Parquet opens. Without the columns of months every object
            stands always; an empty one means from the beginning, or to the end.
        categories: Those that may be there.

    Raises:
        ArtefactError: The file cannot be read, a month is malformed, a geometry is invalid, or a category is unknown.
    """
    import geopandas

    try:
        frame = geopandas.read_parquet(path) if path.suffix == ".parquet" else geopandas.read_file(path)
    except Exception as error:
        raise ArtefactError(
            f"{path}: no file of known objects ({error}); expected GeoJSON, GeoParquet or alike"
        ) from error
    if "category" not in frame.columns or frame.crs is None:
        raise ArtefactError(f"{path}: columns {', '.join(frame.columns)}, {frame.crs}; expected category and a CRS")
    unknown = sorted(set(frame["category"]) - set(categories))
    if unknown:
        raise ArtefactError(f"{path}: categories {', '.join(map(str, unknown))}; expected {', '.join(categories)}")
    broken = np.flatnonzero(~frame.geometry.is_valid | frame.geometry.is_empty)
    if len(broken):
        raise ArtefactError(f"{path}: geometry of row {broken[0]} is empty or invalid; repair it, as by make_valid")
    for column in ("first_month", "last_month"):
        frame[column] = frame[column].astype(object).where(frame[column].notna(), None) if column in frame else None
        for row, month in enumerate(frame[column]):
            if month is not None:
                try:
                    validate_month(str(month))
                except ValueError as error:
                    raise ArtefactError(f"{path}: {column} of row {row}: {error}") from error
    return frame[[*_COLUMNS, "geometry"]].to_crs("EPSG:4326")


def standing(objects: "geopandas.GeoDataFrame", periods: Sequence[ImagePeriod]) -> NDArray[np.int8]:
    """Whether the images of some periods show an object: 1 yes, 0 no, -1 it was built or removed meanwhile.

    An object is shown where it stood through one of the periods, and is not where it stood in none of them.

    Args:
        objects: As of `read_known_objects`.
        periods: Those with an image.
    """
    found = np.zeros(len(objects), dtype=np.int8)
    for row, (first, last) in enumerate(zip(objects["first_month"], objects["last_month"], strict=True)):
        built = date.min if first is None else _first_day(month_number(first))
        removed = date.max if last is None else _first_day(month_number(last) + 1)
        whole = any(built <= each.start and each.end < removed for each in periods)
        part = any(built <= each.end and each.start < removed for each in periods)
        found[row] = 1 if whole else -int(part)
    return found


def target_of(
    objects: "geopandas.GeoDataFrame",
    shown: NDArray[np.int8],
    grid: TileGrid,
    head: HeadConfig,
    box_size_px: int = BOX_SIZE_PX,
) -> Target:
    """What a head should give for a tile.

    Args:
        objects: All that are known around, in EPSG:4326.
        shown: Of `standing`. Of objects built or removed meanwhile no pixel counts.
        grid: The tile.
        head: Its categories are those of the objects.
        box_size_px: Side of the box around a point.

    Raises:
        ValueError: The head predicts numbers per pixel, or categories of the whole image.
    """
    near = objects.to_crs(f"EPSG:{grid.epsg}")
    west, south, east, north = grid.bounds_m
    margin = box_size_px * grid.resolution_m
    bounds = near.bounds.to_numpy()
    inside = (bounds[:, 0] < east + margin) & (bounds[:, 2] > west - margin)
    inside &= (bounds[:, 1] < north + margin) & (bounds[:, 3] > south - margin) & np.isfinite(bounds).all(axis=1)
    inside &= shown != 0
    chosen, state = near[inside], shown[inside]
    if isinstance(head, DetectionConfig):
        return _boxes(chosen, state, grid, head.categories, box_size_px)
    if isinstance(head, SegmentationConfig):
        return _masks(chosen, state, grid, head.categories)
    raise ValueError(f"known objects give no target for a head of kind {head.kind}; expected detection or segmentation")


def _boxes(
    chosen: "geopandas.GeoDataFrame", state: NDArray[np.int8], grid: TileGrid, categories: tuple[str, ...], size_px: int
) -> BoxTarget:
    middles = chosen.geometry.centroid
    column = (middles.x.to_numpy() - grid.west_m) / grid.resolution_m
    row = (grid.north_m - middles.y.to_numpy()) / grid.resolution_m
    kept = (column >= 0) & (column < grid.width_px) & (row >= 0) & (row < grid.height_px)
    half = size_px / 2
    boxes = np.column_stack([column - half, row - half, column + half, row + half])[kept]
    labels = np.array([categories.index(name) + 1 for name in chosen["category"]], dtype=np.int64)[kept]
    return BoxTarget(boxes.astype(np.float32).reshape(-1, 4), labels, np.asarray(state[kept] < 0))


def _masks(
    chosen: "geopandas.GeoDataFrame", state: NDArray[np.int8], grid: TileGrid, categories: tuple[str, ...]
) -> MaskTarget:
    from rasterio.features import rasterize
    from rasterio.transform import from_origin

    shape = (grid.height_px, grid.width_px)
    transform = from_origin(grid.west_m, grid.north_m, grid.resolution_m, grid.resolution_m)
    classes, valid = np.zeros((len(categories), *shape), dtype=np.uint8), np.ones(shape, dtype=np.bool_)
    for position, name in enumerate(categories):
        mine = chosen.geometry[(chosen["category"] == name).to_numpy() & (state > 0)]
        if len(mine):
            rasterize(mine, out=classes[position], transform=transform, default_value=1)
    doubtful = chosen.geometry[state < 0]
    if len(doubtful):
        valid &= rasterize(doubtful, out_shape=shape, transform=transform, all_touched=True) == 0
    return MaskTarget(classes, valid)


def _first_day(number: int) -> date:
    return date(number // 12, number % 12 + 1, 1)
