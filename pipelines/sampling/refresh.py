"""A refresh: planning only what the latest dataset lacks."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.errors import ConfigurationError
from pipelines.sampling.candidates import Eligibility, index_scenes, item_hash, pair_hashes, plan_candidates
from pipelines.sampling.config import PlanConfig
from pipelines.sampling.manifest import (
    SamplingManifest,
    plan_record,
    require_allowed_resolutions,
    write_plan,
)

logger = logging.getLogger(__name__)

ANY_DAY: Final = np.iinfo(np.int64).min


@dataclass(frozen=True)
class BaseDataset:
    """What a refresh needs to know of the dataset that it builds upon.

    Attributes:
        version: Its id.
        places: place_id, place_lon_deg, place_lat_deg, valid, datetime (ISO 8601, empty without a patch), item_id,
            rejections (JSON list of [item id, verdict]).
    """

    version: str
    places: pd.DataFrame


@dataclass(frozen=True)
class RefreshReport:
    """How many places a refresh plans, by cause."""

    num_new: int
    num_without_patch: int
    num_old: int


def plan_refresh(
    folder: Path,
    places: pd.DataFrame,
    scenes: pd.DataFrame,
    config: PlanConfig,
    parents: Mapping[str, object],
    base: BaseDataset,
) -> tuple[SamplingManifest | None, RefreshReport]:
    """Plans the places that the base lacks, and makes that plan the present one.

    Planned are: places that the base does not know; places without a patch, where a scene is now among the first
    ``max_candidates`` that was not tried before; and, with ``max_age_days``, places whose patch was acquired more than
    that before the search's end date, where a scene that young was not tried before. All others stay as they are.

    Args:
        folder: The workspace's ``sampling`` folder.
        places: place_id, lon_deg, lat_deg of every place that the refreshed dataset is to have.
        scenes: Scenes from `find_scenes`.
        config: Order, window, ``max_age_days``.
        parents: What made places and scenes; must hold ``search_config``.
        base: The dataset to refresh.

    Returns:
        The plan, or None where nothing is lacking (the present plan stays), and the counts.

    Raises:
        ConfigurationError: the base holds other places, or a scene has a resolution that is not allowed.
    """
    require_allowed_resolutions(scenes, config)
    record = plan_record(config, parents, base.version)
    known = places[["place_id"]].merge(base.places, on="place_id", how="left")
    is_new = known["valid"].isna().to_numpy()
    _require_same_places(places, known, is_new, base.version)
    valid = known["valid"].astype("boolean").fillna(value=False).to_numpy(dtype=bool)
    earliest = _earliest_days(known, valid, str(record["search_config"]["end_date"]), config)
    asked = is_new | ~valid | (earliest != ANY_DAY)
    subset = places[asked].reset_index(drop=True)
    eligible = Eligibility(earliest_day=earliest[asked], tried=_tried(known[asked]))
    candidates = plan_candidates(subset, index_scenes(scenes, config), config, eligible)
    num_candidates = np.bincount(candidates["place_row"], minlength=len(subset))
    planned = (num_candidates > 0) | is_new[asked]
    report = RefreshReport(
        num_new=int(is_new.sum()),
        num_without_patch=int((planned & ~is_new[asked] & ~valid[asked]).sum()),
        num_old=int((planned & valid[asked]).sum()),
    )
    logger.info("refresh of dataset %s: %s", base.version, report)
    if not planned.any():
        return None, report
    new_row = np.cumsum(planned) - 1
    candidates["place_row"] = new_row[candidates["place_row"]].astype(np.int32)
    manifest = write_plan(folder, subset[planned].reset_index(drop=True), scenes, candidates, record, parents)
    return manifest, report


def _require_same_places(places: pd.DataFrame, known: pd.DataFrame, is_new: NDArray[np.bool_], version: str) -> None:
    asked = places[["lon_deg", "lat_deg"]].to_numpy()
    moved = ~is_new & (asked != known[["place_lon_deg", "place_lat_deg"]].to_numpy()).any(axis=1)
    if moved.any():
        row = int(np.flatnonzero(moved)[0])
        lon_deg, lat_deg = known.loc[row, ["place_lon_deg", "place_lat_deg"]]
        raise ConfigurationError(
            f"dataset {version} has place {places['place_id'].iloc[row]} at lon {lon_deg:.5f}, lat {lat_deg:.5f}, "
            f"expected lon {asked[row, 0]:.5f}, lat {asked[row, 1]:.5f}: it was drawn otherwise; draw the places with "
            "its seed and bbox, or plan the whole dataset anew with refresh set to false"
        )


def _earliest_days(
    known: pd.DataFrame, valid: NDArray[np.bool_], end_date: str, config: PlanConfig
) -> NDArray[np.int64]:
    """First acquisition day that would renew each place's patch; ``ANY_DAY`` where it has none or is young enough."""
    earliest = np.full(len(known), ANY_DAY, dtype=np.int64)
    if config.max_age_days is None:
        return earliest
    oldest = np.datetime64(end_date, "D").astype(np.int64) - config.max_age_days
    acquired = pd.to_datetime(known["datetime"].where(valid), utc=True, format="ISO8601").to_numpy("datetime64[D]")
    earliest[valid & (acquired.astype(np.int64) < oldest)] = oldest
    return earliest


def _tried(known: pd.DataFrame) -> NDArray[np.uint64]:
    """Sorted hashes of the pairs of place and item that the base holds or rejected."""
    place_ids, items = [], []
    for place_id, item_id, rejections in zip(
        known["place_id"], known["item_id"].fillna(""), known["rejections"].fillna("[]"), strict=True
    ):
        tried = [item for item, _ in json.loads(rejections)] + ([item_id] if item_id else [])
        items += tried
        place_ids += [place_id] * len(tried)
    hashes = np.fromiter((item_hash(item) for item in items), np.uint64, len(items))
    return np.sort(pair_hashes(np.asarray(place_ids, dtype=np.int64), hashes))
