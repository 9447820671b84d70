"""Which processes are there, for tests of what is left behind."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path


def wait_until[T](condition: Callable[[], T], timeout_s: float, what: str) -> T:
    """What a condition gives once that is true."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:.0f} s"
        time.sleep(0.2)
    return found


def is_alive(process: int) -> bool:
    """Whether a process runs; one that ended and was not waited for does not."""
    return _parents().get(process) is not None


def descendants(process: int) -> set[int]:
    """Children of a process, their children, and so on, that run."""
    parents, found = _parents(), {process}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {process}


def processes_of_session(session: int) -> list[int]:
    """Processes of a session that run, the one that began it among them."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(stat.parent.name))
    return found


def shared_memory(processes: set[int]) -> list[str]:
    """Segments of shared memory that PyTorch made for processes."""
    return [each.name for process in processes for each in Path("/dev/shm").glob(f"torch_{process}_*")]


def _parents() -> dict[int, int]:
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(stat.parent.name)] = int(parent)
    return parents
