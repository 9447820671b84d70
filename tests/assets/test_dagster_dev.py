"""A real ``dagster dev`` beside a real sandbox, driven over GraphQL as the UI drives it."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import requests
from dagster._core.scheduler.instigation import ScheduleInstigatorData

from assets.presets import read_preset
from pipelines.patches.dataset import open_patch_dataset
from pipelines.patches.store import read_store
from pipelines.sandbox.config import SandboxConfig
from pipelines.sandbox.lifecycle import start_sandbox
from pipelines.training.checkpoints import open_run
from pipelines.training.state import STATE_NAME
from pipelines.workspace import describe_workspace
from satclip_model.checkpoint.native import read_checkpoint
from tests.conftest import REPOSITORY
from tests.processes import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.network, pytest.mark.timeout(600)]

CI = read_preset("ci")
LOCATION = {"repositoryLocationName": "satclip", "repositoryName": "__repository__"}
LAUNCH = """mutation ($params: ExecutionParams!) { launchRun(executionParams: $params) { __typename
  ... on LaunchRunSuccess { run { runId } }
  ... on RunConfigValidationInvalid { errors { message } }
  ... on PythonError { message } } }"""
RUN = """query ($id: ID!) { runOrError(runId: $id) { ... on Run { status jobName runConfig tags { key value }
  stepStats { stepKey status } } } }"""
RUNS = "{ runsOrError { ... on Runs { results { runId status jobName tags { key value } } } } }"
LOGS = """query ($id: ID!) { logsForRun(runId: $id) {
  ... on EventConnection { events { ... on MessageEvent { message } } } } }"""
TERMINATE = "mutation ($id: String!) { terminateRun(runId: $id) { __typename } }"
START = "mutation ($selector: ScheduleSelector!) { startSchedule(scheduleSelector: $selector) { __typename } }"
FINISHED = {"SUCCESS", "FAILURE", "CANCELED"}


def group_members(group: int) -> set[int]:
    """Ids of the processes of a group that are alive."""
    members = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, pgrp = stat.read_text().rpartition(")")[2].split()[:3]
            if int(pgrp) == group and state != "Z":
                members.add(int(stat.parent.name))
    return members


@dataclass(frozen=True)
class DagsterDev:
    """A running ``dagster dev``.

    Attributes:
        url: Of its web server.
        group: Id of its process group.
        home: Its DAGSTER_HOME.
        root: The workspace of its runs.
    """

    url: str
    group: int
    home: Path
    root: Path

    def ask(self, query: str, **variables: object) -> dict[str, Any]:
        answer = requests.post(f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=60).json()
        assert "errors" not in answer, answer["errors"]
        data: dict[str, Any] = answer["data"]
        return data

    def launch(
        self, job: str, config: dict[str, Any], tags: dict[str, str] | None = None, assets: list[str] | None = None
    ) -> str:
        selector: dict[str, Any] = {**LOCATION, "jobName": job}
        if assets:
            selector["assetSelection"] = [{"path": [name]} for name in assets]
        pairs = [{"key": key, "value": value} for key, value in (tags or {}).items()]
        params = {"selector": selector, "runConfigData": config, "executionMetadata": {"tags": pairs}}
        answer = self.ask(LAUNCH, params=params)["launchRun"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return str(answer["run"]["runId"])

    def run(self, run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask(RUN, id=run_id)["runOrError"]
        return found

    def messages(self, run_id: str) -> list[str]:
        return [event.get("message", "") for event in self.ask(LOGS, id=run_id)["logsForRun"]["events"]]

    def finish(self, run_id: str, timeout_s: float = 300) -> dict[str, Any]:
        wait_until(lambda: self.run(run_id)["status"] in FINISHED, timeout_s, f"run {run_id}")
        return self.run(run_id)


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterDev]:
    folder = tmp_path_factory.mktemp("dev")
    home, root = folder / "home", folder / "workspace"
    home.mkdir()
    shutil.copy(REPOSITORY / "dagster.yaml", home)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    num_places = CI["ops"]["sample_points"]["config"]["num_places"]
    with start_sandbox(SandboxConfig(num_places=num_places)) as sandbox:
        environment = {**os.environ, **sandbox.environment, "DAGSTER_HOME": str(home), "SATCLIP_ROOT": str(root)}
        environment |= {"SATCLIP_PRESET": "ci", "DAGSTER_DISABLE_TELEMETRY": "1", "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, "-m", "dagster", "dev", "-w", str(REPOSITORY / "workspace.yaml"), "-p", port]
        with (folder / "dev.log").open("wb") as log:
            process = subprocess.Popen(
                [*command, "-h", "127.0.0.1"], cwd=folder, env=environment, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        try:
            server = DagsterDev(f"http://127.0.0.1:{port}", process.pid, home, root)

            def answers() -> bool:
                assert process.poll() is None, (folder / "dev.log").read_text()[-3000:]
                with contextlib.suppress(requests.ConnectionError):
                    return requests.get(f"{server.url}/server_info", timeout=5).ok
                return False

            wait_until(answers, 120, "dagster dev")
            yield server
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
            wait_until(lambda: not group_members(process.pid), 60, "an empty process group after SIGINT")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module")
def chain(dev: DagsterDev) -> dict[str, Any]:
    """The finished run of ``full_chain``; it fills the workspace, so that later runs skip finished shards."""
    return dev.finish(dev.launch("full_chain", CI))


@pytest.fixture(scope="module")
def refresh(dev: DagsterDev, chain: dict[str, Any]) -> datetime:
    """Starts ``monthly_refresh`` as if somebody had switched it on before its last due time; returns that time.

    The daemon then finds a due tick that it has not evaluated: a real tick, without waiting for the second of a month.
    """
    now = datetime.now(UTC)
    due = now.replace(day=2, hour=3, minute=0, second=0, microsecond=0)
    if due > now:
        due = due.replace(year=due.year - (due.month == 1), month=(due.month - 2) % 12 + 1)
    answer = dev.ask(START, selector={**LOCATION, "scheduleName": "monthly_refresh"})
    assert answer["startSchedule"]["__typename"] == "ScheduleStateResult"
    with dg.DagsterInstance.from_config(str(dev.home)) as instance:
        (state,) = instance.all_instigator_state()
        data = ScheduleInstigatorData(cron_schedule="0 3 2 * *", start_timestamp=due.timestamp() - 60)
        instance.update_instigator_state(state.with_data(data))
    return due


def test_the_full_chain_succeeds(dev: DagsterDev, chain: dict[str, Any]) -> None:
    assert chain["status"] == "SUCCESS"
    assert {"key": "dagster/asset_partition_range_end", "value": "79"} in chain["tags"]
    assert describe_workspace(dev.root)["report"].is_file()


def test_one_partition_of_patches_is_materialized_alone(dev: DagsterDev, chain: dict[str, Any]) -> None:
    store = read_store(open_patch_dataset(dev.root).path)
    store.sidecar_path(0).unlink()
    config = {"ops": {"patches": CI["ops"]["patches"]}, "execution": {"config": {"in_process": {}}}}
    run_id = dev.launch("__ASSET_JOB", config, {"dagster/partition": "00"}, ["patches"])
    finished = dev.finish(run_id)
    assert finished["status"] == "SUCCESS"
    assert [each["stepKey"] for each in finished["stepStats"]] == ["patches"]
    assert store.is_done(0)
    assert any("shard 0 done" in message for message in dev.messages(run_id))


def test_a_tick_of_the_monthly_refresh_launches_its_job(dev: DagsterDev, refresh: datetime) -> None:
    def launched() -> str | None:
        results = dev.ask(RUNS)["runsOrError"]["results"]
        return next((run["runId"] for run in results if run["jobName"] == "build_dataset"), None)

    finished = dev.finish(wait_until(launched, 150, "a run of the schedule"))
    assert finished["status"] == "SUCCESS"
    tags = {each["key"]: each["value"] for each in finished["tags"]}
    assert tags["satclip/month"] == tags["dagster/run_key"] == f"{refresh:%Y-%m}"
    assert tags["dagster/schedule_name"] == "monthly_refresh"
    assert tags["dagster/asset_partition_range_start"] == "00"
    assert tags["dagster/asset_partition_range_end"] == "79"
    assert finished["runConfig"]["ops"]["sample_points"] == CI["ops"]["sample_points"]


@pytest.mark.parametrize("run_in", ["step", "subprocess"])
def test_a_cancelled_job_leaves_no_process(dev: DagsterDev, refresh: datetime, run_in: str) -> None:
    before = open_run(dev.root).name
    training = CI["ops"]["satclip_checkpoint"]["config"] | {"epochs": 1_000_000, "run_in": run_in, "num_threads": 1}
    config = {
        "execution": {"config": {"multiprocess": {"max_concurrent": 1}}},
        "ops": {"image_features": CI["ops"]["image_features"], "satclip_checkpoint": {"config": training}},
    }
    run_id = dev.launch("train_model", config)

    def trains() -> bool:
        assert dev.run(run_id)["status"] not in FINISHED
        rows = (re.match(r"epoch (\d+) of 1000000: ", message) for message in dev.messages(run_id))
        return any(int(row[1]) >= 5 for row in rows if row)

    wait_until(trains, 180, "an epoch from the fifth on")
    own = ("multiprocessing.spawn", "assets.train_process", run_id)
    lines = {member: command_line(member) for member in group_members(dev.group)}
    processes = {member for member, line in lines.items() if any(each in line for each in own)}
    assert any("assets.train_process" in lines[each] for each in processes) == (run_in == "subprocess")
    assert processes
    assert dev.ask(TERMINATE, id=run_id)["terminateRun"]["__typename"] == "TerminateRunSuccess"
    assert dev.finish(run_id, 60)["status"] == "CANCELED"
    wait_until(lambda: not processes & group_members(dev.group), 60, f"the end of processes {processes}")
    assert open_run(dev.root).name == before
    (state,) = (dev.root / "checkpoints").glob(f"*/{STATE_NAME}")
    assert read_checkpoint(state)[1]["step"] >= 5


def command_line(process: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ")
    return ""
