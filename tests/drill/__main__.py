"""Repeats trials of the fault drill: ``python -m tests.drill --seed 17``."""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.drill.cluster import open_cluster
from tests.drill.schedule import draw_schedule
from tests.drill.trial import run_trial, run_undisturbed
from tests.drill.world import open_world


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, nargs="+", required=True)
    parser.add_argument("--folder", type=Path, default=None, help="where to leave workspaces and logs")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="drill-"))
    with open_world(folder) as world:
        undisturbed = run_undisturbed(world)
        for seed in arguments.seed:
            schedule = draw_schedule(seed, world.file_patterns)
            sys.stdout.write(f"{schedule}\n")
            with open_cluster(wanted=schedule.on_dask) as cluster:
                report = run_trial(world, seed, undisturbed, cluster)
            sys.stdout.write(f"{report}\nworkspace and log: {folder}/seed{seed}*\n")


if __name__ == "__main__":
    main()
