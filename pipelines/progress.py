"""Progress of a long step, told through logging: counts, rate, time left."""

import logging
import threading
import time


class Progress:
    """Counts finished units and logs at most every ``interval_s`` seconds; safe to use from several threads."""

    def __init__(
        self, logger: logging.Logger, label: str, total: int, unit: str = "items", interval_s: float = 10.0
    ) -> None:
        self._logger, self._label, self._total, self._unit, self._interval_s = logger, label, total, unit, interval_s
        self._started = self._last_told = time.monotonic()
        self._done = 0
        self._lock = threading.Lock()
        logger.info("%s: %d %s to do", label, total, unit)

    def advance(self, count: int = 1) -> None:
        """Records that ``count`` more units are done."""
        with self._lock:
            self._done += count
            now = time.monotonic()
            if self._done < self._total and now - self._last_told < self._interval_s:
                return
            self._last_told = now
            elapsed = max(now - self._started, 1e-9)
            rate = self._done / elapsed
            left_s = (self._total - self._done) / rate if rate else float("inf")
            self._logger.info(
                "%s: %d of %d %s, %.1f per second, %.0f s left",
                self._label,
                self._done,
                self._total,
                self._unit,
                rate,
                left_s,
            )
