"""Places, their candidate scenes, and the plan."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from assets.presets import preset_defaults
from assets.resources import CatalogResource, WorkspaceResource
from pipelines.sampling.config import PlacesConfig, PlanConfig, SearchConfig

if TYPE_CHECKING:
    import pandas as pd

    from pipelines.sampling.refresh import RefreshReport

GROUP = "sampling"


@preset_defaults("sample_points")
class SamplePointsConfig(PlacesConfig, dg.Config):
    """Which places are drawn."""


@preset_defaults("scene_candidates")
class SceneCandidatesConfig(SearchConfig, dg.Config):
    """Which scenes are candidates, and how the catalog is asked."""


@preset_defaults("sampling_manifest")
class SamplingManifestConfig(PlanConfig, dg.Config):
    """How many candidates a place keeps, and which window is cut."""


@dg.asset(group_name=GROUP, kinds={"python", "geoparquet"})
def sample_points(config: SamplePointsConfig, workspace: WorkspaceResource) -> dg.MaterializeResult:
    """Places drawn uniformly by area over land (GSHHG shorelines), from an explicit seed."""
    from assets.metadata import sample_map
    from pipelines.provenance import file_sha256
    from pipelines.sampling.points import write_sample_points

    path = workspace.path / "sampling" / "sample_points.parquet"
    places = write_sample_points(path, config)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(places),
            "path": dg.MetadataValue.path(path),
            "map": sample_map(places.assign(valid=True)),
            "seed": config.seed,
            "share_north_of_60": float((places["lat_deg"] > 60).mean()),
        },
        data_version=dg.DataVersion(file_sha256(path)),
    )


@dg.asset(group_name=GROUP, kinds={"stac", "geoparquet"}, deps=[sample_points])
def scene_candidates(
    config: SceneCandidatesConfig, workspace: WorkspaceResource, catalog: CatalogResource
) -> dg.MaterializeResult:
    """Every scene that holds a place, within dates and cloud cover, duplicates of an acquisition resolved."""
    from pipelines.provenance import file_sha256
    from pipelines.sampling.points import read_sample_points
    from pipelines.sampling.scenes import find_scenes, write_scene_candidates
    from pipelines.sampling.tables import read_record

    points_path = workspace.path / "sampling" / "sample_points.parquet"
    path = workspace.path / "sampling" / "scene_candidates.parquet"
    places = read_sample_points(points_path)
    cache = workspace.path / "cache" / "items"
    scenes, report = find_scenes(places, catalog.open(config.collection), config, cache_folder=cache)
    write_scene_candidates(
        path,
        scenes,
        {**read_record(points_path), "search_config": config.model_dump(), "points": file_sha256(points_path)},
    )
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(scenes),
            "path": dg.MetadataValue.path(path),
            "source": report.source if not report.reason else f"{report.source} ({report.reason})",
            "searches": report.num_searches,
            "searches_answered_by_cache": report.num_cached,
            "requests": report.num_requests,
            "requests_per_1000_places": round(report.requests_per_1000_places, 1),
            "items_found": report.num_items,
            "scenes": report.num_scenes,
            "duplicates_resolved": report.num_duplicates,
            "places_without_scene": report.places_without_scene,
            "unusable_items": dg.MetadataValue.json(report.unusable_items),
            "seconds": round(report.seconds, 1),
        },
        data_version=dg.DataVersion(file_sha256(path)),
    )


@dg.asset(group_name=GROUP, kinds={"python", "geoparquet"}, deps=[sample_points, scene_candidates])
def sampling_manifest(config: SamplingManifestConfig, workspace: WorkspaceResource) -> dg.MaterializeResult:
    """The plan: per place an ordered list of candidate scenes and a window. The same input gives the same bytes.

    A refresh plans only what the latest dataset lacks; where it lacks nothing the present plan stays.
    """
    from pipelines.provenance import file_sha256
    from pipelines.sampling.manifest import read_sampling_manifest
    from pipelines.sampling.points import read_sample_points
    from pipelines.sampling.scenes import read_scene_candidates
    from pipelines.sampling.tables import read_record

    folder = workspace.path / "sampling"
    scenes_path = folder / "scene_candidates.parquet"
    places, scenes = read_sample_points(folder / "sample_points.parquet"), read_scene_candidates(scenes_path)
    parents = {**read_record(scenes_path), "candidates": file_sha256(scenes_path)}
    report = _plan(workspace.path, places, scenes, config, parents)
    manifest = read_sampling_manifest(folder)
    counts = manifest.candidate_counts()
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": int(counts.sum()),
            "path": dg.MetadataValue.path(manifest.folder),
            "plan_id": manifest.plan_id,
            "base_version": manifest.base_version or "none",
            "places": manifest.num_places,
            "places_without_candidate": int((counts == 0).sum()),
            "candidates_per_place": float(counts.mean()),
            **(
                {f"refresh_{name.removeprefix('num_')}": count for name, count in asdict(report).items()}
                if report
                else {}
            ),
        },
        data_version=dg.DataVersion(manifest.plan_id),
    )


def _plan(
    root: Path, places: "pd.DataFrame", scenes: "pd.DataFrame", config: PlanConfig, parents: dict[str, object]
) -> "RefreshReport | None":
    """Plans the whole dataset, or what its latest version lacks."""
    from pipelines.patches.dataset import latest_version, open_patch_dataset
    from pipelines.sampling.manifest import write_sampling_manifest
    from pipelines.sampling.refresh import BaseDataset, plan_refresh

    folder, version = root / "sampling", latest_version(root)
    if not config.refresh or version is None:
        write_sampling_manifest(folder, places, scenes, config, parents)
        return None
    base = BaseDataset(version, open_patch_dataset(root, version).places)
    return plan_refresh(folder, places, scenes, config, parents, base)[1]
