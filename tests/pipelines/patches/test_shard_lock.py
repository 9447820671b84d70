"""A shard has one writer at a time, and a writer that dies leaves no lock behind."""

import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from pipelines.errors import StoreError
from pipelines.patches.shard_lock import exclusive_shard
from tests.conftest import REPOSITORY

HOLD = (
    "import sys; from pathlib import Path; from pipelines.patches.shard_lock import exclusive_shard\n"
    "with exclusive_shard(Path(sys.argv[1]), 17): print('held', flush=True); sys.stdin.read()"
)


def start_holder(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_shard_held_by_another_process_is_refused_at_once_and_says_by_whom(tmp_path: Path) -> None:
    with start_holder(tmp_path) as holder:
        expected = (
            rf"^shard 17 of {tmp_path} is being written by process {holder.pid} on {socket.gethostname()} "
            r"since \d{4}-\d\d-\d\dT[\d:]+\+00:00; wait for it, or stop it, then run again$"
        )
        with pytest.raises(StoreError, match=expected), exclusive_shard(tmp_path, 17):
            pytest.fail("two processes hold one shard")
        with exclusive_shard(tmp_path, 16):
            pass
        holder.communicate()
    assert holder.returncode == 0
    with exclusive_shard(tmp_path, 17):
        pass


def test_killing_the_holder_frees_the_shard(tmp_path: Path) -> None:
    with start_holder(tmp_path) as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with exclusive_shard(tmp_path, 17):
            assert str(os.getpid()) in (tmp_path / "locks" / "00017.json").read_text()


def test_an_error_inside_frees_the_shard(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no room"), exclusive_shard(tmp_path, 0):
        raise OSError(28, "no room")
    with exclusive_shard(tmp_path, 0):
        pass
    assert [path.name for path in (tmp_path / "locks").iterdir()] == ["00000.lock"]


def test_two_threads_of_one_process_exclude_each_other_and_so_does_one_thread_itself(tmp_path: Path) -> None:
    together = Barrier(2)

    def hold(_: int) -> bool:
        together.wait()
        try:
            with exclusive_shard(tmp_path, 3):
                together.wait()
                return True
        except StoreError:
            together.wait()
            return False

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(hold, range(2))) == [False, True]
    with (
        exclusive_shard(tmp_path, 3),
        pytest.raises(StoreError, match=f"process {os.getpid()} "),
        exclusive_shard(tmp_path, 3),
    ):
        pytest.fail("one thread holds a shard twice")


def test_a_folder_that_cannot_be_locked_is_named(tmp_path: Path) -> None:
    (tmp_path / "locks" / "00000.lock").mkdir(parents=True)
    with pytest.raises(StoreError, match="shard 0 cannot be locked"), exclusive_shard(tmp_path, 0):
        pytest.fail("a folder is no lock")
