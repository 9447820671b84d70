"""Quality of training on the view bank beside training from pixels: few augmented views, or new ones in every epoch.

On the demo's dataset, three seeds. The bank holds V augmented views of every patch; from pixels every epoch draws
another view of each. Frozen random convolutional features, settings of the sandbox's preset otherwise, equal epochs.
Compared are retrieval on validation places and downstream scores in blocks of 10 degrees, under a ridge.

    make demo && satclip sandbox run -- python benchmarks/bank_quality.py [--check] [--epochs N] [--views V]
        [--root PATH] [--folder PATH]

Prints a table, then one JSON line per measure: by how much the bank's mean is better than the pixels', which must not
be below minus two standard errors of the difference; with ``--check`` the exit code is 1 unless every measure holds.
"""

import argparse
import json
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from pipelines.embeddings.products import GridProducts, PointTable, build_embeddings
from pipelines.evaluation.run import EvaluationProtocol
from pipelines.evaluation.splits import SplitConfig
from pipelines.evaluation.stage import MODEL_NAME, score_embeddings
from pipelines.evaluation.tasks import TaskConfig
from pipelines.features.backbones import open_backbone
from pipelines.features.config import ImageBackboneSettings, ViewsConfig
from pipelines.features.view_bank import build_image_features, open_image_features
from pipelines.patches.dataset import open_patch_dataset
from pipelines.training.checkpoints import open_run, run_folder
from pipelines.training.config import TrainingConfig
from pipelines.training.run import train, train_from_pixels
from pipelines.workspace import workspace_root

PRESET = Path(__file__).resolve().parents[1] / "assets" / "config" / "sandbox.yaml"
SEEDS = (0, 1, 2)
TASKS = {"elevation": "r2", "biome": "accuracy"}
CELL_DEG = 10.0
RETRIEVAL = {"val_recall_at_1": 1.0, "val_mean_rank": -1.0}
"""Measures of retrieval, and whether more or less of them is better."""
STANDARD_ERRORS = 2.0


def measure(options: argparse.Namespace) -> pd.DataFrame:
    """A row per route and seed."""
    settings = yaml.safe_load(PRESET.read_text())["ops"]
    dataset = open_patch_dataset(workspace_root(options.root))
    tasks = [TaskConfig(**each) for each in settings["downstream_scores"]["config"]["tasks"] if each["name"] in TASKS]
    seen = ImageBackboneSettings(**settings["image_features"]["config"])
    backbone, views = open_backbone(seen), ViewsConfig(num_views=options.views)
    rows = []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        record = build_image_features(dataset, backbone, folder / "bank.zarr", views, settings=seen)
        bank = open_image_features(folder / "bank.zarr", dataset.version, record["fingerprint"])
        for seed in SEEDS:
            changes = {"seed": seed, "epochs": options.epochs}
            config = TrainingConfig(**{**settings["satclip_checkpoint"]["config"], **changes})
            for route in ("bank", "pixels"):
                run_name = f"{route}-{seed}"
                if route == "bank":
                    result = train(dataset, bank, config, run_folder(folder, run_name), backbone)
                else:
                    target = run_folder(folder, run_name)
                    result = train_from_pixels(dataset, backbone, config, target, views=views, settings=seen)
                rows.append({"route": route, "seed": seed, **result.metrics, **_scores(folder, run_name, tasks, seed)})
    return pd.DataFrame(rows)


def _scores(folder: Path, run_name: str, tasks: list[TaskConfig], seed: int) -> dict[str, float]:
    run, tables = open_run(folder, run_name), os.environ.get("SATCLIP_TABLES_ROOT")
    wanted = [PointTable(task.name, task.table, task.lon_column, task.lat_column) for task in tasks]
    build_embeddings(folder, run, GridProducts(CELL_DEG, formats=("parquet",)), wanted, tables)
    blocks = (SplitConfig(kind="blocks", cell_deg=CELL_DEG),)
    protocol = EvaluationProtocol(splits=blocks, seeds=(seed,), interpolation=False)
    scores = score_embeddings(folder, run, tasks, protocol, tables).scores
    own = scores[(scores["model_name"] == MODEL_NAME) & (scores["split"] == "blocks")]
    found = {(row.task, row.metric_name): float(row.metric_value) for row in own.itertuples()}
    return {f"{task}_{metric}": found[task, metric] for task, metric in TASKS.items()}


def targets(measured: pd.DataFrame) -> list[dict[str, Any]]:
    """One line per measure: the difference of means, better positive, against minus two standard errors."""
    signs = RETRIEVAL | {f"{task}_{metric}": 1.0 for task, metric in TASKS.items()}
    lines = []
    for column, sign in signs.items():
        bank, pixels = (measured.loc[measured["route"] == route, column].to_numpy() for route in ("bank", "pixels"))
        difference = sign * float(bank.mean() - pixels.mean())
        error = math.sqrt((np.var(bank, ddof=1) + np.var(pixels, ddof=1)) / len(SEEDS))
        lines.append(
            {
                "metric": f"bank_quality.{column}_over_pixels",
                "value": round(difference, 4),
                "target": round(-STANDARD_ERRORS * error, 4),
                "holds": bool(difference >= -STANDARD_ERRORS * error),
            }
        )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=None, help="workspace of the demo; default as for satclip")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--views", type=int, default=8, help="views of the bank, the plain one among them")
    parser.add_argument("--folder", type=Path, default=None, help="where files go; default the system's temporary one")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    options = parser.parse_args()
    measured = measure(options)
    columns = [
        "route",
        "seed",
        *RETRIEVAL,
        "val_median_error_km",
        *(f"{task}_{metric}" for task, metric in TASKS.items()),
    ]
    print(f"{options.epochs} epochs, V = {options.views}")
    print(measured[columns].to_string(index=False, float_format="{:.3f}".format))
    lines = targets(measured)
    for line in lines:
        print(json.dumps(line))
    return 0 if all(line["holds"] for line in lines) or not options.check else 1


if __name__ == "__main__":
    sys.exit(main())
