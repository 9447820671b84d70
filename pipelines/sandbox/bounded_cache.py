"""A bounded cache whose values are computed once, however many threads ask at the same time."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import Lock


class BoundedCache[T]:
    """Least recently used values by key; at most ``capacity`` of them."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._futures: OrderedDict[Hashable, Future[T]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, compute: Callable[[], T]) -> T:
        """The value of ``key``; the first caller computes it, the others wait. Errors reach all and are not kept."""
        with self._lock:
            future = self._futures.get(key)
            if future is not None:
                self._futures.move_to_end(key)
                owner = False
            else:
                future = self._futures[key] = Future()
                owner = True
                if len(self._futures) > self._capacity:
                    self._futures.popitem(last=False)
        if owner:
            try:
                future.set_result(compute())
            except BaseException as error:
                with self._lock:
                    self._futures.pop(key, None)
                future.set_exception(error)
                raise
        return future.result()
