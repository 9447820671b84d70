"""The asset ground_cover_labels: its pages, its data version and its checks."""

from pathlib import Path

import dagster as dg
import pytest

from assets.ground_cover import codes_are_known, ground_cover_labels, labels_can_be_learned
from assets.resources import CatalogResource, DaskResource, WorkspaceResource
from pipelines.ground_cover.labels import LABELS_NAME
from pipelines.ground_cover.map_labels import latest_labels_folder
from pipelines.provenance import file_sha256
from tests.loopback.cog import CogServer
from tests.loopback.stub_stac import StubStac
from tests.pipelines.ground_cover.map_files import (
    COLLECTION,
    file_under,
    grid_around,
    map_collection,
    publish_patches,
)
from tests.pipelines.ground_cover.test_map_labels import CLASSES

pytestmark = pytest.mark.network
GRIDS = [grid_around(9.1, 48.2, 32632, 32), grid_around(-62.3, -3.1, 32720, 32), None]
SETTINGS = {"collection": COLLECTION, "classes": "esa_worldcover", "backoff_s": 0.0, "max_years_apart": 1.0}


def _materialize(root: Path, url: str, **settings: object) -> dg.ExecuteInProcessResult:
    resources = {
        "workspace": WorkspaceResource(root=str(root)),
        "catalog": CatalogResource(stac_url=url, signing="none"),
        "dask": DaskResource(),
    }
    with dg.DagsterInstance.ephemeral() as instance:
        return dg.materialize(
            [ground_cover_labels, labels_can_be_learned, codes_are_known],
            run_config={"ops": {"ground_cover_labels": {"config": SETTINGS | settings}}},
            resources=resources,
            instance=instance,
            raise_on_error=False,
        )


def _verdicts(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {each.check_name: each.passed for each in result.get_asset_check_evaluations()}


def test_labels_are_described_and_judged(tmp_path: Path) -> None:
    dataset = publish_patches(tmp_path / "workspace", GRIDS, ["2021-05-01T00:00:00Z", "2021-06-01T00:00:00Z", ""])
    root, files = dataset.path.parents[1], tmp_path / "cog"
    files.mkdir()
    with StubStac(map_collection()) as stub, CogServer(files, stac_server=stub.url) as server:
        whole = [(slice(None), slice(None), 80)]
        for index, holes in ((0, whole), (1, ())):
            file = file_under(GRIDS[index], f"map_{index}", "EPSG:4326", holes=holes)
            file.write(files, CLASSES)
            stub.items.append(file.item(server.cog_url))
        result = _materialize(root, server.stac_url)
        assert result.success
        assert _verdicts(result) == {"labels_can_be_learned": True, "codes_are_known": True}
        (made,) = result.asset_materializations_for_node("ground_cover_labels")
        assert made.metadata["statuses"].value == {"valid": 2, "no_patch": 1}
        assert made.metadata["label_years"].value == {"2021": 2}
        assert made.metadata["classes"].value["Permanent water bodies"] > 0.5
        for name in ("map", "shares"):
            assert made.metadata[name].value.startswith("![figure](data:image/png;base64,")
        table = latest_labels_folder(root, dataset.version) / LABELS_NAME
        assert made.tags["dagster/data_version"] == file_sha256(table)
        stub.items.pop()
        only_one_class = _materialize(root, server.stac_url, minimum_valid_fraction=0.7)
        assert not _verdicts(only_one_class)["labels_can_be_learned"]
        assert not only_one_class.success
        no_map_of_the_year = _materialize(root, server.stac_url, max_years_apart=0.0, classes="sandbox")
        assert not _verdicts(no_map_of_the_year)["labels_can_be_learned"]
