"""One trial: the build is started until it ends well; then it must be what it would have been undisturbed."""

import os
import random
import signal
import time
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING

from pipelines.patches.config import PatchConfig
from tests.drill import build as program
from tests.drill.build import BUG, Job
from tests.drill.schedule import Schedule, draw_schedule
from tests.drill.world import Outcome, World, read_outcome

if TYPE_CHECKING:
    from distributed import LocalCluster

MAX_STARTS = 25
LONGEST_START_S = 90.0
_processes = get_context("forkserver")
_processes.set_forkserver_preload(["tests.drill.build"])


@dataclass(frozen=True)
class TrialReport:
    """How a trial went: exit codes of all starts (the last is 0), requests of every kind."""

    exit_codes: tuple[int | None, ...]
    seconds: float
    num_requests: int


def run_undisturbed(world: World, reader: str | None = None, name: str = "undisturbed") -> Outcome:
    """What every trial must end in, built in the workspace ``name``."""
    world.reset()
    process = start(world.job(name, config=_config(world, reader)))
    process.join(LONGEST_START_S)
    assert process.exitcode == 0, (world.folder / f"{name}.log").read_text()
    outcome = read_outcome(world.folder / name)
    outcome.assert_true()
    return outcome


def run_trial(world: World, seed: int, undisturbed: Outcome, cluster: "LocalCluster | None" = None) -> TrialReport:
    """Runs a seed's trial.

    Raises:
        AssertionError: the build never ended well, broke, or left something else; the message holds seed and schedule.
    """
    schedule = draw_schedule(seed, world.file_patterns)
    log_path = world.folder / f"seed{seed}.log"
    try:
        return _run(world, schedule, undisturbed, cluster)
    except AssertionError as error:
        log = "\n".join(log_path.read_text().splitlines()[-60:]) if log_path.is_file() else "no log"
        raise AssertionError(
            f"{error}\n\nrepeat with: python -m tests.drill --seed {seed}\n{schedule}\nend of {log_path}:\n{log}"
        ) from error


def start(job: Job) -> BaseProcess:
    """The build in a process of its own."""
    process = _processes.Process(target=program.run, args=(job,), daemon=True)
    process.start()
    return process


def readers() -> list[str]:
    """Names of the readers to choose from; none where there is only one."""
    field = PatchConfig.model_json_schema()["properties"].get("reader", {})
    return list(field.get("enum") or field.get("pattern", "").strip("^$()").split("|")) if field else []


def _config(world: World, reader: str | None) -> PatchConfig:
    config = world.job("any").config
    return config if reader is None else PatchConfig(**{**config.model_dump(), "reader": reader})


def _run(world: World, schedule: Schedule, undisturbed: Outcome, cluster: "LocalCluster | None") -> TrialReport:
    began = time.monotonic()
    name = f"seed{schedule.seed}"
    known = readers()
    world.reset(schedule.token_lifetime_s)
    for pattern, fault in schedule.faults:
        world.server.script(pattern, fault)
    config = _config(world, known[schedule.reader % len(known)] if known else None)
    address = cluster.scheduler_address if cluster is not None and schedule.on_dask else None
    exit_codes: list[int | None] = []
    while 0 not in exit_codes:
        assert len(exit_codes) < MAX_STARTS, f"not done after {MAX_STARTS} starts: exit codes {exit_codes}"
        number = len(exit_codes)
        mishap = schedule.mishaps[number] if number < len(schedule.mishaps) else None
        kill_s = schedule.kills_s[number] if number < len(schedule.kills_s) else None
        process = start(world.job(name, config=config, mishap=mishap, scheduler_address=address))
        exit_codes.append(_wait(process, kill_s, cluster if address else None, random.Random(schedule.seed + number)))
        assert exit_codes[-1] != BUG, f"start {number} broke with an error that no user can act on"
    outcome = read_outcome(world.folder / name)
    outcome.assert_true()
    undisturbed.assert_same(outcome)
    left = sorted(str(path) for path in (world.folder / name).rglob("*.damaged"))
    assert not left, f"shards were damaged: {left}"
    return TrialReport(tuple(exit_codes), time.monotonic() - began, world.server.num_answered())


def _wait(process: BaseProcess, kill_s: float | None, cluster: "LocalCluster | None", rng: random.Random) -> int | None:
    if kill_s is not None:
        process.join(kill_s)
        if process.is_alive():
            _kill(process, cluster, rng)
    process.join(LONGEST_START_S)
    if process.is_alive():
        process.kill()
        process.join()
        raise AssertionError(f"a start of the build did not end within {LONGEST_START_S:.0f} s")
    return process.exitcode


def _kill(process: BaseProcess, cluster: "LocalCluster | None", rng: random.Random) -> None:
    if cluster is None or rng.random() < 0.2:
        process.kill()
        return
    workers = [nanny.pid for nanny in cluster.workers.values() if nanny.pid]
    if workers:
        os.kill(rng.choice(workers), signal.SIGKILL)
