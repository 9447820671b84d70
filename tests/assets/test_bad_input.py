"""What a person gets to read when something is wrong: one message, at the run's failure, and an exit code."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest
import yaml

from assets.checks import CHECKS
from assets.embeddings import location_embeddings
from assets.features import image_features
from assets.partitions import WHOLE_RANGE_TAGS
from assets.patches import patch_dataset, patches
from assets.presets import read_preset
from assets.resources import CatalogResource, DaskResource, TablesResource, WorkspaceResource
from assets.sampling import sampling_manifest, scene_candidates
from pipelines.patches import shards
from pipelines.patches.store import StoreSchema, dataset_folder, read_store
from pipelines.sampling.manifest import SamplingManifest, read_sampling_manifest
from pipelines.sampling.tables import write_table
from tests.loopback.cog import CogServer
from tests.loopback.coordinate_scene import CoordinateScene, collection
from tests.loopback.faults import status, truncate
from tests.loopback.stub_stac import StubStac

FIRST = CoordinateScene(epsg=32632, x_ul_m=399960, y_ul_m=5300040, mgrs_tile="32TLT", scene_number=0)
SECOND = CoordinateScene(epsg=32722, x_ul_m=600000, y_ul_m=7400020, mgrs_tile="22KFU", scene_number=1)
PLACES = [FIRST.lonlat_at(500, 500), SECOND.lonlat_at(500, 500)]
DATASET = [scene_candidates, sampling_manifest, patches, patch_dataset, image_features]
QUICK: dict[str, Any] = {"patches": {"config": {"backoff_s": 0.0, "max_attempts": 2}}}


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Lab:
    """A workspace with two places, each in its own scene and its own shard, and the assets run on it."""

    def __init__(self, server: CogServer, stub: StubStac, root: Path, instance: dg.DagsterInstance) -> None:
        self.server, self.stub, self.root, self.instance = server, stub, root, instance
        self.url = server.stac_url
        table = pd.DataFrame(PLACES, columns=["lon_deg", "lat_deg"])
        table.insert(0, "place_id", range(len(PLACES)))
        write_table(root / "sampling" / "sample_points.parquet", table)

    def serve(self, *scenes: CoordinateScene) -> None:
        for scene in scenes:
            scene.write(self.server.folder)
            self.stub.items.append(scene.item(self.server.cog_url))

    def run(self, last: str, config: dict[str, Any] | None = None) -> dg.ExecuteInProcessResult:
        names = [each.key.to_user_string() for each in DATASET]
        chosen = names[: names.index(last) + 1]
        checks = [each for each in CHECKS if next(iter(each.check_keys)).asset_key.to_user_string() in chosen]
        operations = {name: value for name, value in {**QUICK, **(config or {})}.items() if name in chosen}
        return dg.materialize(
            [*DATASET[: len(chosen)], *checks],
            run_config={"ops": operations},
            resources={
                "workspace": WorkspaceResource(root=str(self.root)),
                "catalog": CatalogResource(stac_url=self.url),
                "dask": DaskResource(),
            },
            tags=WHOLE_RANGE_TAGS if "patches" in chosen else {},
            instance=self.instance,
            raise_on_error=False,
        )


@pytest.fixture
def lab(token_endpoint: CogServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    def one_place_per_shard(root: Path, manifest: SamplingManifest) -> StoreSchema:
        return StoreSchema(manifest.plan_id, manifest.num_places, manifest.patch_size_px, shard_size=1)

    monkeypatch.setattr(shards, "store_schema", one_place_per_shard)
    with StubStac(collection()) as stub, dg.DagsterInstance.ephemeral() as instance:
        token_endpoint.hand_on_to(stub.url)
        yield Lab(token_endpoint, stub, tmp_path / "workspace", instance)


def failure(result: dg.ExecuteInProcessResult, step: str) -> str:
    """The message of the error that ended a step."""
    assert not result.success
    (event,) = [event for event in result.all_events if event.is_step_failure]
    assert event.step_key == step
    error = event.step_failure_data.error
    assert error is not None
    return (error.cause or error).message


@pytest.mark.network
def test_an_unreachable_catalog(lab: Lab) -> None:
    lab.url = f"http://127.0.0.1:{closed_port()}/stac"
    message = failure(lab.run("scene_candidates"), "scene_candidates")
    assert re.search(rf"CatalogError: {lab.url}: no STAC API answers there .*; check the address and the net", message)


@pytest.mark.network
def test_a_collection_that_does_not_exist(lab: Lab) -> None:
    result = lab.run("scene_candidates", {"scene_candidates": {"config": {"collection": "sentinel-9-l2a"}}})
    message = failure(result, "scene_candidates")
    assert re.search(r"collection 'sentinel-9-l2a' not found .*; the API has: sentinel-2-l2a", message)


@pytest.mark.network
def test_an_empty_search(lab: Lab) -> None:
    message = failure(lab.run("scene_candidates"), "scene_candidates")
    assert "no scene of sentinel-2-l2a from 2021-01-01 to 2023-05-17" in message
    assert "widen the dates or raise max_cloud_cover_percent" in message


@pytest.mark.network
def test_items_that_all_lack_a_band(lab: Lab) -> None:
    lab.serve(replace(FIRST, left_out=frozenset({"B11"})))
    message = failure(lab.run("scene_candidates"), "scene_candidates")
    assert "1 items found, none can serve a place (unusable: {'missing_band:B11': 1}" in message


@pytest.mark.network
def test_a_file_that_cannot_be_read_now_fails_the_run_and_keeps_finished_shards(lab: Lab) -> None:
    lab.serve(FIRST, SECOND)
    lab.server.script(f"*{SECOND.file_name('B05')}", status(503, times=None))
    message = failure(lab.run("patches"), "patches")
    assert re.search(r"SceneReadError: .*B05 could not be read in 2 attempts \(server status 503\)", message)
    assert "sig=" not in message.replace("sig=...", "")
    manifest = read_sampling_manifest(lab.root / "sampling")
    assert read_store(dataset_folder(lab.root, manifest.plan_id)).finished_shards() == [0]
    materialized = lab.instance.get_materialized_partitions(patches.key)
    assert "00" in materialized
    assert "01" not in materialized
    lab.server.heal()
    lab.server.forget_requests()
    assert lab.run("patches").success
    assert lab.server.count(f"*{FIRST.mgrs_tile}*") == 0
    assert len(lab.instance.get_materialized_partitions(patches.key)) == 80


@pytest.mark.network
def test_a_dataset_with_too_few_patches_stops_the_run_and_is_refused_later(lab: Lab) -> None:
    lab.serve(FIRST, SECOND)
    lab.server.script(f"*{SECOND.file_name('B04')}", truncate(100_000))
    result = lab.run("image_features", {"patch_dataset": {"config": {"minimum_valid_fraction": 0.9}}})
    assert not result.success
    evaluations = {each.check_name: each for each in result.get_asset_check_evaluations()}
    assert not evaluations["every_shard_is_verified"].passed
    problems = evaluations["every_shard_is_verified"].metadata["problems"].value
    assert "0.9" in str(problems) or "90" in str(problems), problems
    steps = {event.step_key for event in result.all_events if event.is_step_start}
    assert "image_features" not in steps
    manifest = read_sampling_manifest(lab.root / "sampling")
    alone = dg.materialize(
        [image_features],
        run_config={"ops": {"image_features": {"config": {"dataset_version": manifest.plan_id}}}},
        resources={"workspace": WorkspaceResource(root=str(lab.root))},
        instance=lab.instance,
        raise_on_error=False,
    )
    assert f"{manifest.plan_id}" in failure(alone, "image_features")
    assert "did not pass its checks" in failure(alone, "image_features")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("x,y\n1,2\n", ["points.csv", "'lon'", "'lat'"]),
        ("lon,lat\n10,50\n11,95\n", ["points.csv", "'lat'", "95"]),
    ],
    ids=["no lon, lat", "lat 95"],
)
def test_a_table_that_cannot_be_embedded(tmp_path: Path, content: str, told: list[str]) -> None:
    run = tmp_path / "checkpoints" / "some"
    run.mkdir(parents=True)
    for name, text in {"satclip.ckpt": "", "training_log.csv": "", "record.json": "{}"}.items():
        (run / name).write_text(text)
    (run.parent / "latest.json").write_text(json.dumps({"run": "some"}))
    (tmp_path / "points.csv").write_text(content)
    config = {"resolution_deg": 10.0, "tables": [{"name": "points", "table": "points.csv"}]}
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [location_embeddings],
            run_config={"ops": {"location_embeddings": {"config": config}}},
            resources={
                "workspace": WorkspaceResource(root=str(tmp_path)),
                "tables": TablesResource(root=str(tmp_path)),
            },
            instance=instance,
            raise_on_error=False,
        )
        message = failure(result, "location_embeddings")
    assert message.startswith("pipelines.errors.TableError")
    assert all(each in message for each in told), message


@pytest.fixture
def call(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs an installed program in an empty folder."""

    def run(program: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONWARNINGS": "ignore", "SATCLIP_ROOT": str(tmp_path / "workspace")}
        return subprocess.run(
            [str(Path(sys.executable).parent / program), *arguments],
            cwd=tmp_path, env=environment | variables, capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    return run


@pytest.mark.slow
def test_a_job_that_cannot_go_on_ends_with_a_code_and_its_reason(
    call: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    config = read_preset("ci", {"sample_points", "scene_candidates"})
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    url = f"http://127.0.0.1:{closed_port()}/stac"
    job = ["-m", "assets.definitions", "-j", "build_dataset", "-c", "run.yaml"]
    result = call("dagster", "job", "execute", *job, SATCLIP_STAC_URL=url)
    assert result.returncode == 1
    assert f"{url}: no STAC API answers there" in result.stderr
    assert re.search(r"Run .* resulted in failure", result.stderr)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["dataset", "import", "nowhere"],
            r"satclip: nowhere: no such file or folder, expected a folder or a tar in the layout",
        ),
        (["sandbox", "run"], r"satclip: sandbox run: no command found, expected one after --"),
        (["sandbox", "down"], r"satclip: no sandbox runs from .*; start one with: satclip sandbox up"),
        (["summary"], r"satclip: .*: no trained model yet; materialize satclip_checkpoint"),
        (["dataset", "plan", "--config", "none.yaml"], r"satclip: none\.yaml: no such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_that_cannot_go_on_says_so_in_one_line(
    call: Callable[..., subprocess.CompletedProcess[str]], arguments: list[str], told: str
) -> None:
    result = call("satclip", *arguments)
    assert result.returncode == 1
    (line,) = result.stderr.strip().splitlines()
    assert re.search(told, line), line


def test_an_unknown_preset_is_refused_with_the_known_ones(
    call: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    result = call("satclip", "config", "demo")
    assert result.returncode == 2
    assert re.search(r"invalid choice: 'demo' \(choose from '?ci'?, ", result.stderr)
    assert result.stdout == ""
