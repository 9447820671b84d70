"""Windows from scenes into the store, and the store into a dataset that passed its checks."""

import dagster as dg
from pydantic import Field

from assets.partitions import NUM_PARTITIONS, PATCH_PARTITIONS
from assets.presets import preset_defaults
from assets.resources import CatalogResource, DaskResource, WorkspaceResource
from assets.sampling import sampling_manifest
from pipelines.patches.config import PatchConfig

GROUP = "dataset"


@preset_defaults("patches")
class PatchesConfig(PatchConfig, dg.Config):
    """How patches are read and which are accepted."""


@preset_defaults("patch_dataset")
class PatchDatasetConfig(dg.Config):
    """When a store becomes a dataset."""

    minimum_valid_fraction: float = Field(default=0.5, ge=0, le=1, description="Share of places that need a patch.")


@dg.asset(
    group_name=GROUP,
    kinds={"sentinel2", "zarr"},
    deps=[sampling_manifest],
    partitions_def=PATCH_PARTITIONS,
    backfill_policy=dg.BackfillPolicy.single_run(),
)
def patches(
    context: dg.AssetExecutionContext,
    config: PatchesConfig,
    workspace: WorkspaceResource,
    catalog: CatalogResource,
    dask: DaskResource,
) -> dg.MaterializeResult:
    """Patches of 256 x 256 pixels and 12 bands as delivered, whole shards of 256 per partition.

    Candidates are tried in the plan's order, the scene classification first. A finished shard is skipped.
    """
    from assets.metadata import partition_metadata
    from pipelines.patches.shards import ShardReport, ShardTask, run_shard_task, shards_of_partition, store_schema
    from pipelines.sampling.manifest import read_sampling_manifest

    manifest = read_sampling_manifest(workspace.path / "sampling")
    own_shards = store_schema(workspace.path, manifest).own_shards
    shards = {
        key: [own_shards[number] for number in shards_of_partition(int(key), NUM_PARTITIONS, len(own_shards))]
        for key in context.partition_keys
    }
    tasks = [
        ShardTask(workspace.path, manifest.folder, shard, catalog.url, catalog.signing, config, catalog.profile)
        for each in shards.values()
        for shard in each
    ]
    reports: dict[int, ShardReport] = {}
    done = {key: partition_metadata([]) for key, each in shards.items() if not each}
    try:
        for _, report in dask.stream(run_shard_task, tasks):
            reports[report.shard] = report
            for key, each in shards.items():
                if report.shard in each and reports.keys() >= set(each):
                    done[key] = partition_metadata([reports[shard] for shard in each])
    except BaseException:
        for key, facts in done.items():
            context.log_event(dg.AssetMaterialization(context.asset_key, partition=key, metadata=facts))
        raise
    for key, facts in done.items():
        context.add_asset_metadata(facts, partition_key=key)
    return dg.MaterializeResult()


@dg.asset(group_name=GROUP, kinds={"zarr", "geoparquet"}, deps=[patches])
def patch_dataset(config: PatchDatasetConfig, workspace: WorkspaceResource) -> dg.MaterializeResult:
    """All shards verified, band statistics, the replay manifest; published as the latest dataset when it passes."""
    from assets.metadata import dataset_metadata
    from pipelines.patches.publication import publish_dataset
    from pipelines.patches.quality_page import drawn_bbox, write_quality_page
    from pipelines.sampling.manifest import read_sampling_manifest

    manifest = read_sampling_manifest(workspace.path / "sampling")
    bbox = drawn_bbox(workspace.path / "sampling" / "sample_points.parquet")
    record = publish_dataset(
        workspace.path,
        manifest.plan_id,
        source=manifest.collection,
        minimum_valid_fraction=config.minimum_valid_fraction,
        describe=lambda dataset: write_quality_page(dataset, dataset.path, bbox),
    )
    return dg.MaterializeResult(
        metadata=dataset_metadata(workspace.path, record), data_version=dg.DataVersion(record.content_sha256)
    )
