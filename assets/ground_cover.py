"""Ground cover of the patches: labels from a land-cover map."""

import dagster as dg
from pydantic import Field

from assets.patches import patch_dataset
from assets.presets import preset_defaults
from assets.resources import CatalogResource, DaskResource, WorkspaceResource
from pipelines.ground_cover.config import LabelsConfig

GROUP = "ground_cover"
MINIMUM_LABELED_SHARE = 0.5
"""Share of the patches that need a label: with fewer, what is missing follows the map's gaps."""


@preset_defaults("ground_cover_labels")
class GroundCoverLabelsConfig(LabelsConfig, dg.Config):
    """Which map the labels are from, and which of them are accepted."""

    dataset_version: str = Field(default="latest", description="Which dataset.")


@dg.asset(group_name=GROUP, kinds={"geoparquet", "zarr"}, deps=[patch_dataset])
def ground_cover_labels(
    config: GroundCoverLabelsConfig, workspace: WorkspaceResource, catalog: CatalogResource, dask: DaskResource
) -> dg.MaterializeResult:
    """Shares of land-cover classes in every patch, from the map of the year nearest to it, on the patch's own grid.

    Every place of the dataset has a label or the reason why it has none. A finished shard is skipped.
    """
    from assets.metadata import label_metadata
    from pipelines.ground_cover.labels import LABELS_NAME
    from pipelines.ground_cover.map_labels import build_labels
    from pipelines.patches.dataset import open_patch_dataset
    from pipelines.provenance import file_sha256

    dataset = open_patch_dataset(workspace.path, config.dataset_version)
    settings = LabelsConfig(**config.model_dump(include=set(LabelsConfig.model_fields)))
    source = (catalog.url, catalog.signing, catalog.profile)
    folder = build_labels(workspace.path, dataset, settings, source, dask.stream)
    return dg.MaterializeResult(
        metadata=label_metadata(folder), data_version=dg.DataVersion(file_sha256(folder / LABELS_NAME))
    )


@dg.asset_check(asset=ground_cover_labels, blocking=True)
def labels_can_be_learned(workspace: WorkspaceResource) -> dg.AssetCheckResult:
    """At least half of the patches have a label, and these are of at least two classes."""
    from pipelines.ground_cover.labels import NO_PATCH, read_labels
    from pipelines.ground_cover.map_labels import latest_labels_folder
    from pipelines.patches.dataset import resolve_version

    labels = read_labels(latest_labels_folder(workspace.path, resolve_version(workspace.path)))
    num_patches = sum(each != NO_PATCH for each in labels.status)
    share = float(labels.valid.sum()) / max(num_patches, 1)
    num_classes = len(set(labels.dominant_code[labels.valid].tolist()))
    return dg.AssetCheckResult(
        passed=share >= MINIMUM_LABELED_SHARE and num_classes > 1,
        metadata={
            "share_with_label": share,
            "expected_at_least": MINIMUM_LABELED_SHARE,
            "dominant_classes": num_classes,
            "expected_classes_at_least": 2,
            "statuses": dg.MetadataValue.json(labels.counts()),
        },
    )


@dg.asset_check(asset=ground_cover_labels)
def codes_are_known(workspace: WorkspaceResource) -> dg.AssetCheckResult:
    """The mapping names every code that the map uses, and every file of the map could be read; a warning."""
    from pipelines.ground_cover.labels import read_labels_record
    from pipelines.ground_cover.map_labels import latest_labels_folder
    from pipelines.patches.dataset import resolve_version

    record = read_labels_record(latest_labels_folder(workspace.path, resolve_version(workspace.path)))
    unknown, failures = record.get("unknown_codes", {}), record.get("failures", {})
    return dg.AssetCheckResult(
        passed=not unknown and not failures,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "pixels_of_unknown_codes": dg.MetadataValue.json(unknown),
            "unreadable_files": dg.MetadataValue.json(failures),
            "unusable_items": dg.MetadataValue.json(record.get("unusable_map_items", {})),
        },
    )


GROUND_COVER_ASSETS = [ground_cover_labels]
GROUND_COVER_CHECKS = [labels_can_be_learned, codes_are_known]
