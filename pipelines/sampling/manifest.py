"""The plan: places, the scenes that may serve them, and per place an ordered list of scenes and windows.

A plan is a folder, ``sampling/plans/PLAN_ID``, that never changes once it is there; ``sampling/sampling_manifest.json``
says which plan is the present one.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.atomic import write_json
from pipelines.errors import ArtefactError, ConfigurationError
from pipelines.provenance import content_hash, file_sha256
from pipelines.sampling.candidates import index_scenes, plan_candidates
from pipelines.sampling.config import PlanConfig
from pipelines.sampling.tables import read_table, write_plain_table, write_table

logger = logging.getLogger(__name__)

PLAN_FORMAT: Final = 2
PLAN_ID_LENGTH: Final = 12
PLANNED_CONFIGS: Final = ("places_config", "search_config")
POINTER: Final = "sampling_manifest.json"
ROWS_PER_GROUP: Final = 16_384
TABLES: Final = ("places", "scenes", "candidates")


@dataclass(frozen=True)
class SamplingManifest:
    """The plan of a dataset, opened; tables are read when they are asked for.

    Attributes:
        folder: Where it lives; its name is the plan's id.
        collection: STAC collection of the scenes.
        num_places: Places planned, including those without a candidate.
        patch_size_px: Side of a patch.
        base_version: The dataset that a refresh builds upon; None where the plan stands for itself.
        record: All that ``plan.json`` says.
    """

    folder: Path
    collection: str
    num_places: int
    patch_size_px: int
    base_version: str | None
    record: dict[str, Any]

    @property
    def plan_id(self) -> str:
        """First twelve hex digits of the SHA-256 of what the plan says; names the dataset version."""
        return self.folder.name

    @cached_property
    def places(self) -> pd.DataFrame:
        """place_id, lon_deg, lat_deg of every place, in the order of the store's rows."""
        return read_table(self.folder / "places.parquet", asset="sampling_manifest")

    @cached_property
    def candidates(self) -> pd.DataFrame:
        """Candidates of all places; see `shard_candidates`."""
        return self.shard_candidates(range(self.num_places))

    def shard_candidates(self, rows: range) -> pd.DataFrame:
        """Candidates of some consecutive places, as rows of place and scene.

        Args:
            rows: Rows of ``places``.

        Returns:
            place_id, lon_deg, lat_deg, rank, row_px, col_px (upper-left pixel of the window on the scene's 10 m grid),
            near_edge, patch_lon_deg, patch_lat_deg and the columns of `Scene`, ordered by place and rank.
        """
        filters = [("place_row", ">=", rows.start), ("place_row", "<", rows.stop)]
        chosen = pq.read_table(self.folder / "candidates.parquet", filters=filters).to_pandas()
        wanted, position = np.unique(chosen.pop("scene_row").to_numpy(), return_inverse=True)
        scenes = pq.read_table(self.folder / "scenes.parquet").take(pa.array(wanted)).to_pandas()
        places = self.places.iloc[chosen.pop("place_row").to_numpy()].reset_index(drop=True)
        parts = [places[["place_id", "lon_deg", "lat_deg"]], chosen, scenes.iloc[position].reset_index(drop=True)]
        return pd.concat(parts, axis=1)

    def candidate_counts(self) -> NDArray[np.int64]:
        """Number of candidates of each place, in the order of ``places``."""
        place_row = pq.read_table(self.folder / "candidates.parquet", columns=["place_row"])["place_row"].to_numpy()
        return np.bincount(place_row, minlength=self.num_places)


def write_sampling_manifest(
    folder: Path, places: pd.DataFrame, scenes: pd.DataFrame, config: PlanConfig, parents: Mapping[str, object]
) -> SamplingManifest:
    """Plans windows and order for every place and makes the plan the present one; the same input gives the same bytes.

    Args:
        folder: The workspace's ``sampling`` folder.
        places: place_id, lon_deg, lat_deg of every place.
        scenes: Scenes from `find_scenes`: columns of `Scene` and ``footprint``.
        config: Order and window.
        parents: What made places and scenes. Their settings are part of the plan, the rest lies beside it: candidates
            that change no row leave the plan, and with it its id, as it was.

    Raises:
        ConfigurationError: scenes of a resolution that the configuration does not allow.
    """
    require_allowed_resolutions(scenes, config)
    candidates = plan_candidates(places, index_scenes(scenes, config), config)
    return write_plan(folder, places, scenes, candidates, plan_record(config, parents), parents)


