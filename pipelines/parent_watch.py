"""A process that ends with the one that started it, even where that one was killed."""

import os
import signal
import threading
import time
from typing import Final

_INTERVAL_S: Final = 0.5
_KILLED: Final = 128 + signal.SIGKILL


def end_with_parent(parent_pid: int, grace_s: float) -> None:
    """Starts a thread that sends SIGTERM to this process once its parent is gone, and ends it ``grace_s`` later.

    Args:
        parent_pid: Id of the process that started this one, as that one told it: it may be gone already.
        grace_s: Seconds that the handler of SIGTERM has.
    """
    if os.getppid() != parent_pid:
        os.kill(os.getpid(), signal.SIGTERM)
    threading.Thread(target=_watch, args=(parent_pid, grace_s), name="parent-watch", daemon=True).start()


def _watch(parent_pid: int, grace_s: float) -> None:
    while os.getppid() == parent_pid:
        time.sleep(_INTERVAL_S)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace_s)
    os._exit(_KILLED)
