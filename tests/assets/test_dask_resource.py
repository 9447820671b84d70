import os

import pytest

from assets.resources import DaskResource
from pipelines.errors import ClusterError


def process_id(_: int) -> int:
    return os.getpid()


def test_without_a_cluster_tasks_run_here_in_order() -> None:
    assert DaskResource().map(lambda number: number * number, [3, 1, 2]) == [9, 1, 4]
    assert DaskResource().map(process_id, [0]) == [os.getpid()]


@pytest.mark.network
def test_a_cluster_given_by_its_address_runs_the_tasks_and_keeps_their_order() -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster:
        dask = DaskResource(scheduler_address=cluster.scheduler_address)
        assert dask.map(divmod_by_three, list(range(7))) == [divmod(number, 3) for number in range(7)]


@pytest.mark.network
def test_a_cluster_that_is_not_there_is_told() -> None:
    dask = DaskResource(scheduler_address="tcp://127.0.0.1:9", connect_timeout_s=0.5)
    with pytest.raises(ClusterError, match=r"tcp://127.0.0.1:9: no Dask scheduler answers"):
        dask.map(divmod_by_three, [1])


def test_results_come_one_by_one_and_stay_when_a_later_task_fails() -> None:
    results = DaskResource().stream(lambda number: 6 // number, [3, 2, 0, 1])
    assert [next(results), next(results)] == [(0, 2), (1, 3)]
    with pytest.raises(ZeroDivisionError):
        next(results)


def divmod_by_three(number: int) -> tuple[int, int]:
    return divmod(number, 3)
