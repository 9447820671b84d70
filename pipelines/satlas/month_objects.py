"""The objects of a month: all tiles merged, once per set of predictions."""

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipelines.atomic import replacing, write_json
from pipelines.errors import ArtefactError
from pipelines.provenance import content_hash, file_sha256
from pipelines.satlas.geometry import areas_m2
from pipelines.satlas.history import places_of
from pipelines.satlas.merging import gather_lonlat, merge_points, merge_polygons, usable_objects
from pipelines.satlas.observations import ObservedMonth
from pipelines.satlas.pending import pending_tiles
from pipelines.satlas.predictions import (
    RECORD_FILE,
    TASK_KINDS,
    THRESHOLDS_NAME,
    TileGrid,
    TilePredictions,
    list_predictions,
    read_predictions,
    read_record,
)
from pipelines.satlas.product_config import (
    DEFAULT_MIN_SCORE,
    PUBLISHED_CATEGORIES,
    UNPUBLISHED_CATEGORIES,
    ProductConfig,
)

if TYPE_CHECKING:
    import geopandas
    import pandas

logger = logging.getLogger(__name__)

MERGING_SETTINGS: Final = {"min_score", "merge_distance_m", "gap_m", "min_area_m2"}
MERGING_VERSION: Final = 2
"""Raised where merging changes, so that what was kept is made again."""


@dataclass(frozen=True)
class MonthObjects:
    """A month's objects of all tiles, merged.

    Attributes:
        month: ``YYYY-MM``.
        objects: WGS 84, columns category, score, geometry.
        observed: Where there were images.
        rejected: How many objects cannot be published, by reason.
        failures: Why a tile could not be read, by its name; the others went on.
        tiles: Hash of each tile's record that was read.
        radiometry: What the tiles say of the scaling of their images.
    """

    month: str
    objects: "geopandas.GeoDataFrame"
    observed: ObservedMonth
    rejected: Mapping[str, int]
    failures: Mapping[str, str]
    tiles: Mapping[str, str]
    radiometry: Sequence[str]


def read_month(root: Path, task: str, month: str, config: ProductConfig) -> MonthObjects:
    """All tiles of a month as one set of objects; a tile that cannot be read is noted, the others go on.

    A month that is not predicted to its end has none.

    What was merged is kept in ``satlas/merged/TASK`` and taken from there while the tiles' records and the settings
    of merging stay the same, so that a new month does not read the tiles of all earlier ones.
    """
    folders = [] if pending_tiles(root, task, month) else list_predictions(root, task, month)
    hashes = {folder.name: file_sha256(folder / RECORD_FILE) for folder in folders}
    settings = config.model_dump(mode="json", include=MERGING_SETTINGS)
    key = content_hash({"tiles": hashes, "config": settings, "version": MERGING_VERSION})
    path = root / "satlas" / "merged" / task / f"{month}.parquet"
    return _read_kept(path, key, folders, hashes) or _merge_tiles(path, key, task, month, folders, hashes, config)


def _read_kept(path: Path, key: str, folders: Sequence[Path], hashes: Mapping[str, str]) -> MonthObjects | None:
    """What was merged from the same tiles, if it is whole."""
    import geopandas

    told = path.with_suffix(".json")
    if not told.is_file() or not path.is_file():
        return None
    record = json.loads(told.read_text())
    if record["key"] != key or file_sha256(path) != record["sha256"]:
        return None
    observed = ObservedMonth([(TileGrid(**read_record(folder)["grid"]), folder) for folder in folders])
    objects = geopandas.read_parquet(path)
    return MonthObjects(path.stem, objects, observed, record["rejected"], {}, dict(hashes), record["radiometry"])


def _merge_tiles(
    path: Path,
    key: str,
    task: str,
    month: str,
    folders: Sequence[Path],
    hashes: Mapping[str, str],
    config: ProductConfig,
) -> MonthObjects:
    names = PUBLISHED_CATEGORIES[task]
    polygons = TASK_KINDS[task] == "polygons"
    rejected: Counter[str] = Counter()
    failures: dict[str, str] = {}
    radiometry: set[str] = set()
    tiles: list[tuple[TileGrid, Path]] = []
    objects: list[geopandas.GeoDataFrame] = []
    for folder in folders:
        try:
            tile = read_predictions(folder)
        except ArtefactError as error:
            logger.warning("tile left out: %s", error)
            failures[folder.name] = str(error)
            continue
        radiometry.add(str(tile.parents.get("radiometry", "not stated")))
        tiles.append((tile.grid, folder))
        assert tile.objects is not None
        kept, wrong = usable_objects(tile.objects, (*names, *UNPUBLISHED_CATEGORIES), polygons=polygons)
        rejected.update(wrong)
        is_likely = kept["score"] >= _least_scores(kept, tile, config)
        objects.append(kept[is_likely & kept["category"].isin(list(names))])
    observed = ObservedMonth(tiles)
    gathered = gather_lonlat(objects)
    seen = observed.num_periods(places_of(gathered)) > 0
    rejected["no image there"] += int((~seen).sum())
    merged = _merge(gathered[seen].assign(category=gathered["category"].map(names)), config, polygons=polygons)
    read = {folder.name: hashes[folder.name] for _, folder in tiles}
    found = MonthObjects(month, merged, observed, dict(+rejected), failures, read, sorted(radiometry))
    if tiles and not failures:
        _keep(path, key, found)
    return found


def _least_scores(
    objects: "geopandas.GeoDataFrame", tile: TilePredictions, config: ProductConfig
) -> "float | pandas.Series":
    """The score that each object must reach."""
    if config.min_score is not None:
        return config.min_score
    return objects["category"].map(tile.parents.get(THRESHOLDS_NAME, {})).fillna(DEFAULT_MIN_SCORE)


def _keep(path: Path, key: str, found: MonthObjects) -> None:
    with replacing(path) as partial:
        found.objects.to_parquet(partial, index=False)
    record: dict[str, Any] = {"key": key, "sha256": file_sha256(path), "rejected": dict(found.rejected)}
    write_json(path.with_suffix(".json"), {**record, "radiometry": list(found.radiometry)})


def _merge(objects: "geopandas.GeoDataFrame", config: ProductConfig, *, polygons: bool) -> "geopandas.GeoDataFrame":
    if not polygons:
        return merge_points(objects, config.merge_distance_m)
    merged = merge_polygons(objects, config.gap_m)
    return merged[areas_m2(merged.geometry.to_numpy()) >= config.min_area_m2].reset_index(drop=True)
