"""The plan: an ordered list of candidate scenes and a window for every place."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyproj import Transformer

from pipelines.atomic import write_json
from pipelines.errors import ArtefactError, ConfigurationError
from pipelines.provenance import content_hash, file_sha256
from pipelines.sampling.config import PlanConfig
from pipelines.sampling.tables import read_record, read_table, write_table

CLOUD_COVER_BIN_PERCENT = 5.0
PLAN_ID_LENGTH = 12
PLANNED_CONFIGS = ("places_config", "search_config")


@dataclass(frozen=True)
class SamplingManifest:
    """The plan of a dataset.

    Attributes:
        plan_id: First twelve hex digits of the SHA-256 of the plan's file; names the dataset version.
        collection: STAC collection of the scenes.
        candidates: One row per place and candidate, ordered by place_id and rank: place_id, rank, row_px, col_px (upper
            left pixel of the window on the scene's 10 m grid), window_shifted, and the columns of `Scene`.
        places: place_id, lon_deg, lat_deg of every place, with or without candidates.
        patch_size_px: Side of a patch.
    """

    plan_id: str
    collection: str
    candidates: pd.DataFrame
    places: pd.DataFrame
    patch_size_px: int

    @property
    def num_places(self) -> int:
        """Places planned, including those without a candidate."""
        return len(self.places)


def plan_windows(pairs: pd.DataFrame, patch_size_px: int) -> pd.DataFrame:
    """Adds the window of each place on each of its scenes.

    The window is centred on the place and snapped to the scene's grid. Where it would leave the scene it is shifted
    inwards, as long as it still holds the place.

    Args:
        pairs: Pairs of place and scene from `find_scenes`.
        patch_size_px: Side of the window in pixels of the 10 m grid.

    Returns:
        The pairs that have a window, with row_px, col_px, window_shifted, and lon/lat of the window's centre as
        patch_lon_deg, patch_lat_deg.
    """
    planned = []
    for epsg, group in pairs.groupby("epsg", sort=True):
        to_utm = Transformer.from_crs(4326, int(epsg), always_xy=True)
        x_m, y_m = to_utm.transform(group["lon_deg"].to_numpy(), group["lat_deg"].to_numpy())
        resolution_m = group["resolution_m"].to_numpy()
        col = (x_m - group["x_ul_m"].to_numpy()) / resolution_m
        row = (group["y_ul_m"].to_numpy() - y_m) / resolution_m
        width, height = group["width_px"].to_numpy(), group["height_px"].to_numpy()
        inside = (col >= 0) & (col < width) & (row >= 0) & (row < height)
        inside &= (width >= patch_size_px) & (height >= patch_size_px)
        centred_col, centred_row = (np.round(each).astype(np.int64) - patch_size_px // 2 for each in (col, row))
        col_px = np.clip(centred_col, 0, width - patch_size_px)
        row_px = np.clip(centred_row, 0, height - patch_size_px)
        centre_x_m = group["x_ul_m"].to_numpy() + (col_px + patch_size_px / 2) * resolution_m
        centre_y_m = group["y_ul_m"].to_numpy() - (row_px + patch_size_px / 2) * resolution_m
        lon_deg, lat_deg = to_utm.transform(centre_x_m, centre_y_m, direction="INVERSE")
        windows = group.assign(
            row_px=row_px,
            col_px=col_px,
            window_shifted=(col_px != centred_col) | (row_px != centred_row),
            patch_lon_deg=lon_deg,
            patch_lat_deg=lat_deg,
        )
        planned.append(windows[inside])
    return pd.concat(planned).sort_values(["place_id", "item_id"], kind="stable").reset_index(drop=True)


def order_candidates(windows: pd.DataFrame, config: PlanConfig) -> pd.DataFrame:
    """Ranks the candidates of each place and keeps the first ``max_candidates``.

    Centred windows come before shifted ones, then lower scene cloud cover in steps of 5 %, then a seeded draw, which
    spreads the dates. The draw of a scene depends on seed, place and item alone.
    """
    draw = [
        content_hash([config.seed, int(place), item])
        for place, item in zip(windows["place_id"], windows["item_id"], strict=True)
    ]
    cloud_bin = np.floor(windows["scene_cloud_cover_percent"] / CLOUD_COVER_BIN_PERCENT)
    ordered = (
        windows.assign(_cloud_bin=cloud_bin, _draw=draw)
        .sort_values(["place_id", "window_shifted", "_cloud_bin", "_draw"], kind="stable")
        .drop(columns=["_cloud_bin", "_draw"])
    )
    rank = ordered.groupby("place_id").cumcount()
    ordered.insert(1, "rank", rank)
    return ordered[rank < config.max_candidates].reset_index(drop=True)


def write_sampling_manifest(
    path: Path, places: pd.DataFrame, pairs: pd.DataFrame, config: PlanConfig, parents: Mapping[str, object]
) -> SamplingManifest:
    """Plans windows and order, and writes the plan; the same input gives the same bytes.

    A place without a candidate keeps one row of rank -1, so that it is not forgotten.

    Args:
        path: The file.
        places: place_id, lon_deg, lat_deg of every place.
        pairs: Places and scenes from `find_scenes`.
        config: Order and window.
        parents: What made places and scenes. Their settings are kept in the file, all of it in a JSON file beside it:
            candidates that change no row leave the plan's bytes, and with them its id, as they were.

    Raises:
        ConfigurationError: scenes of a resolution that the configuration does not allow.
    """
    found = {float(value) for value in pairs["resolution_m"].unique()}
    refused = sorted(found - set(config.allowed_resolutions_m))
    if refused:
        example = pairs.loc[pairs["resolution_m"].isin(refused), "item_id"].iloc[0]
        raise ConfigurationError(
            f"scene {example}: B02 has a resolution of {refused[0]:g} m, expected one of "
            f"{list(config.allowed_resolutions_m)} m; add it to allowed_resolutions_m if it is meant"
        )
    ranked = order_candidates(plan_windows(pairs, config.patch_size_px), config)
    without = places[~places["place_id"].isin(ranked["place_id"])]
    rows = pd.concat([ranked, without.assign(rank=-1)]).sort_values(["place_id", "rank"], kind="stable")
    integers = ("place_id", "rank", "epsg", "width_px", "height_px", "boa_add_offset", "relative_orbit")
    for name in (*integers, "row_px", "col_px"):
        rows[name] = rows[name].astype("Int64")
    rows["window_shifted"] = rows["window_shifted"].astype("boolean")
    settings = config.model_dump(mode="json")
    kept = {name: value for name, value in parents.items() if name in PLANNED_CONFIGS}
    write_table(path, rows, {**kept, "plan_config": settings, "plan_config_sha256": content_hash(settings)})
    write_json(path.with_suffix(".parents.json"), dict(parents))
    return read_sampling_manifest(path)


def read_sampling_manifest(path: Path) -> SamplingManifest:
    """Reads a plan; raises ArtefactError where the file is missing."""
    rows = read_table(path, asset="sampling_manifest")
    places = rows.drop_duplicates("place_id")[["place_id", "lon_deg", "lat_deg"]].reset_index(drop=True)
    record = read_record(path)
    plan, search = record.get("plan_config"), record.get("search_config")
    if not isinstance(plan, dict) or not isinstance(search, dict):
        raise ArtefactError(
            f"{path}: no plan_config and search_config in its record, expected a sampling manifest; "
            "materialize sampling_manifest again"
        )
    return SamplingManifest(
        plan_id=file_sha256(path)[:PLAN_ID_LENGTH],
        candidates=rows[rows["rank"] >= 0].reset_index(drop=True),
        places=places,
        collection=str(search["collection"]),
        patch_size_px=int(plan["patch_size_px"]),
    )


def candidate_counts(manifest: SamplingManifest) -> NDArray[np.int64]:
    """Number of candidates of each place, in the order of ``places``."""
    counts = manifest.candidates.groupby("place_id").size()
    per_place: NDArray[np.int64] = counts.reindex(manifest.places["place_id"], fill_value=0).to_numpy(dtype=np.int64)
    return per_place
