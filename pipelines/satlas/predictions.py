"""Predictions of one tile in one month: what inference leaves and products are made of.

A prediction is a folder ``satlas/predictions/TASK/YYYY-MM/TILE`` of the workspace: ``objects.parquet`` (points or
polygons) or ``values.tif`` (a number per pixel), ``observed.tif``, and ``record.json``, which is written last: a folder
without it is no prediction.
"""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray

from pipelines.atomic import replacing, write_json
from pipelines.errors import ArtefactError
from pipelines.provenance import file_sha256, package_versions
from pipelines.satlas.folder_records import read_folder_record
from pipelines.satlas.months import validate_month

if TYPE_CHECKING:
    import geopandas

OBJECTS_FILE: Final = "objects.parquet"
VALUES_FILE: Final = "values.tif"
OBSERVED_FILE: Final = "observed.tif"
RECORD_FILE: Final = "record.json"
PREDICTION_FORMAT: Final = 1
THRESHOLDS_NAME: Final = "score_thresholds"
"""In the record of a training and in the parents of its predictions: scores from which to publish, by category."""

PredictionKind = Literal["points", "polygons", "values"]
TASK_KINDS: Final[Mapping[str, PredictionKind]] = MappingProxyType(
    {
        "solar_farm": "polygons",
        "wind_turbine": "points",
        "marine_infrastructure": "points",
        "tree_cover": "values",
    }
)
"""What each task predicts."""


@dataclass(frozen=True)
class TileGrid:
    """The pixels of a tile: north up, in a projected reference system whose unit is the meter.

    Attributes:
        epsg: Code of the reference system, as a rule a UTM zone.
        west_m: Outer edge of the first column.
        north_m: Outer edge of the first row.
        resolution_m: Side of a pixel.
        height_px: Rows.
        width_px: Columns.
    """

    epsg: int
    west_m: float
    north_m: float
    resolution_m: float
    height_px: int
    width_px: int

    @property
    def bounds_m(self) -> tuple[float, float, float, float]:
        """West, south, east, north."""
        south_m = self.north_m - self.height_px * self.resolution_m
        return self.west_m, south_m, self.west_m + self.width_px * self.resolution_m, self.north_m

    def padded(self, margin_px: int) -> Self:
        """This grid with so many pixels more on every side; less where negative."""
        margin_m = margin_px * self.resolution_m
        return replace(
            self, west_m=self.west_m - margin_m, north_m=self.north_m + margin_m,
            height_px=self.height_px + 2 * margin_px, width_px=self.width_px + 2 * margin_px,
        )  # fmt: skip

    def shared_part(self, other: Self) -> tuple[slice, slice]:
        """Rows and columns of this grid that lie in another one of the same pixels."""
        row = round((self.north_m - other.north_m) / self.resolution_m)
        column = round((other.west_m - self.west_m) / self.resolution_m)
        return (
            slice(max(row, 0), max(min(row + other.height_px, self.height_px), 0)),
            slice(max(column, 0), max(min(column + other.width_px, self.width_px), 0)),
        )


