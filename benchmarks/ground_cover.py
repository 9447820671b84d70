"""Ground cover on the synthetic planet: scores beside baselines, classes never seen, and a dense map.

    make demo
    satclip sandbox run -- python benchmarks/ground_cover.py --check

Uses the dataset and the bank of the demo; labels come from the sandbox's land-cover collection. Labels, checkpoint and
scores are written into the workspace and taken from there the next time. With --scene FOLDER (a file per band) the
model also maps a real scene: time, seams and georeference. Scores on a synthetic planet prove plumbing and learning,
never the quality of a model on Earth.

Prints tables, then one JSON line per target; with --check the exit code is 1 unless every target holds.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import rasterio

from pipelines.errors import ArtefactError
from pipelines.ground_cover.classification import ClassifyConfig, classify_scene
from pipelines.ground_cover.config import LabelsConfig
from pipelines.ground_cover.map_labels import build_labels, latest_labels_folder
from pipelines.ground_cover.score_stage import score_run
from pipelines.ground_cover.scores import BANDS, COORDINATES, LEARNED, MAJORITY, TEXT, GroundCoverScores, mean_scores
from pipelines.ground_cover.scores_config import GroundCoverScoresConfig
from pipelines.ground_cover.training import GroundCoverRun, open_inputs, train_ground_cover
from pipelines.ground_cover.training_config import GroundCoverTrainingConfig
from pipelines.patches.dataset import open_patch_dataset
from pipelines.workspace import stac_url, workspace_root

MINIMUM_MARGIN = 0.15
MAXIMUM_MAP_SECONDS = 120.0
MAXIMUM_CHANGED_SHARE = 0.01
NUM_THREADS = 2


@dataclass(frozen=True)
class Figure:
    """A figure and its target."""

    metric: str
    value: float
    target: float
    holds: bool


def measure(root: Path) -> tuple[GroundCoverRun, GroundCoverScores]:
    """Labels where there are none, a training, and its scores."""
    dataset = open_patch_dataset(root)
    try:
        latest_labels_folder(root, dataset.version)
    except ArtefactError:
        config = LabelsConfig(collection="land-cover", classes="sandbox")
        build_labels(root, dataset, config, (stac_url(), "auto", "auto"))
    run = train_ground_cover(root, GroundCoverTrainingConfig(), open_inputs(root))
    return run, score_run(root, run, GroundCoverScoresConfig()).scores


def tell_scores(scores: GroundCoverScores) -> list[Figure]:
    """Prints the scores."""
    means = mean_scores(scores.table)
    means = means[means["region"] == "all"].set_index("method")
    print(means.drop(columns="region").to_string(float_format="{:.3f}".format, na_rep="-"), end="\n\n")
    print(scores.classes.to_string(index=False, float_format="{:.3f}".format), end="\n\n")
    print("classes left out of training, asked for by their texts: average precision over chance")
    print(scores.unseen.to_string(index=False, float_format="{:.2f}".format), end="\n\n")
    f1 = means["macro_f1"]
    plain = max(f1[COORDINATES], f1[MAJORITY])
    lower = float(scores.unseen.set_index("class").loc["mean", "ci_lower"])
    seeds = scores.table["seed"].nunique()
    told = {
        "class embeddings": f1[LEARNED],
        "texts": f1[TEXT],
        "band statistics": f1[BANDS],
        "coordinates or majority": plain,
    }
    print(f"macro F1 over {seeds} seeds: {', '.join(f'{name} {value:.3f}' for name, value in told.items())}")
    print(f"lift of unseen classes, mean over classes: at least {lower:.2f}")
    figures = []
    for name in (LEARNED, TEXT):
        figures += [
            Figure(f"{name}_margin_over_plain", f1[name] - plain, MINIMUM_MARGIN, f1[name] - plain >= MINIMUM_MARGIN),
            Figure(f"{name}_margin_over_bands", f1[name] - f1[BANDS], 0.0, f1[name] >= f1[BANDS]),
        ]
    return [*figures, Figure("unseen_lift_lower_bound", lower, 1.0, lower > 1.0)]


def tell_map(scene: Path, run: GroundCoverRun) -> list[Figure]:
    """Maps a scene twice, with the grid of windows moved by half a step."""
    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder) / "map.tif", Path(folder) / "moved.tif"
        done = classify_scene(scene, run.checkpoint_path, first, num_threads=NUM_THREADS)
        moved = ClassifyConfig(shift_px=(4, 4))
        classify_scene(scene, run.checkpoint_path, second, config=moved, num_threads=NUM_THREADS)
        with rasterio.open(first) as one, rasterio.open(second) as other, rasterio.open(_finest(scene)) as band:
            changed = float((one.read(1) != other.read(1)).mean())
            is_same_grid = (one.transform, one.crs, one.shape) == (band.transform, band.crs, band.shape)
            height, width = one.shape
    told = f"{height} x {width} pixels, {done.num_windows} windows, {NUM_THREADS} threads"
    print(f"dense map of {told}: {done.seconds:.1f} s")
    print(f"grid of windows moved by 4 px: {changed:.2%} of the pixels change; grid of the scene: {is_same_grid}")
    return [
        Figure("dense_map_seconds", done.seconds, MAXIMUM_MAP_SECONDS, done.seconds <= MAXIMUM_MAP_SECONDS),
        Figure("dense_map_changed_share", changed, MAXIMUM_CHANGED_SHARE, changed <= MAXIMUM_CHANGED_SHARE),
        Figure("dense_map_grid_is_the_scenes", float(is_same_grid), 1.0, is_same_grid),
    ]


def _finest(scene: Path) -> Path:
    return next(iter(sorted(scene.glob("*B02*")))) if scene.is_dir() else scene


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=None, help="workspace; default $SATCLIP_ROOT or satclip_data")
    parser.add_argument("--scene", type=Path, default=None, help="also map this scene")
    parser.add_argument("--check", action="store_true", help="fail where the acceptance is missed")
    options = parser.parse_args()
    run, scores = measure(workspace_root(options.root))
    figures = tell_scores(scores)
    if options.scene is not None:
        figures += tell_map(options.scene, run)
    for each in figures:
        line = {"metric": f"ground_cover.{each.metric}", "value": round(each.value, 4), "target": each.target}
        print(json.dumps({**line, "holds": bool(each.holds)}))
    return 0 if all(each.holds for each in figures) or not options.check else 1


if __name__ == "__main__":
    sys.exit(main())
