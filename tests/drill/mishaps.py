"""What befalls the building process from inside: a full disk at a write, or its own death there."""

import errno
import os
import resource
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Place = Literal["chunk", "table", "fsync", "rename", "file_size"]
PLACES: tuple[Place, ...] = ("chunk", "table", "fsync", "rename", "file_size")


@dataclass(frozen=True)
class Mishap:
    """Something that goes wrong at a write.

    Attributes:
        place: The writing of a Zarr object or of a table (half of it is on disk then), a sync, a rename; ``file_size``
            is the kernel's own refusal to let any file grow beyond ``nth`` KiB, which native writers meet as well.
        nth: Which call, counted from 1.
        killed: Whether the process dies there instead of being told that the disk is full.
    """

    place: Place
    nth: int
    killed: bool = False

    def install(self) -> None:
        """Arms the mishap in this process."""
        if self.place == "file_size":
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL if self.killed else signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.nth * 1024, self.nth * 1024))
            return
        import pyarrow.parquet as pq
        import zarr.storage._local as local

        if self.place == "chunk":
            local._put = self._at(local._put, _half_of_an_object)
        elif self.place == "table":
            pq.write_table = self._at(pq.write_table, _half_of_a_table)
        elif self.place == "fsync":
            os.fsync = self._at(os.fsync)
        else:
            os.replace = os.rename = self._at(os.replace)

    def _at(self, function: Callable[..., Any], half_done: Callable[..., None] | None = None) -> Callable[..., Any]:
        calls = 0

        def call(*args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls != self.nth:
                return function(*args, **options)
            if half_done is not None:
                half_done(*args)
            if self.killed:
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        return call


def _half_of_an_object(path: Path, value: Any, *_: object) -> None:
    content = memoryview(value.as_buffer_like()).cast("B")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".0123.partial").write_bytes(content[: len(content) // 2])


def _half_of_a_table(_: object, path: Path, *__: object) -> None:
    Path(path).write_bytes(b"PAR1 half a table")