def require_allowed_resolutions(scenes: pd.DataFrame, config: PlanConfig) -> None:
    """Raises ConfigurationError where a scene's pixel size is not one of ``allowed_resolutions_m``."""
    refused = scenes[~scenes["resolution_m"].isin(config.allowed_resolutions_m)]
    if len(refused):
        first = refused.sort_values(["resolution_m", "item_id"]).iloc[0]
        raise ConfigurationError(
            f"scene {first.item_id}: B02 has a resolution of {first.resolution_m:g} m, expected one of "
            f"{list(config.allowed_resolutions_m)} m; add it to allowed_resolutions_m if it is meant"
        )


def plan_record(config: PlanConfig, parents: Mapping[str, object], base_version: str | None = None) -> dict[str, Any]:
    """What ``plan.json`` says besides the tables: all settings, and the dataset that a refresh builds upon."""
    search = parents.get("search_config")
    if not isinstance(search, dict) or "collection" not in search:
        raise ArtefactError(
            "no search_config with a collection among the parents of the plan, expected scene_candidates' record; "
            "materialize scene_candidates again"
        )
    return {
        "format": PLAN_FORMAT,
        "collection": str(search["collection"]),
        "patch_size_px": config.patch_size_px,
        "base_version": base_version,
        "plan_config": config.model_dump(mode="json"),
        **{name: parents[name] for name in PLANNED_CONFIGS if name in parents},
    }


def write_plan(
    folder: Path,
    places: pd.DataFrame,
    scenes: pd.DataFrame,
    candidates: pd.DataFrame,
    record: Mapping[str, Any],
    parents: Mapping[str, object],
) -> SamplingManifest:
    """Writes a plan from ready tables and makes it the present one.

    Args:
        folder: The workspace's ``sampling`` folder.
        places: place_id, lon_deg, lat_deg, in the order of the store's rows.
        scenes: Columns of `Scene`; those that no candidate uses are left out.
        candidates: Columns of ``CANDIDATE_TYPES``, ordered by place_row and rank.
        record: From `plan_record`.
        parents: Kept beside the plan for people; not part of it.
    """
    used, position = np.unique(candidates["scene_row"].to_numpy(), return_inverse=True)
    partial = folder / "plans" / f"{uuid4().hex}.partial"
    partial.mkdir(parents=True)
    try:
        write_table(partial / "places.parquet", places[["place_id", "lon_deg", "lat_deg"]])
        write_plain_table(partial / "scenes.parquet", scenes.drop(columns="footprint", errors="ignore").iloc[used])
        write_plain_table(
            partial / "candidates.parquet", candidates.assign(scene_row=position.astype(np.int32)), ROWS_PER_GROUP
        )
        tables = {name: file_sha256(partial / f"{name}.parquet") for name in TABLES}
        said = {**record, "num_places": len(places), "num_candidates": len(candidates), "sha256": tables}
        target = folder / "plans" / content_hash(said)[:PLAN_ID_LENGTH]
        write_json(partial / "plan.json", said)
        if not (target / "plan.json").is_file():
            partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    write_json(target / "parents.json", dict(parents))
    write_json(folder / POINTER, {"plan_id": target.name})
    logger.info("plan %s: %d places, %d candidates", target.name, len(places), len(candidates))
    return open_plan(target)


def open_plan(folder: Path) -> SamplingManifest:
    """Opens a plan by its folder.

    Raises:
        ArtefactError: it is missing, of another format, or changed since it was written.
    """
    path = folder / "plan.json"
    if not path.is_file():
        raise ArtefactError(f"{path}: no such file, expected a plan; materialize sampling_manifest")
    record = json.loads(path.read_text())
    if record.get("format") != PLAN_FORMAT:
        raise ArtefactError(
            f"{path}: plan of format {record.get('format')}, expected {PLAN_FORMAT}; "
            "materialize sampling_manifest again"
        )
    if content_hash(record)[:PLAN_ID_LENGTH] != folder.name:
        raise ArtefactError(
            f"{path}: its content is that of plan {content_hash(record)[:PLAN_ID_LENGTH]}; a plan is never edited: "
            "restore the file, or materialize sampling_manifest again"
        )
    return SamplingManifest(
        folder=folder,
        collection=record["collection"],
        num_places=record["num_places"],
        patch_size_px=record["patch_size_px"],
        base_version=record["base_version"],
        record=record,
    )


def read_sampling_manifest(folder: Path) -> SamplingManifest:
    """Opens the present plan of a workspace's ``sampling`` folder; raises ArtefactError where there is none."""
    pointer = folder / POINTER
    if not pointer.is_file():
        raise ArtefactError(f"{pointer}: no plan there; materialize sampling_manifest first")
    return open_plan(folder / "plans" / str(json.loads(pointer.read_text())["plan_id"]))
