"""The embeddings of a workspace: a grid over land and tables of points, by one checkpoint."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.embeddings.export import embed_points, write_embeddings
from pipelines.embeddings.grid import land_grid
from pipelines.embeddings.points import read_points
from pipelines.errors import ArtefactError, ConfigurationError, TableError
from pipelines.evaluation.tasks import TaskConfig, load_task, table_source
from pipelines.provenance import file_sha256
from pipelines.sampling.land import is_land
from pipelines.training.checkpoints import TrainedModel
from satclip_model.checkpoint.native import read_location_encoder

logger = logging.getLogger(__name__)

LAND_GRID = "land_grid"


@dataclass(frozen=True)
class PointTable:
    """A table of points to embed: its name in the workspace, its path or address, its coordinate columns."""

    name: str
    table: str
    lon_column: str = "lon"
    lat_column: str = "lat"


def embeddings_path(root: Path, name: str) -> Path:
    """Where the embeddings of a table, or of the land grid, live."""
    return root / "embeddings" / f"{name}.parquet"


def open_encoder(run: TrainedModel) -> Callable[[NDArray[np.float64]], NDArray[np.float32]]:
    """The trained location encoder as a function of lonlat_deg (n, 2) giving unit-length embeddings (n, e).

    Raises:
        ArtefactError: the checkpoint is not the file that its record describes.
    """
    found = file_sha256(run.checkpoint_path)
    if found != run.record["checkpoint_sha256"]:
        raise ArtefactError(
            f"{run.checkpoint_path}: SHA-256 {found[:12]}, its record says {run.record['checkpoint_sha256'][:12]}; "
            "materialize satclip_checkpoint again"
        )
    encoder, _ = read_location_encoder(run.checkpoint_path)

    def encode(lonlat_deg: NDArray[np.float64]) -> NDArray[np.float32]:
        return encoder.encode(lonlat_deg, normalize=True).astype(np.float32, copy=False)

    return encode


def embedding_provenance(run: TrainedModel) -> dict[str, Any]:
    """What an embedding file says of its parents."""
    return {
        "checkpoint_sha256": run.record["checkpoint_sha256"],
        "run": run.name,
        "dataset_version": run.record["dataset_version"],
        "training_config_sha256": run.record["config_sha256"],
    }


def build_embeddings(
    root: Path,
    run: TrainedModel,
    resolution_deg: float,
    tables: Sequence[PointTable],
    tables_root: str | None,
    tasks: Sequence[TaskConfig] = (),
) -> dict[str, int]:
    """Embeds the land grid, every table and the places of every task, each into a GeoParquet file of the workspace.

    A task whose table is not there, or cannot be used, is left out.

    Returns:
        Points per name; the land grid comes first.

    Raises:
        ConfigurationError: a name is used twice.
        TableError: a table cannot be read or holds coordinates out of range. Nothing is written then.
    """
    names = [LAND_GRID, *(each.name for each in tables), *(each.name for each in tasks)]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigurationError(
            f"tables to embed: name {repeated[0]!r} is used twice ({LAND_GRID} is the land grid's), expected distinct "
            "names; rename the table"
        )
    lonlat_deg = land_grid(resolution_deg, is_land, lat_bounds_deg=(-56.0, 84.0))
    grid = pd.DataFrame({"lon": lonlat_deg[:, 0], "lat": lonlat_deg[:, 1]})
    points = {LAND_GRID: grid}
    for each in tables:
        source = str(table_source(each.table, tables_root))
        points[each.name] = read_points(source, each.lon_column, each.lat_column)
    for task in tasks:
        try:
            places = np.unique(load_task(task, tables_root).lonlat_deg, axis=0)
        except TableError as error:
            logger.warning("embeddings %s: left out: %s", task.name, error)
            continue
        points[task.name] = pd.DataFrame(places, columns=["lon", "lat"])
    encode = open_encoder(run)
    provenance = embedding_provenance(run) | {"land_grid_resolution_deg": resolution_deg}
    for name, frame in points.items():
        write_embeddings(embeddings_path(root, name), frame, embed_points(encode, frame), provenance)
        logger.info("embeddings %s: %d points", name, len(frame))
    return {name: len(frame) for name, frame in points.items()}
