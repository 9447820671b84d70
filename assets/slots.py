"""Frees the slots of pools that runs still hold although their process is gone.

A run that was killed outright cannot give back its slot, and without a daemon nobody else does: the next training waits
for it forever. On the machine where the run was started:

    python -m assets.slots
"""

import os
import sys
from pathlib import Path

import dagster as dg
from dagster import DagsterEventType, DagsterInstance


def free_slots_of_dead_runs(instance: DagsterInstance) -> list[tuple[str, str]]:
    """Frees what runs hold that are finished, unknown, or whose process is not on this machine any more.

    Returns:
        Pool and run of every slot that was freed.
    """
    storage = instance.event_log_storage
    freed = []
    for pool in sorted(storage.get_concurrency_keys()):
        info = storage.get_concurrency_info(pool)
        for run_id in sorted(info.active_run_ids | info.pending_run_ids):
            if not _is_alive(instance, run_id):
                storage.free_concurrency_slots_for_run(run_id)
                freed.append((pool, run_id))
    return freed


def _is_alive(instance: DagsterInstance, run_id: str) -> bool:
    run = instance.get_run_by_id(run_id)
    if run is None or run.is_finished:
        return False
    pids = _process_ids(instance, run_id)
    return not pids or any(_is_process_of_dagster(pid) for pid in pids)


def _process_ids(instance: DagsterInstance, run_id: str) -> set[int]:
    """Ids of the processes that carried a run, from its own log."""
    records = instance.all_logs(run_id, of_type=DagsterEventType.ENGINE_EVENT)
    found = set()
    for record in records:
        event = record.dagster_event
        metadata = event.engine_event_data.metadata if event is not None else {}
        pid = metadata.get("pid")
        if pid is not None and str(pid.value).isdecimal():
            found.add(int(str(pid.value)))
    return found


def _is_process_of_dagster(pid: int) -> bool:
    """Whether a process is there and is one of Dagster's; ids are given anew, so that another's may be met."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    command = Path(f"/proc/{pid}/cmdline")
    try:
        return not command.exists() or b"dagster" in command.read_bytes()
    except OSError:
        return True


def main() -> int:
    """Frees the slots in the instance of $DAGSTER_HOME and tells of each."""
    with dg.DagsterInstance.get() as instance:
        freed = free_slots_of_dead_runs(instance)
    lines = [f"freed  pool {pool}: run {run_id}, whose process is gone" for pool, run_id in freed]
    sys.stdout.write("\n".join(lines or ["no slot is held by a run whose process is gone"]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
