"""The embeddings of a workspace: a global grid and tables of points, by one checkpoint."""

import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr

from pipelines.embeddings.coverage import ProductCoverage, begin_products, product_sha256, record_products
from pipelines.embeddings.derived import QuantizationError, write_component_picture, write_int8_grid
from pipelines.embeddings.embedding_grid import MASK
from pipelines.embeddings.export import read_provenance
from pipelines.embeddings.grid import GlobalGrid
from pipelines.embeddings.grid_streaming import embed_grid
from pipelines.embeddings.points import fetch_table, is_url
from pipelines.embeddings.streaming import EmbeddingOptions, embed_table
from pipelines.embeddings.table_stream import PointStream, open_points
from pipelines.errors import ArtefactError, ConfigurationError, TableError
from pipelines.evaluation.tasks import TaskConfig, load_task, table_source
from pipelines.provenance import file_sha256
from pipelines.training.checkpoints import TrainedModel
from satclip_model.checkpoint.native import read_location_encoder
from satclip_model.location_encoder import LocationEncoder

logger = logging.getLogger(__name__)

LAND_GRID: Final = "land_grid"
LAND_MASK: Final = "roaring-landmask, at the center of a cell"
LAT_BOUNDS_DEG: Final = (-56.0, 84.0)
OPTIONS: Final = EmbeddingOptions(normalize=True)

GRID_SUFFIXES: Final[dict[str, str]] = {
    "parquet": ".parquet",
    "zarr": ".zarr",
    "int8": "_int8.zarr",
    "cog": "_components.tif",
}


@dataclass(frozen=True)
class PointTable:
    """A table of points to embed: its name in the workspace, its path or address, its coordinate columns."""

    name: str
    table: str
    lon_column: str = "lon"
    lat_column: str = "lat"


@dataclass(frozen=True)
class GridProducts:
    """How the grid of a workspace is written.

    Attributes:
        resolution_deg: Cell size; must divide 180.
        land_only: Whether only cells whose center is on land, from 56 S to 84 N, are embedded; else all cells.
        formats: Of parquet, zarr, int8 and cog; the report reads parquet, so that is always written.

    Raises:
        ConfigurationError: A format is unknown, or the resolution does not fit the globe.
    """

    resolution_deg: float
    land_only: bool = True
    formats: tuple[str, ...] = ("parquet",)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.formats) - set(GRID_SUFFIXES))
        if unknown:
            raise ConfigurationError(f"formats: found {unknown[0]!r}, expected some of {', '.join(GRID_SUFFIXES)}")
        try:
            _ = self.grid
        except ValueError as error:
            raise ConfigurationError(f"grid of embeddings: {error}") from error

    @property
    def grid(self) -> GlobalGrid:
        """The cells."""
        return GlobalGrid(self.resolution_deg, LAT_BOUNDS_DEG if self.land_only else (-90.0, 90.0))


@dataclass(frozen=True)
class EmbeddingProducts:
    """What was written.

    Attributes:
        products: Entries of coverage.json; the grid's come first.
        counts: Points per name; the grid comes first.
        skipped: Tasks whose table is not there.
        quantization_error: Of the eight-bit grid, if it was asked for.
    """

    products: list[ProductCoverage] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    quantization_error: QuantizationError | None = None


def embeddings_path(root: Path, name: str) -> Path:
    """Where the embeddings of a table, or of the grid as points, live."""
    return root / "embeddings" / f"{name}.parquet"


def grid_path(root: Path, grid_format: str) -> Path:
    """Where the grid of a workspace lives in a format."""
    return root / "embeddings" / f"{LAND_GRID}{GRID_SUFFIXES[grid_format]}"


def open_encoder(run: TrainedModel) -> LocationEncoder:
    """The trained location encoder.

    Raises:
        ArtefactError: the checkpoint is not the file that its record describes.
    """
    found = file_sha256(run.checkpoint_path)
    if found != run.record["checkpoint_sha256"]:
        raise ArtefactError(
            f"{run.checkpoint_path}: SHA-256 {found[:12]}, its record says {run.record['checkpoint_sha256'][:12]}; "
            "materialize satclip_checkpoint again"
        )
    return read_location_encoder(run.checkpoint_path)[0]


def embedding_provenance(run: TrainedModel) -> dict[str, Any]:
    """What an embedding file says of its parents."""
    return {
        "checkpoint_sha256": run.record["checkpoint_sha256"],
        "run": run.name,
        "dataset_version": run.record["dataset_version"],
        "training_config_sha256": run.record["config_sha256"],
        "units": "1",
    }


