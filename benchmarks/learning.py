"""What the embeddings learn on the synthetic planet: margins over the baselines and retrieval, means of three seeds.

    make demo
    satclip sandbox run -- python benchmarks/learning.py --check

Uses the dataset and the settings of the demo; a seed draws initial weights, the split of places, and the folds. Scores
on a synthetic planet prove plumbing and learning, never the quality of a model on Earth.
"""

import argparse
import json
import os
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
from pipelines.evaluation.summaries import margins, markdown_table
from pipelines.evaluation.tasks import TaskConfig
from pipelines.features.backbones import open_backbone
from pipelines.features.config import ImageBackboneSettings, ViewsConfig
from pipelines.features.view_bank import bank_fingerprint, image_features_path, open_image_features
from pipelines.patches.dataset import open_patch_dataset
from pipelines.training.checkpoints import open_run, run_folder
from pipelines.training.config import TrainingConfig
from pipelines.training.run import train
from pipelines.workspace import workspace_root

PRESET = Path(__file__).resolve().parents[1] / "assets" / "config" / "sandbox.yaml"
SEEDS = (0, 1, 2)
MARGIN_TASKS = {"elevation": "r2", "biome": "accuracy"}
MINIMUM_MARGIN = 0.05
TRAINING_RECALL_OVER_CHANCE = 20.0
VALIDATION_RECALL_OVER_CHANCE = 3.0
MINIMUM_VALIDATION_PLACES = 256


def measure(root: Path, tables_root: str | None, num_labels: int | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores in CoordBench's columns and retrieval metrics, a row per seed."""
    settings = yaml.safe_load(PRESET.read_text())["ops"]
    dataset = open_patch_dataset(root)
    backbone = open_backbone(ImageBackboneSettings(**settings["image_features"]["config"]))
    fingerprint = bank_fingerprint(backbone, ViewsConfig())
    path = image_features_path(root, dataset.version, fingerprint)
    features = open_image_features(path, dataset.version, fingerprint)
    tasks = [TaskConfig(**each) for each in settings["downstream_scores"]["config"]["tasks"]]
    tasks = [task for task in tasks if task.name in MARGIN_TASKS]
    if num_labels is not None:
        tasks = [task.model_copy(update={"table": f"{task.table}?points={num_labels}"}) for task in tasks]
    scores, retrieval = [], []
    with tempfile.TemporaryDirectory() as folder:
        for seed in SEEDS:
            own = Path(folder)
            config = TrainingConfig(**{**settings["satclip_checkpoint"]["config"], "seed": seed})
            result = train(dataset, features, config, run_folder(own, f"seed-{seed}"))
            run = open_run(own, f"seed-{seed}")
            wanted = [PointTable(task.name, task.table, task.lon_column, task.lat_column) for task in tasks]
            build_embeddings(own, run, GridProducts(10.0), wanted, tables_root)
            scores.append(score_embeddings(own, run, tasks, protocol(seed), tables_root).scores)
            counts = {"training_places": result.num_training_places, "validation_places": result.num_validation_places}
            retrieval.append({"seed": seed, **counts, **result.metrics})
    return pd.concat(scores, ignore_index=True), pd.DataFrame(retrieval)


def protocol(seed: int) -> EvaluationProtocol:
    """Ridge in random folds and in blocks of 10 degrees."""
    blocks = SplitConfig(kind="blocks", cell_deg=10.0)
    return EvaluationProtocol(splits=(SplitConfig(kind="random"), blocks), seeds=(seed,), interpolation=False)


def targets(scores: pd.DataFrame, retrieval: pd.DataFrame) -> list[dict[str, Any]]:
    """One line per target."""
    lines = []
    table = margins(scores, MODEL_NAME)
    for task, metric in MARGIN_TASKS.items():
        rows = table[(table["task"] == task) & (table["split"] != "random") & (table["metric_name"] == metric)]
        for row in rows.itertuples():
            name = f"{task}_{metric}_margin_over_{row.other}"
            lines.append(line(name, float(row.margin), MINIMUM_MARGIN))
    for part, factor, column in (
        ("train", TRAINING_RECALL_OVER_CHANCE, "recall_at_1"),
        ("val", VALIDATION_RECALL_OVER_CHANCE, "recall_at_1_lower"),
    ):
        chance = retrieval[f"{part}_chance_recall_at_1"]
        lines.append(
            line(f"{part}_{column}_over_chance", float((retrieval[f"{part}_{column}"] / chance).mean()), factor)
        )
    lines.append(line("validation_places", float(retrieval["validation_places"].min()), MINIMUM_VALIDATION_PLACES))
    return lines


def line(metric: str, value: float, target: float) -> dict[str, Any]:
    """A target that must be reached or exceeded."""
    return {"metric": metric, "value": round(value, 4), "target": target, "holds": bool(value >= target)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=None, help="workspace of the demo; default as for satclip")
    parser.add_argument("--labels", type=int, default=None, help="labels per task; default as in the demo")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    options = parser.parse_args()
    scores, retrieval = measure(workspace_root(options.root), os.environ.get("SATCLIP_TABLES_ROOT"), options.labels)
    print(markdown_table(scores))
    kept = ["seed", "training_places", "validation_places"]
    for part in ("train", "val"):
        kept += [f"{part}_{name}" for name in ("recall_at_1", "recall_at_1_lower", "mean_rank", "median_error_km")]
    print(retrieval[kept].to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    found = targets(scores, retrieval)
    for each in found:
        print(json.dumps(each))
    return int(options.check and not np.all([each["holds"] for each in found]))


if __name__ == "__main__":
    raise SystemExit(main())
