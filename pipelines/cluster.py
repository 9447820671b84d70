"""One function over many tasks on a Dask cluster: few in flight, results as they come, clear about what was lost."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pipelines.errors import ClusterError
from pipelines.progress import Progress

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 30.0
WORKERS_TIMEOUT_S = 60.0
POLL_S = 1.0
IN_FLIGHT_PER_THREAD = 2


def stream_on_cluster[Task, Result](
    scheduler_address: str,
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    *,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    workers_timeout_s: float = WORKERS_TIMEOUT_S,
) -> Iterator[tuple[int, Result]]:
    """Applies a function to every task on the workers of a cluster and yields results as they come.

    At most two tasks per worker thread are in flight. A task whose worker dies runs again elsewhere, as often as the
    scheduler allows (``distributed.scheduler.allowed-failures``). The first task that fails cancels those that have not
    begun, and its error is raised as it is; tasks that are running end on their workers.

    Args:
        scheduler_address: Such as ``tcp://scheduler:8786``.
        function: Importable on the workers.
        tasks: Values that pickle.
        connect_timeout_s: How long the scheduler may take to answer.
        workers_timeout_s: How long the cluster may be without any worker.

    Yields:
        Number of the task, counted from 0, and its result.

    Raises:
        ClusterError: no scheduler answers, it is lost, there is no worker, or one task killed several.
    """
    if not tasks:
        return
    with _connected(scheduler_address, connect_timeout_s) as client:
        run = _Run(client, scheduler_address, workers_timeout_s)
        progress = Progress(logger, f"cluster {scheduler_address}", total=len(tasks), unit="tasks")
        waiting = iter(range(len(tasks)))
        numbers: dict[Any, int] = {}
        num_done = 0
        try:
            while num_done < len(tasks):
                limit = run.wait_for_workers() * IN_FLIGHT_PER_THREAD
                while len(numbers) < limit and (number := next(waiting, None)) is not None:
                    numbers[client.submit(function, tasks[number], pure=False)] = number
                for future in run.wait_for_any(list(numbers)):
                    result = run.result(future)
                    num_done += 1
                    progress.advance()
                    yield numbers.pop(future), result
        finally:
            run.cancel(list(numbers))


def map_on_cluster[Task, Result](
    scheduler_address: str, function: Callable[[Task], Result], tasks: Sequence[Task], **timeouts: float
) -> list[Result]:
    """All results of `stream_on_cluster`, in the order of the tasks; same arguments, same errors."""
    results = dict(stream_on_cluster(scheduler_address, function, tasks, **timeouts))
    return [results[number] for number in range(len(tasks))]


@contextmanager
def _connected(address: str, timeout_s: float) -> Iterator[Any]:
    from distributed import Client

    try:
        client = Client(address, timeout=timeout_s, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"{address}: no Dask scheduler answers ({type(error).__name__}), expected one such as "
            "tcp://scheduler:8786; check the address and the scheduler, or leave it empty to build on this machine"
        ) from error
    try:
        with client.as_current():
            yield client
    finally:
        client.close(timeout=POLL_S)  # type: ignore[no-untyped-call]


class _Run:
    """Waiting on a cluster without waiting for what will never come."""

    def __init__(self, client: Any, address: str, workers_timeout_s: float) -> None:  # noqa: ANN401
        self._client, self._address, self._workers_timeout_s = client, address, workers_timeout_s
        self._workers_seen = time.monotonic()

    def wait_for_workers(self) -> int:
        """Threads of all workers, at least one."""
        while not (num_threads := self._num_threads()):
            time.sleep(POLL_S / 10)
        return num_threads

    def wait_for_any(self, futures: list[Any]) -> list[Any]:
        """The futures that are over, at least one."""
        from distributed import CancelledError, wait

        while True:
            try:
                return list(wait(futures, timeout=POLL_S, return_when="FIRST_COMPLETED").done)  # type: ignore[no-untyped-call]
            except TimeoutError:
                self._num_threads()
            except CancelledError as error:
                raise self._lost(" ".join(str(error).split())[:200]) from error

    def result(self, future: Any) -> Any:  # noqa: ANN401
        """What the task returned; raises what it raised."""
        from distributed import CancelledError, KilledWorker

        try:
            return future.result()
        except KilledWorker as error:
            raise ClusterError(
                f"{self._address}: {error.allowed_failures + 1} workers died under one task, the last at "
                f"{error.last_worker.address}; look into that worker's log (memory, most often), then run again: "
                "finished shards are kept"
            ) from error
        except CancelledError as error:
            raise self._lost("it gave a task up") from error

    def cancel(self, futures: list[Any]) -> None:
        """Takes back what has not begun, where the scheduler still hears it."""
        if futures and self._client.status == "running":
            self._client.cancel(futures)

    def _num_threads(self) -> int:
        if self._client.status != "running":
            raise self._lost("the connection broke")
        try:
            num_threads: int = sum(self._client.nthreads().values())
        except OSError as error:
            raise self._lost(type(error).__name__) from error
        if num_threads:
            self._workers_seen = time.monotonic()
        elif time.monotonic() - self._workers_seen > self._workers_timeout_s:
            raise ClusterError(
                f"{self._address}: no worker for {self._workers_timeout_s:.0f} s, expected at least one; start workers "
                "(dask worker ADDRESS) with this package and the workspace under the same path, then run again: "
                "finished shards are kept"
            )
        return num_threads

    def _lost(self, how: str) -> ClusterError:
        return ClusterError(
            f"{self._address}: the Dask scheduler was lost ({how}), expected it to stay until all tasks are done; "
            "start it again and run again: finished shards are kept"
        )
