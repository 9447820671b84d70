"""Two Dask workers, each a process of its own that is started again when it dies."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distributed import LocalCluster


@contextmanager
def open_cluster(*, wanted: bool = True) -> "Iterator[LocalCluster | None]":
    """The cluster, or None where it is not wanted."""
    if not wanted:
        yield None
        return
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0") as cluster:
        yield cluster