@dataclass(frozen=True)
class TilePredictions:
    """What a model saw in a tile, and where it had an image to see it in.

    Attributes:
        task: A name of `TASK_KINDS`.
        month: The month predicted, ``YYYY-MM``.
        tile: Name of the tile, unique within task and month; it becomes a folder's.
        grid: The tile's pixels.
        observed: In how many of the periods there was a usable image, uint8, shape (rows, columns) over the whole
            tile; a cell may be any number of whole pixels. Where it is 0 nothing is known, whatever the model says.
        objects: Points or polygons in the tile's reference system with columns ``category`` (text), ``score`` (0 to 1)
            and ``geometry``; None where the task predicts values.
        values: Number per pixel in [0, 1], float32, shape (height_px, width_px), NaN where not observed; None where
            the task predicts objects.
        periods: First day of each period that images were looked for in, ``YYYY-MM-DD``.
        missing_periods: Those of which the tile has no image at all.
        parents: What made it: such as ``weights_sha256``, ``config_sha256``, ``windows_sha256``, ``radiometry``,
            ``score_thresholds``.
    """

    task: str
    month: str
    tile: str
    grid: TileGrid
    observed: NDArray[np.uint8]
    objects: "geopandas.GeoDataFrame | None" = None
    values: NDArray[np.float32] | None = None
    periods: tuple[str, ...] = ()
    missing_periods: tuple[str, ...] = ()
    parents: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> PredictionKind:
        """What the task predicts."""
        return TASK_KINDS[self.task]

    def validate(self) -> None:
        """Checks that the parts fit one another.

        Raises:
            ValueError: Unknown task, malformed month or tile name, or arrays and columns that do not fit.
        """
        if self.task not in TASK_KINDS:
            raise ValueError(f"task is {self.task!r}; expected one of {', '.join(TASK_KINDS)}")
        validate_month(self.month)
        if not self.tile or any(part in self.tile for part in ("/", "\\", "..")):
            raise ValueError(f"tile is {self.tile!r}; expected a name that can be a folder's")
        told = f"{self.task} {self.month} {self.tile}"
        _validate_observed(self.observed, self.grid, told)
        if self.kind == "values":
            _validate_values(self.values, self.grid, told)
        else:
            _validate_objects(self.objects, self.grid, told)


def _validate_observed(observed: NDArray[np.uint8], grid: TileGrid, told: str) -> None:
    shape = (grid.height_px, grid.width_px)
    fits = (
        observed.ndim == 2 and observed.size > 0 and all(p % c == 0 for p, c in zip(shape, observed.shape, strict=True))
    )
    if not fits or observed.dtype != np.uint8:
        raise ValueError(
            f"{told}: observed is {observed.dtype} of shape {observed.shape}; expected uint8 whose cells are whole "
            f"pixels of a tile of {shape}"
        )


def _validate_values(values: NDArray[np.float32] | None, grid: TileGrid, told: str) -> None:
    if values is None or values.shape != (grid.height_px, grid.width_px) or values.dtype != np.float32:
        found = "none" if values is None else f"{values.dtype} of shape {values.shape}"
        raise ValueError(f"{told}: values are {found}; expected float32 of {(grid.height_px, grid.width_px)}")
    if np.isinf(values).any() or np.nanmin(values, initial=0) < 0 or np.nanmax(values, initial=0) > 1:
        raise ValueError(f"{told}: values reach beyond [0, 1]; expected a share of each pixel, NaN where not observed")


def _validate_objects(objects: "geopandas.GeoDataFrame | None", grid: TileGrid, told: str) -> None:
    if objects is None or not {"category", "score"} <= set(objects.columns):
        found = "none" if objects is None else f"columns {', '.join(map(str, objects.columns))}"
        raise ValueError(f"{told}: objects are {found}; expected columns category, score and geometry")
    if objects.crs is None or objects.crs.to_epsg() != grid.epsg:
        raise ValueError(f"{told}: objects are in {objects.crs}; expected EPSG:{grid.epsg}, the tile's")


def prediction_folder(root: Path, task: str, month: str, tile: str) -> Path:
    """Where a prediction lives in a workspace."""
    return root / "satlas" / "predictions" / task / month / tile


def list_predictions(root: Path, task: str, month: str) -> list[Path]:
    """Folders of a month's finished predictions, by name of the tile."""
    return sorted(path.parent for path in (root / "satlas" / "predictions" / task / month).glob(f"*/{RECORD_FILE}"))


def predicted_months(root: Path, task: str) -> list[str]:
    """Months of which a task has at least one finished prediction, in order."""
    found = (root / "satlas" / "predictions" / task).glob(f"*/*/{RECORD_FILE}")
    return sorted({path.parent.parent.name for path in found})


