"""What a catalog's profile and file format change in the patches that are built."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio

from pipelines.patches.config import PatchConfig
from pipelines.patches.shards import ShardTask, run_shard_task
from pipelines.patches.store import dataset_folder, read_store
from pipelines.sampling.catalog import open_catalog
from pipelines.sampling.config import PlanConfig, SearchConfig
from pipelines.sampling.manifest import SamplingManifest, write_sampling_manifest
from pipelines.sampling.scenes import find_scenes
from tests.loopback.cog import CogServer
from tests.loopback.coordinate_scene import BANDS, CoordinateScene, collection
from tests.loopback.stub_stac import StubStac

pytestmark = pytest.mark.network

SCENE = CoordinateScene(32632, 399960, 5300040, "32TLT", processing_baseline="04.00")
QUICK = PatchConfig(max_attempts=2, backoff_s=0.0)
Build = Callable[[dict[str, object], str], tuple[pd.Series, np.ndarray]]


@pytest.fixture
def build(token_endpoint: CogServer, tmp_path: Path) -> Build:
    """Plans and builds one patch of an item under a profile; gives its row and its pixels."""

    def run(item: dict[str, object], profile: str) -> tuple[pd.Series, np.ndarray]:
        root = tmp_path / "workspace"
        with StubStac(collection(), [item]) as stub:
            token_endpoint.hand_on_to(stub.url)
            manifest = plan(root, token_endpoint.stac_url, profile)
            run_shard_task(ShardTask(root, manifest.folder, 0, token_endpoint.stac_url, "auto", QUICK, profile))
        store = read_store(dataset_folder(root, manifest.plan_id))
        return store.read_sidecar(0).loc[0], store.read_shard(0)[0]

    return run


def plan(root: Path, stac_url: str, profile: str) -> SamplingManifest:
    lon_deg, lat_deg = SCENE.lonlat_at(500, 600)
    places = pd.DataFrame({"place_id": [0], "lon_deg": [lon_deg], "lat_deg": [lat_deg]})
    search = SearchConfig()
    scenes, _ = find_scenes(places, open_catalog(stac_url, search.collection, profile=profile), search)
    parents = {"search_config": search.model_dump()}
    return write_sampling_manifest(root / "sampling", places, scenes, PlanConfig(), parents)


def test_jpeg_2000_files_give_the_same_patch(build: Build, token_endpoint: CogServer) -> None:
    item = SCENE.item(token_endpoint.cog_url)
    for name in (*BANDS, "SCL"):
        values = SCENE.scl() if name == "SCL" else SCENE.dn(name)
        file = SCENE.file_name(name).replace(".tif", ".jp2")
        path = token_endpoint.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        with rasterio.open(
            path, "w", driver="JP2OpenJPEG", count=1, dtype=values.dtype.name, crs=f"EPSG:{SCENE.epsg}",
            height=len(values), width=len(values), transform=SCENE.transform(name), reversible=True, quality=100,
        ) as target:  # fmt: skip
            target.write(values, 1)
        item["assets"][name]["href"] = f"{token_endpoint.cog_url}/{file}"
    row, pixels = build(item, "auto")
    assert row.valid
    np.testing.assert_array_equal(pixels, SCENE.expected_patch(row.row_px, row.col_px))


@pytest.mark.parametrize(("verify", "expected"), [(True, (0, "pixels")), (False, (-1000, "processing_baseline"))])
def test_pixels_overrule_an_offset_only_where_the_profile_says_so(
    build: Build, token_endpoint: CogServer, tmp_path: Path, verify: bool, expected: tuple[int, str]
) -> None:
    """Digital numbers of the scene go down to 1: no offset of 1000 can be in them, whatever the baseline says."""
    profile = tmp_path / "profile.yaml"
    profile.write_text(f"name: mine\ncollection: sentinel-2-l2a\nverify_offset: {str(verify).lower()}\n")
    SCENE.write(token_endpoint.folder)
    row, pixels = build(SCENE.item(token_endpoint.cog_url), str(profile))
    assert (row.boa_add_offset, row.offset_source) == expected
    np.testing.assert_array_equal(pixels, SCENE.expected_patch(row.row_px, row.col_px))
