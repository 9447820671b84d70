"""A refresh as Dagster sees it: what did not change leaves what comes after it fresh."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from assets.features import image_features
from assets.partitions import WHOLE_RANGE_TAGS
from assets.patches import patch_dataset, patches
from assets.resources import CatalogResource, DaskResource, WorkspaceResource
from assets.sampling import sampling_manifest, scene_candidates
from pipelines.patches.dataset import open_patch_dataset
from pipelines.sampling.tables import write_table
from tests.loopback.cog import CogServer
from tests.loopback.coordinate_scene import CoordinateScene, SclBlock, collection
from tests.loopback.stub_stac import StubStac

pytestmark = [pytest.mark.network, pytest.mark.slow]

ASSETS = [scene_candidates, sampling_manifest, patches, patch_dataset, image_features]
SCENE = CoordinateScene(32632, 399960, 5300040, "32TLT", scl_blocks=[SclBlock(0, 0, 150, 150, 9)])
LATER = replace(SCENE, acquired=datetime(2022, 8, 1, 10, 20, 31, tzinfo=UTC), scene_number=2, scl_blocks=())
PLACES = [SCENE.lonlat_at(500, 500), SCENE.lonlat_at(150, 150)]


class Desk:
    """A workspace of two places, the second under cloud, and Dagster's memory of it."""

    def __init__(self, server: CogServer, stub: StubStac, root: Path, instance: dg.DagsterInstance) -> None:
        self.server, self.stub, self.root, self.instance = server, stub, root, instance
        table = pd.DataFrame(PLACES, columns=["lon_deg", "lat_deg"])
        table.insert(0, "place_id", range(len(PLACES)))
        write_table(root / "sampling" / "sample_points.parquet", table)

    @property
    def resources(self) -> dict[str, dg.ConfigurableResource]:
        return {
            "workspace": WorkspaceResource(root=str(self.root)),
            "catalog": CatalogResource(stac_url=self.server.stac_url),
            "dask": DaskResource(),
        }

    def serve(self, *scenes: CoordinateScene) -> None:
        for scene in scenes:
            scene.write(self.server.folder)
            self.stub.items.append(scene.item(self.server.cog_url))

    def run(self, *chosen: dg.AssetsDefinition, refresh: bool = False) -> None:
        names = {each.key.to_user_string() for each in chosen}
        operations: dict[str, Any] = {
            "scene_candidates": {"config": {"cache_max_age_days": 0}},
            "sampling_manifest": {"config": {"refresh": refresh}},
            "patches": {"config": {"backoff_s": 0.0}},
            "image_features": {"config": {"num_filters": 2}},
        }
        result = dg.materialize(
            [*ASSETS],
            selection=sorted(names),
            run_config={"ops": {name: value for name, value in operations.items() if name in names}},
            resources=self.resources,
            tags=WHOLE_RANGE_TAGS if "patches" in names else {},
            instance=self.instance,
        )
        assert result.success

    def status(self, asset: dg.AssetsDefinition) -> StaleStatus:
        graph = dg.Definitions(assets=ASSETS, resources=self.resources).resolve_asset_graph()
        context = LoadingContextForTest(self.instance)
        return CachingStaleStatusResolver(self.instance, graph, context).get_status(asset.key)


@pytest.fixture
def desk(token_endpoint: CogServer, tmp_path: Path) -> Iterator[Desk]:
    with StubStac(collection()) as stub, dg.DagsterInstance.ephemeral() as instance:
        token_endpoint.hand_on_to(stub.url)
        yield Desk(token_endpoint, stub, tmp_path / "workspace", instance)


def test_a_refresh_without_news_leaves_everything_fresh_and_one_with_news_does_not(desk: Desk) -> None:
    desk.serve(SCENE)
    desk.run(*ASSETS)
    first = open_patch_dataset(desk.root)
    assert first.places["valid"].tolist() == [True, False]
    assert desk.status(image_features) is StaleStatus.FRESH
    desk.run(*ASSETS[:4], refresh=True)
    assert open_patch_dataset(desk.root).version == first.version
    assert desk.status(image_features) is StaleStatus.FRESH
    desk.serve(LATER)
    desk.run(*ASSETS[:4], refresh=True)
    second = open_patch_dataset(desk.root)
    assert second.record.base_version == first.version
    assert second.places["valid"].tolist() == [True, True]
    assert second.places["row"].tolist() == [0, 256]
    assert desk.status(image_features) is StaleStatus.STALE
    desk.run(image_features)
    assert desk.status(image_features) is StaleStatus.FRESH
