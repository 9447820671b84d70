"""Building a dataset again from its replay manifest, and proving that it is the same, patch by patch."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.errors import ArtefactError
from pipelines.patches.config import PatchConfig
from pipelines.patches.dataset import REPLAY_NAME, read_places
from pipelines.patches.publication import REPLAY_COLUMNS, publish_dataset
from pipelines.patches.shards import ShardReport, ShardTask, run_shard_task, store_schema
from pipelines.patches.store import dataset_folder
from pipelines.sampling.candidates import CANDIDATE_TYPES
from pipelines.sampling.items import Scene
from pipelines.sampling.manifest import PLAN_FORMAT, SamplingManifest, write_plan
from pipelines.sampling.tables import read_record
from pipelines.sentinel2 import BANDS

logger = logging.getLogger(__name__)

SCENE_COLUMNS: Final = tuple(Scene.__dataclass_fields__)
_TEXT: Final = (
    "item_id", "datetime", "platform", "mgrs_tile", "processing_baseline", "offset_source", "href_base", "hrefs",
    "sha256",
)  # fmt: skip
_MAX_ROWS: Final = 20_000_000


@dataclass(frozen=True)
class ReplayReport:
    """What a replay proved.

    Attributes:
        version: The dataset that was built.
        num_equal: Patches with the same bytes.
        differing: place_id of every patch that has other bytes, or none.
    """

    version: str
    num_equal: int
    differing: tuple[int, ...]

    @property
    def is_equal(self) -> bool:
        """Whether every patch came out the same."""
        return not self.differing


def replay_dataset(
    root: Path,
    manifest_path: Path,
    catalog: "ReplayCatalog",
    config: PatchConfig,
    run_tasks: "Callable[[Callable[[ShardTask], ShardReport], list[ShardTask]], list[ShardReport]] | None" = None,
) -> ReplayReport:
    """Reads every patch of a replay manifest again, into a dataset of its own, and compares the hashes.

    Started again after an interruption it goes on where it stopped. The workspace's ``latest`` stays what it is.

    Args:
        root: The workspace to build in; may be another than the manifest's.
        manifest_path: ``replay_manifest.parquet`` of a dataset, or the folder that holds it.
        catalog: Where the files are.
        config: How they are read; nothing is rejected.
        run_tasks: Maps the shards, for instance on a cluster; None builds them here, one after another.

    Raises:
        ArtefactError: not a replay manifest, or one whose rows cannot be read as windows.
        CatalogError: a row names a file outside the catalog.
    """
    path = manifest_path / REPLAY_NAME if manifest_path.is_dir() else manifest_path
    rows = read_replay_manifest(path)
    manifest = plan_of_replay(root, path, rows, catalog.collection)
    accepting = config.model_copy(update={"clear_test": "none", "max_nodata_fraction": 1.0})
    tasks = [
        ShardTask(root, manifest.folder, shard, catalog.url, catalog.signing, accepting, catalog.profile)
        for shard in store_schema(root, manifest).own_shards
    ]
    if run_tasks is None:
        for task in tasks:
            run_shard_task(task)
    else:
        run_tasks(run_shard_task, tasks)
    source = f"replay of {read_record(path)['version']}"
    publish_dataset(root, manifest.plan_id, source, minimum_valid_fraction=0, make_latest=False)
    built = read_places(dataset_folder(root, manifest.plan_id)).set_index("place_id")["sha256"]
    expected = rows.set_index("place_id")["sha256"]
    same = built.reindex(expected.index).to_numpy() == expected.to_numpy()
    return ReplayReport(manifest.plan_id, int(same.sum()), tuple(int(place) for place in expected.index[~same]))


@dataclass(frozen=True)
class ReplayCatalog:
    """The catalog whose files are read: landing page, collection, way of signing, profile (see `open_catalog`)."""

    url: str
    collection: str
    signing: str = "auto"
    profile: str = "auto"


def read_replay_manifest(path: Path) -> pd.DataFrame:
    """Reads and validates a replay manifest, also one from elsewhere.

    Returns:
        ``REPLAY_COLUMNS``, one row per patch, ordered by place_id.

    Raises:
        ArtefactError: not such a file; columns missing or of another kind; a place twice; a window outside its scene.
    """
    if not path.is_file():
        raise ArtefactError(f"{path}: no such file, expected {REPLAY_NAME} of a published dataset")
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise ArtefactError(f"{path}: not a Parquet file ({error}), expected {REPLAY_NAME}") from error
    missing = [name for name in REPLAY_COLUMNS if name not in file.schema_arrow.names]
    if missing:
        raise ArtefactError(
            f"{path}: columns {missing} missing, expected those of a replay manifest; publish the dataset again with "
            "this version of the package"
        )
    if file.metadata.num_rows > _MAX_ROWS:
        raise ArtefactError(f"{path}: {file.metadata.num_rows} rows, expected at most {_MAX_ROWS}")
    if "version" not in read_record(path) or "patch_size_px" not in read_record(path):
        raise ArtefactError(f"{path}: no record of version and patch_size_px, expected a replay manifest")
    rows = file.read(columns=list(REPLAY_COLUMNS)).to_pandas().sort_values("place_id", ignore_index=True)
    _validate_rows(path, rows, _patch_size(path))
    return rows


def _names_every_band(hrefs: object) -> bool:
    try:
        found = json.loads(str(hrefs))
    except ValueError:
        return False
    return isinstance(found, dict) and all(isinstance(found.get(band), str) for band in BANDS)


def _patch_size(path: Path) -> int:
    return int(str(read_record(path)["patch_size_px"]))


def _validate_rows(path: Path, rows: pd.DataFrame, size: int) -> None:
    numbers = rows[[name for name in REPLAY_COLUMNS if name not in _TEXT]]
    if not all(pd.api.types.is_numeric_dtype(kind) for kind in numbers.dtypes):
        wrong = [name for name in numbers if not pd.api.types.is_numeric_dtype(numbers[name].dtype)]
        raise ArtefactError(f"{path}: columns {wrong} hold no numbers, expected those of a replay manifest")
    problems: dict[str, Any] = {
        "place_id occurs twice": rows["place_id"].duplicated(),
        "window outside its scene": (rows["row_px"] < 0)
        | (rows["col_px"] < 0)
        | (rows["row_px"] + size > rows["height_px"])
        | (rows["col_px"] + size > rows["width_px"]),
        "longitude or latitude out of range": ~(rows["lon_deg"].between(-180, 180) & rows["lat_deg"].between(-90, 90)),
        "no hash of its pixels": rows["sha256"].str.fullmatch("[0-9a-f]{64}").ne(other=True),
        "no address of every band (an imported patch has none)": ~rows["hrefs"].map(_names_every_band),
    }
    for problem, where in problems.items():
        if where.any():
            row = rows[where].iloc[0]
            raise ArtefactError(
                f"{path}: place {row.place_id}: {problem}; take the file from the dataset's folder again"
            )


def plan_of_replay(root: Path, path: Path, rows: pd.DataFrame, collection: str) -> SamplingManifest:
    """A plan in which every place has one candidate: the window that was used."""
    size = _patch_size(path)
    scenes = pd.DataFrame(
        {
            **{name: rows[name] for name in SCENE_COLUMNS if name in rows},
            "x_ul_m": rows["x_ul_m"] - rows["col_px"] * rows["resolution_m"],
            "y_ul_m": rows["y_ul_m"] + rows["row_px"] * rows["resolution_m"],
        }
    )
    distinct = scenes.drop_duplicates("item_id").sort_values("item_id", ignore_index=True)
    scene_row = pd.Series(distinct.index, index=distinct["item_id"]).loc[rows["item_id"]].to_numpy()
    candidates = pd.DataFrame(
        {
            "place_row": np.arange(len(rows)),
            "rank": 0,
            "scene_row": scene_row,
            "row_px": rows["row_px"],
            "col_px": rows["col_px"],
            "near_edge": False,
            "patch_lon_deg": rows["lon_deg"],
            "patch_lat_deg": rows["lat_deg"],
        }
    ).astype(CANDIDATE_TYPES)
    places = pd.DataFrame(
        {"place_id": rows["place_id"], "lon_deg": rows["place_lon_deg"], "lat_deg": rows["place_lat_deg"]}
    )
    record = {
        "format": PLAN_FORMAT,
        "collection": collection,
        "patch_size_px": size,
        "base_version": None,
        "replay_of": read_record(path)["version"],
    }
    return write_plan(root / "replays", places, distinct, candidates, record, {})
