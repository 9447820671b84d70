"""Tasks on a Dask cluster, and clusters that fail."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dask.config
import pytest
from distributed import LocalCluster

from pipelines.cluster import map_on_cluster
from pipelines.errors import ClusterError, SceneReadError

pytestmark = pytest.mark.network


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """One worker with one thread, in this process."""
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster:
        yield cluster.scheduler_address


def half(number: int) -> float:
    time.sleep(0.02 * (5 - number))
    return number / 2


def leave_a_trace(task: tuple[Path, int]) -> None:
    folder, number = task
    (folder / str(number)).touch()
    if number == 1:
        raise SceneReadError("the file of task 1 could not be read")
    time.sleep(0.05)


def die(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sleep_long(seconds: float) -> None:
    time.sleep(seconds)


def test_results_are_in_the_order_of_the_tasks_and_no_tasks_need_no_cluster(address: str) -> None:
    assert map_on_cluster(address, half, list(range(6))) == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    assert map_on_cluster("tcp://nowhere:1", half, []) == []


def test_a_failing_task_raises_its_own_error_and_the_rest_is_not_begun(address: str, tmp_path: Path) -> None:
    traces = tmp_path / "traces"
    traces.mkdir()
    with pytest.raises(SceneReadError, match="task 1 could not be read"):
        map_on_cluster(address, leave_a_trace, [(traces, number) for number in range(50)])
    time.sleep(0.3)
    assert {"0", "1"} <= {path.name for path in traces.iterdir()}
    assert len(list(traces.iterdir())) <= 4


def test_only_a_few_tasks_are_in_flight(address: str) -> None:
    seen = []
    done = threading.Event()

    def watch() -> None:
        from distributed import Client

        with Client(address, set_as_default=False) as client:
            while not done.wait(0.02):
                seen.append(client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    map_on_cluster(address, sleep_long, [0.05] * 12)
    done.set()
    watcher.join()
    assert 1 <= max(seen) <= 4


def test_a_scheduler_that_does_not_answer_is_named() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(ClusterError, match=rf"{address}: no Dask scheduler answers .*check the address"):
            map_on_cluster(address, half, [1], connect_timeout_s=0.5)


def test_an_address_that_is_none_is_told() -> None:
    with pytest.raises(ClusterError, match="no Dask scheduler answers"):
        map_on_cluster("over there", half, [1], connect_timeout_s=0.5)


def test_a_cluster_without_workers_is_told() -> None:
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        pytest.raises(ClusterError, match="no worker for 0 s, expected at least one; start workers"),
    ):
        map_on_cluster(cluster.scheduler_address, half, [1], workers_timeout_s=0.3)


def test_a_task_that_kills_its_workers_is_told() -> None:
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        pytest.raises(ClusterError, match=r"1 workers died under one task.*finished shards are kept"),
    ):
        map_on_cluster(cluster.scheduler_address, die, [1])


def test_a_lost_scheduler_is_told() -> None:
    cluster = LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0")
    closing = threading.Timer(0.5, cluster.close)
    closing.start()
    with pytest.raises(ClusterError, match=r"the Dask scheduler was lost .*finished shards are kept"):
        map_on_cluster(cluster.scheduler_address, sleep_long, [3.0])
    closing.join()
