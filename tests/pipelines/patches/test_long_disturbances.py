"""A disturbance that outlasts all attempts is still no verdict on the file (drill, seeds 32 and 47)."""

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from pipelines.errors import SceneReadError
from pipelines.patches.config import PatchConfig
from pipelines.patches.shards import ShardTask, run_shard_task
from pipelines.sampling.manifest import read_sampling_manifest
from tests.drill.build import Job, write_plan
from tests.drill.trial import readers
from tests.loopback.cog import CogServer
from tests.loopback.coordinate_scene import CoordinateScene, collection
from tests.loopback.faults import Fault, cut, drop, other_range, short, status
from tests.loopback.stub_stac import StubStac

FIRST = CoordinateScene(32632, 399960, 5300040, "32TLT", cloud_cover_percent=1.0)
SECOND = replace(FIRST, acquired=datetime(2022, 8, 1, 10, tzinfo=UTC), cloud_cover_percent=12.0, scene_number=1)


@pytest.mark.network
@pytest.mark.parametrize("reader", readers() or [None])
@pytest.mark.parametrize("band", ["SCL", "B12"])
@pytest.mark.parametrize(
    "fault",
    [
        status(503, times=None),
        status(429, times=None),
        drop(times=None),
        cut(times=None),
        short(times=None),
        other_range(times=None),
    ],
    ids=lambda fault: fault.kind,
)
def test_answers_that_show_that_the_server_is_unwell_never_refuse_a_scene(
    token_endpoint: CogServer, tmp_path: Path, fault: Fault, band: str, reader: str | None
) -> None:
    settings = {} if reader is None else {"reader": reader}
    config = PatchConfig(max_attempts=3, backoff_s=0.0, **settings)
    with StubStac(collection()) as stub:
        for scene in (FIRST, SECOND):
            scene.write(token_endpoint.folder)
            stub.items.append(scene.item(token_endpoint.cog_url))
        token_endpoint.hand_on_to(stub.url)
        job = Job(tmp_path, (FIRST.lonlat_at(500, 500),), token_endpoint.stac_url, token_endpoint.sas_url, config)
        write_plan(job)
        task = ShardTask(tmp_path, read_sampling_manifest(job.sampling_folder).folder, 0, job.stac_url, "auto", config)
        token_endpoint.script(f"*{FIRST.file_name(band)}", fault)
        if (reader, band) == ("rasterio", "SCL") and fault.kind != "status":
            with suppress(SceneReadError):  # GDAL asks for the whole of a small file, of which half may be enough
                run_shard_task(task)
        else:
            with pytest.raises(SceneReadError, match=band):
                run_shard_task(task)
        token_endpoint.heal()
        run_shard_task(task)
    (sidecar,) = tmp_path.rglob("shards/00000.parquet")
    assert pd.read_parquet(sidecar)["item_id"].tolist() == [FIRST.item_id]


@pytest.mark.network
@pytest.mark.parametrize("times", [16, 18, 20, 22, 24])
def test_a_disturbance_that_ends_with_the_attempts_is_no_verdict(
    token_endpoint: CogServer, tmp_path: Path, times: int
) -> None:
    """All attempts met short answers, and then all bytes arrive: the bytes decide (drill, seed 47)."""
    config = PatchConfig(max_attempts=3, backoff_s=0.0, reader="rasterio")
    with StubStac(collection()) as stub:
        for scene in (FIRST, SECOND):
            scene.write(token_endpoint.folder)
            stub.items.append(scene.item(token_endpoint.cog_url))
        token_endpoint.hand_on_to(stub.url)
        job = Job(tmp_path, (FIRST.lonlat_at(500, 500),), token_endpoint.stac_url, token_endpoint.sas_url, config)
        write_plan(job)
        task = ShardTask(tmp_path, read_sampling_manifest(job.sampling_folder).folder, 0, job.stac_url, "auto", config)
        token_endpoint.script(f"*{FIRST.file_name('B12')}", short(times=times))
        with suppress(SceneReadError):
            run_shard_task(task)
        token_endpoint.heal()
        run_shard_task(task)
    (sidecar,) = tmp_path.rglob("shards/00000.parquet")
    assert pd.read_parquet(sidecar)[["item_id", "rejections"]].to_numpy().tolist() == [[FIRST.item_id, "[]"]]
