"""Builds that meet on one workspace, and one build spread over two workers."""

import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipelines.cluster import map_on_cluster
from pipelines.errors import StoreError
from tests.drill.build import TOLD, build_remotely, shard_tasks
from tests.drill.cluster import open_cluster
from tests.drill.trial import start
from tests.drill.world import CLEAR_LAST, Outcome, World, read_outcome
from tests.loopback.faults import slow

if TYPE_CHECKING:
    from distributed import LocalCluster

pytestmark = pytest.mark.network
NUM_SHARDS = 4


@pytest.fixture
def planned(world: World, undisturbed: Outcome, request: pytest.FixtureRequest) -> str:
    """A workspace that holds the plan and nothing else."""
    world.reset()
    name = request.node.name
    shutil.copytree(world.folder / "undisturbed" / "sampling", world.folder / name / "sampling")
    return name


def content(root: Path) -> dict[str, bytes]:
    """Files of the dataset and their bytes; locks are no part of it."""
    files = (path for path in (root / "datasets").rglob("*") if path.is_file() and path.parent.name != "locks")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def written_shards(log_path: Path) -> list[int]:
    return [int(shard) for shard in re.findall(r"shard (\d+) done:", log_path.read_text())]


def test_of_two_builds_at_once_one_writes_a_shard_and_the_other_says_why_it_does_not(
    world: World, undisturbed: Outcome, planned: str
) -> None:
    world.server.script("*_SCL_*", slow(60.0, times=None))
    logs = [world.folder / f"{planned}_{number}.log" for number in range(2)]
    first = start(world.job(planned, log_path=logs[0]))
    assert wait_for_holder(world.folder / planned, 0) == first.pid
    second = start(world.job(planned, log_path=logs[1]))
    second.join(120)
    world.server.heal()
    first.join(120)
    assert (first.exitcode, second.exitcode) == (0, TOLD)
    assert (written_shards(logs[0]), written_shards(logs[1])) == (list(range(NUM_SHARDS)), [])
    refusal = rf"shard 0 of .* is being written by process {first.pid} on .* since .*wait for it"
    assert re.search(refusal, logs[1].read_text())
    outcome = read_outcome(world.folder / planned)
    outcome.assert_true()
    undisturbed.assert_same(outcome)


def test_two_builds_that_start_together_and_are_started_again_make_one_dataset(
    world: World, undisturbed: Outcome, planned: str
) -> None:
    logs = [world.folder / f"{planned}_{number}.log" for number in range(2)]
    for _ in range(NUM_SHARDS + 1):
        both = [start(world.job(planned, log_path=log_path)) for log_path in logs]
        for process in both:
            process.join(120)
        assert 0 in [process.exitcode for process in both]
        if {process.exitcode for process in both} == {0}:
            break
        assert {process.exitcode for process in both} == {0, TOLD}
    assert sorted(written_shards(logs[0]) + written_shards(logs[1])) == list(range(NUM_SHARDS))
    undisturbed.assert_same(read_outcome(world.folder / planned))


def test_the_shard_of_a_killed_build_is_free(world: World, undisturbed: Outcome, planned: str) -> None:
    world.server.script(f"*{CLEAR_LAST.file_name('B12')}", slow(60.0, times=None))
    killed = start(world.job(planned))
    assert wait_for_holder(world.folder / planned, 0) == killed.pid
    killed.kill()
    killed.join()
    world.server.heal()
    again = start(world.job(planned))
    again.join(120)
    assert (killed.exitcode, again.exitcode) == (-signal.SIGKILL, 0)
    undisturbed.assert_same(read_outcome(world.folder / planned))


def test_two_workers_give_the_bytes_of_a_local_build(
    world: World, undisturbed: Outcome, planned: str, cluster: "Callable[[], LocalCluster]"
) -> None:
    process = start(world.job(planned, scheduler_address=cluster().scheduler_address))
    process.join(120)
    assert process.exitcode == 0, (world.folder / f"{planned}.log").read_text()
    assert content(world.folder / planned) == content(world.folder / "undisturbed")


def test_a_shard_given_to_two_workers_is_written_by_one(
    world: World, planned: str, cluster: "Callable[[], LocalCluster]"
) -> None:
    job = world.job(planned)
    task = replace(shard_tasks(job)[0], shard=1)
    world.server.script("*_SCL_*", slow(60.0, times=None))
    with pytest.raises(StoreError, match=r"shard 1 of .* is being written by process"):
        map_on_cluster(cluster().scheduler_address, build_remotely, [(task, job.sas_url), (task, job.sas_url)])
    world.server.heal()


def test_a_killed_worker_costs_no_shard_and_leaves_no_process(world: World, undisturbed: Outcome, planned: str) -> None:
    import psutil

    world.server.script(f"*{CLEAR_LAST.file_name('B12')}", slow(30.0, times=None))
    with open_cluster() as cluster:
        assert cluster is not None
        before = [nanny.pid for nanny in cluster.workers.values()]
        process = start(world.job(planned, scheduler_address=cluster.scheduler_address))
        holder = wait_for_holder(world.folder / planned, 0)
        assert holder in before
        os.kill(holder, signal.SIGKILL)
        world.server.heal()
        process.join(120)
        assert process.exitcode == 0, (world.folder / f"{planned}.log").read_text()
        after = [nanny.pid for nanny in cluster.workers.values()]
    assert content(world.folder / planned) == content(world.folder / "undisturbed")
    assert set(before) != set(after)
    assert not [pid for pid in {*before, *after} if pid and psutil.pid_exists(pid)]


def wait_for_holder(root: Path, shard: int) -> int:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for path in root.rglob(f"locks/{shard:05d}.json"):
            found = re.search(r'"pid": (\d+)', path.read_text())
            if found:
                return int(found[1])
        time.sleep(0.02)
    raise AssertionError("nobody took the shard")
