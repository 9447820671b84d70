"""One writer per shard, per published version, per bank: locks that die with their process."""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from pipelines.atomic import write_json
from pipelines.errors import StoreError

LOCKS = "locks"
TELLING_ATTEMPTS = 20
TELLING_WAIT_S = 0.05
LONGEST_PUBLICATION_S = 3600.0


@dataclass(frozen=True)
class ShardHolder:
    """Who writes a shard: process id, host, and when it began (UTC, ISO 8601)."""

    pid: int
    host: str
    since: str

    @classmethod
    def here_and_now(cls) -> "ShardHolder":
        """This process."""
        return cls(os.getpid(), socket.gethostname(), datetime.now(UTC).isoformat(timespec="seconds"))


def exclusive_shard(store_folder: Path, shard: int) -> AbstractContextManager[None]:
    """Holds the right to write a shard against every thread, process and worker that shares the folder.

    The lock is the operating system's (flock): it ends with its process, however that ends, so that no lock is ever
    left over. The empty file ``locks/NNNNN.lock`` stays; ``locks/NNNNN.json`` says who holds it. Neither is part of
    the dataset.

    Raises:
        StoreError: the shard is being written elsewhere, or the folder's file system has no locks.
    """
    return exclusive_writer(store_folder, f"{shard:05d}", f"shard {shard}")


def exclusive_publication(store_folder: Path) -> AbstractContextManager[None]:
    """Holds the right to publish a version; waits up to an hour for another that publishes it.

    Raises:
        StoreError: the other did not end, or the folder's file system has no locks.
    """
    return exclusive_writer(store_folder, "publication", "the description", wait_s=LONGEST_PUBLICATION_S)


@contextmanager
def exclusive_writer(store_folder: Path, name: str, what: str, wait_s: float = 0.0) -> Iterator[None]:
    """Holds the right to write a part of a folder, by the files ``locks/NAME.lock`` and ``locks/NAME.json``.

    Args:
        store_folder: The folder.
        name: Of the lock.
        what: Of the part, for messages.
        wait_s: How long to wait for another that holds it.

    Raises:
        StoreError: the part is being written elsewhere, or the folder's file system has no locks.
    """
    folder = store_folder / LOCKS
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{name}.lock", timeout=wait_s, fallback_to_soft=False)
    told = folder / f"{name}.json"
    try:
        lock.acquire()
    except Timeout:
        raise StoreError(
            f"{what} of {store_folder} is being written by {_describe(told)}; wait for it, or stop it, then run again"
        ) from None
    except OSError as error:
        raise StoreError(
            f"{folder}: {what} cannot be locked ({error.strerror or error}), expected a folder on a file system "
            "with flock and room for an empty file; put the workspace on one"
        ) from error
    try:
        write_json(told, asdict(ShardHolder.here_and_now()))
        yield
    finally:
        told.unlink(missing_ok=True)
        lock.release()


def _describe(told: Path) -> str:
    for _ in range(TELLING_ATTEMPTS):
        try:
            holder = ShardHolder(**json.loads(told.read_text()))
        except (OSError, ValueError, TypeError):
            time.sleep(TELLING_WAIT_S)  # it has only just taken the lock, or is about to give it back
        else:
            return f"process {holder.pid} on {holder.host} since {holder.since}"
    return "another process"
