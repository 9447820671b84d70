"""Ground cover on the synthetic planet: scores beside baselines, classes never seen, and a dense map.

    make demo
    satclip sandbox run -- python benchmarks/ground_cover.py --check

Uses the dataset and the bank of the demo; labels come from the sandbox's land-cover collection. Labels, checkpoint and
scores are written into the workspace and taken from there the next time. With --scene FOLDER (a file per band) the
model also maps a real scene: time, seams and georeference. Scores on a synthetic planet prove plumbing and learning,
never the quality of a model on Earth.
"""

import argparse
import tempfile
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


def tell_scores(scores: GroundCoverScores) -> list[str]:
    """Prints the scores; what is missed of the acceptance."""
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
    missed = []
    for name in (LEARNED, TEXT):
        if f1[name] < plain + MINIMUM_MARGIN:
            missed.append(f"{name}: macro F1 {f1[name]:.3f}, expected {plain + MINIMUM_MARGIN:.3f}")
        if f1[name] < f1[BANDS]:
            missed.append(f"{name}: macro F1 {f1[name]:.3f}, below band statistics {f1[BANDS]:.3f}")
    if not lower > 1:
        missed.append(f"unseen classes: lower bound of the lift {lower:.2f}, expected above 1")
    return missed


def tell_map(scene: Path, run: GroundCoverRun) -> list[str]:
    """Maps a scene twice, with the grid of windows moved by half a step; what is missed of the acceptance."""
    missed = []
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
    if done.seconds > MAXIMUM_MAP_SECONDS:
        missed.append(f"dense map: {done.seconds:.1f} s, expected at most {MAXIMUM_MAP_SECONDS:.0f}")
    if changed > MAXIMUM_CHANGED_SHARE:
        missed.append(f"dense map: {changed:.2%} of the pixels change, expected at most {MAXIMUM_CHANGED_SHARE:.0%}")
    if not is_same_grid:
        missed.append("dense map: another grid than the scene's")
    return missed


def _finest(scene: Path) -> Path:
    return next(iter(sorted(scene.glob("*B02*")))) if scene.is_dir() else scene


def main() -> None:
    """Prints all figures; with --check a figure that is missed ends in exit code 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=None, help="workspace; default $SATCLIP_ROOT or satclip_data")
    parser.add_argument("--scene", type=Path, default=None, help="also map this scene")
    parser.add_argument("--check", action="store_true", help="fail where the acceptance is missed")
    options = parser.parse_args()
    run, scores = measure(workspace_root(options.root))
    missed = tell_scores(scores)
    if options.scene is not None:
        missed += tell_map(options.scene, run)
    print("\n".join(missed) or "all figures hold")
    if options.check and missed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
