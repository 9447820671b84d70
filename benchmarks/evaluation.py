"""Downstream evaluation: published figures on real stations, and the time of the quick protocol over all shared tables.

The tables are those of ``SATCLIP_SHARED_DATA``. The model is an untrained location encoder with the released shape and
L = 40, as its time is that of any other; the baselines are sines and cosines, harmonics alone, the untrained encoder,
GeoCLIP and interpolation.

    python benchmarks/evaluation.py [--check] [--tasks NAME ...] [--work FOLDER]

Prints tables, then one JSON line per target; with ``--check`` the exit code is 1 unless every target holds.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pipelines.evaluation.methods import BASELINES, EncoderFeatures, open_method, released_config
from pipelines.evaluation.run import Evaluation, EvaluationProtocol, evaluate_tasks
from pipelines.evaluation.splits import SplitConfig
from pipelines.evaluation.summaries import markdown_table
from pipelines.evaluation.tasks import TaskConfig, describe_tasks, find_tasks
from satclip_model.location_encoder import build_location_encoder

MAXIMUM_MINUTES = 8.0
STATIONS = "air_temperature"
PUBLISHED = {"random": (0.852, 0.004), "blocks": (0.842, 0.012)}
"""R2 of a ridge on sines and cosines at the 3,076 stations, as CoordBench publishes it, by split."""


def shared_tasks(tables_root: str, names: Sequence[str]) -> list[TaskConfig]:
    """The registered tasks whose tables are there."""
    there = [row["name"] for row in describe_tasks(tables_root) if row["available"]]
    return find_tasks([name for name in there if not names or name in names])


def stations(tables_root: str, folder: Path) -> pd.DataFrame:
    """Ridge on sines and cosines, three seeds."""
    splits = (SplitConfig(kind="random"), SplitConfig(kind="blocks", cell_deg=10.0))
    protocol = EvaluationProtocol(splits=splits, seeds=(0, 1, 2), interpolation=False)
    methods = [open_method("sincos")]
    return evaluate_tasks(find_tasks([STATIONS]), lambda _: methods, protocol, folder, tables_root=tables_root).scores


def quick(tables_root: str, names: Sequence[str], folder: Path) -> Evaluation:
    """The quick protocol over all tasks."""
    config = released_config()
    encoder = build_location_encoder(config, seed=1).eval()
    methods = [EncoderFeatures("satclip L=40", encoder.encode, "untrained weights of seed 1")]
    methods += [open_method(name, reference=config) for name in BASELINES]  # type: ignore[misc]
    tasks = shared_tasks(tables_root, names)
    return evaluate_tasks(tasks, lambda _: methods, EvaluationProtocol.quick(), folder, tables_root=tables_root)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=[], help="some of the tasks alone")
    parser.add_argument("--work", type=Path, default=None, help="folder that keeps finished tasks")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    options = parser.parse_args()
    tables_root = os.environ.get("SATCLIP_SHARED_DATA")
    if not tables_root:
        print("SATCLIP_SHARED_DATA names no folder of tables")
        return 1
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory() as name:
        folder = options.work or Path(name)
        published = stations(tables_root, folder / "stations")
        evaluation = quick(tables_root, options.tasks, folder / "quick")
    print(markdown_table(published))
    print(markdown_table(evaluation.scores))
    lines: list[dict[str, Any]] = []
    for split, (value, tolerance) in PUBLISHED.items():
        rows = published[(published["split"] == split) & (published["metric_name"] == "r2")]
        mean = float(rows["metric_value"].mean())
        metric = f"evaluation.stations_sincos_r2_{split}"
        holds = abs(mean - value) <= tolerance
        lines.append({"metric": metric, "value": round(mean, 4), "target": [value, tolerance], "holds": holds})
    minutes = evaluation.seconds / 60
    holds = minutes < MAXIMUM_MINUTES and not evaluation.failures
    lines.append(
        {"metric": "evaluation.quick_minutes", "value": round(minutes, 2), "target": MAXIMUM_MINUTES, "holds": holds}
    )
    num_tasks = len(evaluation.notes)
    lines.append({"metric": "evaluation.quick_tasks", "value": num_tasks, "target": None, "holds": True})
    for line in lines:
        print(json.dumps(line))
    return 0 if all(line["holds"] for line in lines) or not options.check else 1


if __name__ == "__main__":
    sys.exit(main())
