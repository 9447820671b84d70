"""A build that is killed while it reads ends, when started again, with the store of an undisturbed one."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from pipelines.patches.config import PatchConfig
from pipelines.patches.shards import build_shard, store_schema
from pipelines.patches.store import PatchStore, dataset_folder, open_store
from pipelines.sampling.catalog import open_catalog
from pipelines.sampling.config import PlanConfig, SearchConfig
from pipelines.sampling.manifest import SamplingManifest, open_plan, write_sampling_manifest
from pipelines.sampling.scenes import find_scenes
from tests.conftest import REPOSITORY
from tests.loopback.cog import CogServer
from tests.loopback.coordinate_scene import CoordinateScene, collection
from tests.loopback.faults import slow
from tests.loopback.stub_stac import StubStac

FIRST = CoordinateScene(epsg=32632, x_ul_m=399960, y_ul_m=5300040, mgrs_tile="32TLT", scene_number=0)
SECOND = CoordinateScene(epsg=32722, x_ul_m=600000, y_ul_m=7400020, mgrs_tile="22KFU", scene_number=1)
PLACES = [FIRST.lonlat_at(300, 300), FIRST.lonlat_at(700, 700), SECOND.lonlat_at(300, 300), SECOND.lonlat_at(700, 700)]
PLACES.append(SECOND.lonlat_at(800, 200))
CONFIG = PatchConfig(backoff_s=0.0, num_workers=1)
PROGRAM = "import sys; from tests.pipelines.patches.test_kill_and_resume import build; build(*sys.argv[1:])"


def small_store(root: Path, manifest: SamplingManifest) -> PatchStore:
    """A store of three shards: two places, two places, one place."""
    return open_store(dataset_folder(root, manifest.plan_id), replace(store_schema(root, manifest), shard_size=2))


def build(root: str, plan_folder: str, stac_url: str) -> None:
    """What is killed: all shards, one after another."""
    manifest = open_plan(Path(plan_folder))
    store = small_store(Path(root), manifest)
    catalog = open_catalog(stac_url, manifest.collection)
    for shard in range(store.schema.num_shards):
        build_shard(manifest, store, shard, catalog, CONFIG)


class Site:
    """Two scenes behind a server, a plan over them, and folders built from it."""

    def __init__(self, server: CogServer, folder: Path) -> None:
        self.server, self.folder = server, folder
        places = pd.DataFrame(PLACES, columns=["lon_deg", "lat_deg"])
        places.insert(0, "place_id", range(len(PLACES)))
        search = SearchConfig()
        scenes, _ = find_scenes(places, open_catalog(server.stac_url, search.collection), search)
        parents = {"search_config": search.model_dump()}
        self.manifest = write_sampling_manifest(folder / "sampling", places, scenes, PlanConfig(), parents)

    def build(self, name: str) -> None:
        build(str(self.folder / name), str(self.manifest.folder), self.server.stac_url)

    def start(self, name: str) -> subprocess.Popen[bytes]:
        arguments = [str(self.folder / name), str(self.manifest.folder), self.server.stac_url]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        return subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], cwd=self.folder, env=environment)

    def store(self, name: str) -> PatchStore:
        return small_store(self.folder / name, self.manifest)

    def content(self, name: str) -> dict[str, bytes]:
        files = (path for path in (self.folder / name).rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder / name)): path.read_bytes() for path in files}

    def reads(self, scene: CoordinateScene) -> int:
        return sum(self.server.count(f"*{scene.file_name(band)}") for band in ("SCL", "B02"))


@pytest.fixture
def site(token_endpoint: CogServer, tmp_path: Path) -> Iterator[Site]:
    with StubStac(collection()) as stub:
        token_endpoint.hand_on_to(stub.url)
        for scene in (FIRST, SECOND):
            scene.write(token_endpoint.folder)
            stub.items.append(json.loads(json.dumps(scene.item(token_endpoint.cog_url))))
        yield Site(token_endpoint, tmp_path)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, f"the build ended with {process.returncode} before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.network
def test_a_killed_build_started_again_reads_only_what_is_missing(site: Site) -> None:
    site.build("undisturbed")
    site.server.forget_requests()
    site.server.script(f"*{SECOND.file_name('B08')}", slow(120.0, times=None))
    process = site.start("killed")
    try:
        store = site.store("killed")
        wait_until(lambda: store.is_done(0) and site.reads(SECOND) > 0, process)
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert store.finished_shards() == [0]
    assert site.content("killed") != site.content("undisturbed")
    site.server.heal()
    site.server.forget_requests()
    again = site.start("killed")
    assert again.wait(120) == 0
    assert site.reads(FIRST) == 0
    assert site.reads(SECOND) > 0
    assert site.content("killed") == site.content("undisturbed")


@pytest.mark.network
@pytest.mark.parametrize("shard", [1, 2], ids=["full shard", "short last shard"])
@pytest.mark.parametrize("keep_bytes", [0, 5_000])
def test_a_shard_cut_off_while_it_was_written_is_written_again(site: Site, shard: int, keep_bytes: int) -> None:
    site.build("undisturbed")
    expected = site.content("undisturbed")
    store = site.store("undisturbed")
    store.sidecar_path(shard).unlink()
    pixels = store.folder / "patches.zarr" / "image" / "c" / str(shard) / "0" / "0" / "0"
    pixels.write_bytes(pixels.read_bytes()[:keep_bytes])
    pixels.with_name("0.0123.partial").write_bytes(b"cut off")
    assert store.finished_shards() == [each for each in range(3) if each != shard]
    site.build("undisturbed")
    assert site.content("undisturbed") == expected
