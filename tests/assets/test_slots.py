import os
import signal
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from assets.slots import free_slots_of_dead_runs
from tests.conftest import REPOSITORY
from tests.processes import wait_until

SLEEPER = """
import time
import dagster as dg

@dg.op(pool="gpu")
def hold():
    time.sleep(300)

@dg.job(executor_def=dg.in_process_executor)
def holding():
    hold()
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "dagster.yaml").write_text((REPOSITORY / "dagster.yaml").read_text())
    (tmp_path / "sleeper.py").write_text(SLEEPER)
    return tmp_path


def active_runs(home: Path) -> set[str]:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        storage = instance.event_log_storage
        return (
            set() if "gpu" not in storage.get_concurrency_keys() else storage.get_concurrency_info("gpu").active_run_ids
        )


@pytest.mark.slow
def test_a_killed_run_gives_its_slot_back_and_a_living_one_keeps_it(home: Path) -> None:
    command = [sys.executable, "-m", "dagster", "job", "execute", "-f", str(home / "sleeper.py"), "-j", "holding"]
    environment = os.environ | {"DAGSTER_HOME": str(home), "DAGSTER_DISABLE_TELEMETRY": "1"}
    process = subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: bool(active_runs(home)), 60, "the run's slot")
        (run_id,) = active_runs(home)
        with dg.DagsterInstance.from_config(str(home)) as instance:
            assert free_slots_of_dead_runs(instance) == []
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert active_runs(home) == {run_id}
        with dg.DagsterInstance.from_config(str(home)) as instance:
            assert free_slots_of_dead_runs(instance) == [("gpu", run_id)]
            assert free_slots_of_dead_runs(instance) == []
        assert active_runs(home) == set()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
