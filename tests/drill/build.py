"""The program that the drill disturbs: plan, patches and dataset of a workspace, each skipped where it is done."""

import asyncio
import logging
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import planetary_computer.sas
from planetary_computer.settings import Settings

from pipelines.cluster import map_on_cluster
from pipelines.errors import SatclipError
from pipelines.patches import shards
from pipelines.patches.config import PatchConfig
from pipelines.patches.publication import publish_dataset
from pipelines.patches.shards import ShardReport, ShardTask, run_shard_task
from pipelines.sampling.catalog import open_catalog
from pipelines.sampling.config import PlanConfig, SearchConfig
from pipelines.sampling.manifest import POINTER, read_sampling_manifest, write_sampling_manifest
from pipelines.sampling.scenes import find_scenes
from tests.drill.mishaps import Mishap

logger = logging.getLogger(__name__)

SHARD_SIZE = 4
PATCH_SIZE_PX = 64
LONGEST_SLEEP_S = 0.02
TOLD, BUG = 2, 3
_store_schema = shards.store_schema


@dataclass(frozen=True)
class Job:
    """One start of the build.

    Attributes:
        root: The workspace.
        places: Longitude and latitude in degrees.
        scheduler_address: Of a Dask cluster; None builds the shards here.
        log_path: Receives the log.
    """

    root: Path
    places: tuple[tuple[float, float], ...]
    stac_url: str
    sas_url: str
    config: PatchConfig
    mishap: Mishap | None = None
    scheduler_address: str | None = None
    log_path: Path | None = None

    @property
    def sampling_folder(self) -> Path:
        return self.root / "sampling"


def run(job: Job) -> None:
    """Exits with 0, with ``TOLD`` after an error that a user can act on, with ``BUG`` after any other."""
    if job.log_path is not None:
        layout = "%(asctime)s %(process)d %(name)s %(message)s"
        logging.basicConfig(filename=job.log_path, level=logging.INFO, format=layout, force=True)
        descriptor = os.open(job.log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(descriptor, sys.stderr.fileno())
    hurry()
    if job.mishap is not None:
        job.mishap.install()
    try:
        build(job)
    except (SatclipError, OSError):
        logger.exception("the build ended")
        sys.exit(TOLD)
    except BaseException:
        logger.exception("the build broke")
        sys.exit(BUG)


def hurry() -> None:
    """No wait between two attempts takes longer than a moment."""
    sleep, sleep_async = time.sleep, asyncio.sleep
    time.sleep = lambda seconds: sleep(min(seconds, LONGEST_SLEEP_S))

    async def nap(seconds: float, result: Any = None) -> Any:
        return await sleep_async(min(seconds, LONGEST_SLEEP_S), result)

    asyncio.sleep = nap


def prepare(sas_url: str) -> None:
    """Points this process to the token endpoint and makes its stores small."""
    os.environ["PC_SDK_SAS_URL"] = sas_url
    os.environ["PC_SDK_SUBSCRIPTION_KEY"] = ""
    Settings.get.cache_clear()
    planetary_computer.sas.TOKEN_CACHE.clear()
    shards.store_schema = lambda root, manifest: replace(_store_schema(root, manifest), shard_size=SHARD_SIZE)


def build(job: Job) -> None:
    """All stages, in this process but for the shards, which may be built by a cluster's workers."""
    prepare(job.sas_url)
    if not (job.sampling_folder / POINTER).is_file():
        write_plan(job)
    manifest = read_sampling_manifest(job.sampling_folder)
    tasks = shard_tasks(job)
    if job.scheduler_address is None:
        for task in tasks:
            run_shard_task(task)
    else:
        map_on_cluster(job.scheduler_address, build_remotely, [(task, job.sas_url) for task in tasks])
    publish_dataset(job.root, manifest.plan_id, source="drill")


def write_plan(job: Job) -> None:
    """Searches the scenes and writes the plan; the only place of the drill that knows how."""
    places = pd.DataFrame(job.places, columns=["lon_deg", "lat_deg"])
    places.insert(0, "place_id", range(len(places)))
    search = SearchConfig()
    found, _ = find_scenes(places, open_catalog(job.stac_url, search.collection), search)
    plan, parents = PlanConfig(patch_size_px=PATCH_SIZE_PX), {"search_config": search.model_dump()}
    write_sampling_manifest(job.sampling_folder, places, found, plan, parents)


def shard_tasks(job: Job) -> list[ShardTask]:
    """One task per shard of the plan."""
    manifest = read_sampling_manifest(job.sampling_folder)
    own_shards = shards.store_schema(job.root, manifest).own_shards
    return [ShardTask(job.root, manifest.folder, shard, job.stac_url, "auto", job.config) for shard in own_shards]


def build_remotely(task_and_sas_url: tuple[ShardTask, str]) -> ShardReport:
    """A shard, built by a worker of the cluster."""
    task, sas_url = task_and_sas_url
    prepare(sas_url)
    return run_shard_task(task)