def build_embeddings(
    root: Path,
    run: TrainedModel,
    grid: GridProducts,
    tables: Sequence[PointTable],
    tables_root: str | None,
    tasks: Sequence[TaskConfig] = (),
) -> EmbeddingProducts:
    """Embeds the grid, every table and the places of every task, and records the products in coverage.json.

    The record is taken away first and written last. A task whose table is not there, or cannot be used, is skipped.
    Products that an earlier call wrote and this one does not are left in the folder, without an entry.

    Raises:
        ConfigurationError: A name is used twice.
        TableError: A table cannot be read or holds coordinates out of range. Nothing is written then.
    """
    _require_distinct([LAND_GRID, *(each.name for each in tables), *(each.name for each in tasks)])
    folder = root / "embeddings"
    with ExitStack() as opened:
        streams = {each.name: opened.enter_context(_table_points(each, tables_root)) for each in tables}
        skipped = []
        for task in tasks:
            try:
                streams[task.name] = opened.enter_context(_task_points(task, tables_root))
            except TableError as missing:
                logger.warning("embeddings %s: skipped: %s", task.name, missing)
                skipped.append(task.name)
        encoder, provenance = open_encoder(run), embedding_provenance(run)
        begin_products(folder)
        products, error = _grid_products(root, encoder, grid, provenance)
        counts = {LAND_GRID: products[0].num_points}
        for name, points in streams.items():
            path = embeddings_path(root, name)
            embed_table(encoder, replace(points, source=name), path, OPTIONS, provenance)
            products.append(_covered(path, points.num_points, points.bounds_deg, read_provenance(path)))
            counts[name] = points.num_points
        record_products(folder, products)
    return EmbeddingProducts(products, counts, skipped, error)


def _require_distinct(names: Sequence[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigurationError(
            f"tables to embed: name {repeated[0]!r} is used twice ({LAND_GRID} is the land grid's), expected distinct "
            "names; rename the table"
        )


def _grid_products(
    root: Path, encoder: LocationEncoder, wanted: GridProducts, provenance: dict[str, Any]
) -> tuple[list[ProductCoverage], QuantizationError | None]:
    grid, formats = wanted.grid, set(wanted.formats)
    recorded = provenance | {"land_grid_resolution_deg": wanted.resolution_deg}
    error = None
    with tempfile.TemporaryDirectory(dir=_made(root / "embeddings"), prefix=".grid_") as scratch:
        stored = grid_path(root, "zarr") if "zarr" in formats else Path(scratch) / "grid.zarr"
        embed_grid(encoder, grid, grid_path(root, "parquet"), OPTIONS, recorded, wanted.land_only)
        embed_grid(encoder, grid, stored, OPTIONS, recorded, wanted.land_only)
        if "int8" in formats:
            error = write_int8_grid(stored, grid_path(root, "int8"))
        if "cog" in formats:
            write_component_picture(stored, grid_path(root, "cog"))
        group: Any = zarr.open_group(stored, mode="r")
        cells = np.asarray(group[MASK][:]).sum(axis=1).tolist()
        details = dict(group.attrs["satclip_provenance"])
    west, east, south, north = grid.extent_deg
    products = []
    for each in sorted(formats | {"parquet"}, key=list(GRID_SUFFIXES).index):
        entry = _covered(grid_path(root, each), sum(cells), (west, south, east, north), dict(details))
        if each == "int8" and error is not None:
            entry = entry.model_copy(
                update={"provenance": details | {"stored_as": "int8", "quantization_error": asdict(error)}}
            )
        products.append(
            entry.model_copy(
                update={
                    "resolution_deg": wanted.resolution_deg,
                    "land_mask": LAND_MASK if wanted.land_only else None,
                    "cells_per_row": tuple(cells),
                }
            )
        )
    return products, error


def _covered(
    path: Path, num_points: int, bounds_deg: tuple[float, float, float, float], provenance: dict[str, Any]
) -> ProductCoverage:
    return ProductCoverage(
        path=path.name,
        sha256=product_sha256(path),
        num_points=num_points,
        bounds_deg=bounds_deg,
        provenance=provenance,
    )


@contextmanager
def _table_points(table: PointTable, tables_root: str | None) -> Iterator[PointStream]:
    source = str(table_source(table.table, tables_root))
    if not is_url(source):
        with open_points(source, table.lon_column, table.lat_column) as points:
            yield points
        return
    with tempfile.NamedTemporaryFile(prefix="satclip_points_") as spooled, fetch_table(source) as content:
        shutil.copyfileobj(content, spooled)
        spooled.flush()
        with open_points(spooled.name, table.lon_column, table.lat_column) as points:
            yield points


@contextmanager
def _task_points(task: TaskConfig, tables_root: str | None) -> Iterator[PointStream]:
    places = np.unique(load_task(task, tables_root).lonlat_deg, axis=0)
    with tempfile.NamedTemporaryFile(prefix="satclip_points_", suffix=".parquet") as spooled:
        pq.write_table(pa.table({"lon": places[:, 0], "lat": places[:, 1]}), spooled.name)
        with open_points(spooled.name) as points:
            yield points


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