def write_predictions(root: Path, predictions: TilePredictions) -> Path:
    """Writes a prediction into its folder, the record last; returns the folder. All else that was there is removed.

    Raises:
        ValueError: See :meth:`TilePredictions.validate`.
    """
    predictions.validate()
    folder = prediction_folder(root, predictions.task, predictions.month, predictions.tile)
    remove_predictions(root, predictions.task, predictions.month, predictions.tile)
    if predictions.objects is not None:
        with replacing(folder / OBJECTS_FILE) as partial:
            predictions.objects[["category", "score", "geometry"]].to_parquet(partial, index=False)
    if predictions.values is not None:
        _write_raster(folder / VALUES_FILE, predictions.values, predictions.grid, nodata=float("nan"))
    _write_raster(folder / OBSERVED_FILE, predictions.observed, predictions.grid, nodata=None)
    files = {path.name: file_sha256(path) for path in sorted(folder.iterdir())}
    write_json(
        folder / RECORD_FILE,
        {
            "format": PREDICTION_FORMAT,
            "task": predictions.task,
            "month": predictions.month,
            "tile": predictions.tile,
            "grid": asdict(predictions.grid),
            "periods": list(predictions.periods),
            "missing_periods": list(predictions.missing_periods),
            "parents": dict(predictions.parents),
            "packages": package_versions(),
            "files": files,
        },
    )
    return folder


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a prediction.

    Raises:
        ArtefactError: There is none, or it is of another format.
    """
    return read_folder_record(folder / RECORD_FILE, PREDICTION_FORMAT, "prediction", "satlas_predictions")


def read_predictions(folder: Path) -> TilePredictions:
    """A prediction as it was written.

    Raises:
        ArtefactError: The folder is no finished prediction, or a file is missing or not the one recorded.
    """
    record = read_record(folder)
    for name, expected in record["files"].items():
        path = folder / name
        if not path.is_file() or file_sha256(path) != expected:
            raise ArtefactError(f"{path}: missing or changed since it was recorded; predict tile {folder.name} again")
    return TilePredictions(
        task=record["task"],
        month=record["month"],
        tile=record["tile"],
        grid=TileGrid(**record["grid"]),
        observed=_read_raster(folder / OBSERVED_FILE),
        objects=_read_objects(folder / OBJECTS_FILE) if OBJECTS_FILE in record["files"] else None,
        values=_read_raster(folder / VALUES_FILE) if VALUES_FILE in record["files"] else None,
        periods=tuple(record["periods"]),
        missing_periods=tuple(record["missing_periods"]),
        parents=record["parents"],
    )


def remove_predictions(root: Path, task: str, month: str, tile: str) -> None:
    """Removes a prediction, its record first, so that an interrupted removal leaves no half prediction."""
    folder = prediction_folder(root, task, month, tile)
    (folder / RECORD_FILE).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _read_objects(path: Path) -> "geopandas.GeoDataFrame":
    import geopandas

    return geopandas.read_parquet(path)


def _write_raster(path: Path, array: NDArray[Any], grid: TileGrid, nodata: float | None) -> None:
    import rasterio
    from rasterio.transform import from_bounds

    height, width = array.shape
    profile = {
        "driver": "GTiff",
        "dtype": array.dtype,
        "count": 1,
        "height": height,
        "width": width,
        "crs": f"EPSG:{grid.epsg}",
        "transform": from_bounds(*grid.bounds_m, width, height),
        "compress": "deflate",
        "predictor": 3 if array.dtype.kind == "f" else 2,
        "nodata": nodata,
    }
    with replacing(path) as partial, rasterio.open(partial, "w", **profile) as target:
        target.write(array, 1)


def _read_raster(path: Path) -> NDArray[Any]:
    import rasterio

    with rasterio.open(path) as source:
        array: NDArray[Any] = source.read(1)
    return array
