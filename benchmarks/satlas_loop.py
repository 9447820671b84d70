"""The whole Satlas loop on the synthetic planet: from scenes to dated objects, on tiles that no training saw.

    satclip sandbox run --objects --num-places 1 -- python benchmarks/satlas_loop.py FOLDER --check

Four fifths of the tiles of five areas are learned from, in four months; a tenth of these chooses the best epoch. The
models of solar farms and turbines are trained from scratch with the configurations sandbox_solar_farm and
sandbox_wind_turbine. The other tiles, of which a training sees nothing, are gone through month by month, 18 months:
windows, predictions, products. An area of its own, of other colors, shows what the models are worth where nothing was
learned. Everything is written into FOLDER and taken from there the next time. Figures:

- F1 of solar farms by pixel and average precision of turbines, on unseen tiles and in the unseen area, in three months;
- time of both trainings;
- how many of the objects that were built, and removed, are dated within a month; removed ones may be seen for as long
  as the mosaics look back. Objects under the cloud that does not clear are counted on their own line;
- objects of all months whose place had no image in that month;
- objects of four months that change when the grid of tiles is moved by half a window.

Scores on a synthetic planet prove plumbing and learning, never the quality of a model on Earth. Prints tables, then one
JSON line per target; with --check the exit code is 1 unless every target holds.
"""

import argparse
import json
import logging
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import geopandas
import numpy as np
import pandas as pd
import shapely
import torch
from numpy.typing import NDArray
from pyproj import Transformer

from pipelines.atomic import replacing
from pipelines.provenance import file_sha256
from pipelines.sampling.catalog import open_catalog
from pipelines.sandbox.planted.areas import AREAS, NUM_MONTHS, month_text
from pipelines.sandbox.planted.objects import planted_truth
from pipelines.satlas.area_tiles import AreaTile, tiles_of_area
from pipelines.satlas.history import places_of
from pipelines.satlas.inference_config import InferenceConfig
from pipelines.satlas.months import month_number
from pipelines.satlas.observations import ObservedMonth
from pipelines.satlas.prediction_stage import predict_windows
from pipelines.satlas.predictions import TileGrid, list_predictions, read_record
from pipelines.satlas.product_config import ProductConfig
from pipelines.satlas.products import build_products
from pipelines.satlas.task_weights import find_satlas_weights, open_satlas_model, read_score_thresholds
from pipelines.satlas.training.known_objects import read_known_objects
from pipelines.satlas.training.loop import SatlasRun, train_satlas
from pipelines.satlas.training.metrics import match_points
from pipelines.satlas.training.named_configs import read_satlas_config
from pipelines.satlas.training.scoring import score_examples
from pipelines.satlas.training.window_examples import WindowExamples, is_validation_tile, open_window_examples
from pipelines.satlas.versions import HISTORY, products_folder
from pipelines.satlas.window_stage import build_windows
from pipelines.satlas.windows import list_windows
from pipelines.satlas.windows_config import WindowsConfig
from pipelines.workspace import stac_url

TASKS: Final = ("solar_farm", "wind_turbine")
TRAINING_AREAS: Final = ("altmark", "deccan", "free_state", "pampas", "murray")
UNSEEN_AREAS: Final = ("kansas",)
HELD_OUT_SHARE: Final = 0.2
VALIDATION_SHARE: Final = 0.1
TRAINING_MONTHS: Final = (2, 7, 12, 17)
SCORED_MONTHS: Final = (3, 9, 15)
SHIFTED_MONTHS: Final = tuple(range(15, NUM_MONTHS + 1))
NUM_PERIODS: Final = 4
"""Periods of 30 days, hence months, for which an object that is gone may still be in a mosaic."""
TILE_PX: Final = 512
MINIMUM_F1, MINIMUM_AP, MINIMUM_DATED, MAXIMUM_MINUTES, MAXIMUM_CHANGED = 0.8, 0.7, 0.8, 20.0, 0.01
MATCH_M: Final = {"solar_farm": 150.0, "wind_turbine": 100.0}
INFERENCE: Final = InferenceConfig(window_px=256, overlap_px=128, batch_size=1)
"""Sixteen windows per tile and its margin, on one lattice whatever the grid of tiles."""
SEED: Final = 0
VALIDATION_SEED: Final = 1
_INSET_M: Final = 30.0
"""A tile's polygon stays so far within it, so that it touches no other."""


@dataclass(frozen=True)
class Figure:
    """A figure and its target."""

    metric: str
    value: float
    target: float
    holds: bool


def windows_config(areas: tuple[str, ...]) -> WindowsConfig:
    """Windows of some areas."""
    boxes = tuple(area.box_deg for area in AREAS if area.name in areas)
    return WindowsConfig(boxes=boxes, tile_px=TILE_PX, num_periods=NUM_PERIODS)


def tiles_of_training_areas(*, held_out: bool) -> list[AreaTile]:
    """Tiles of the training areas that are learned from, or that are not."""
    tiles = tiles_of_area(windows_config(TRAINING_AREAS))
    return [tile for tile in tiles if is_validation_tile(tile.name, HELD_OUT_SHARE, SEED) == held_out]


def tiles_config(root: Path, name: str, tiles: list[AreaTile], shift_px: int = 0) -> WindowsConfig:
    """Windows of some tiles alone, or of what covers them on a moved grid."""
    polygons = []
    for tile in tiles:
        inner = shapely.box(*tile.grid.bounds_m).buffer(-_INSET_M).segmentize(500.0)
        polygons.append(geopandas.GeoSeries([inner], crs=tile.grid.epsg).to_crs(4326).iloc[0])
    path = root / f"{name}.geojson"
    path.write_text(geopandas.GeoSeries(polygons, crs=4326).to_json())
    return WindowsConfig(area=str(path), tile_px=TILE_PX, num_periods=NUM_PERIODS, grid_shift_px=shift_px)


def make_windows(root: Path, config: WindowsConfig, months: list[str]) -> None:
    """Windows in months; what is there is kept."""
    catalog = open_catalog(stac_url(), "sentinel-2-l2a")
    for month in months:
        run = build_windows(root, month, config, catalog)
        if run.failures:
            raise SystemExit(f"{month}: {run.failures}")


def take_months(source: Path, root: Path, kind: Path) -> None:
    """Copies windows or predictions of the months of the moved grid into another workspace."""
    for month in (month_text(number) for number in SHIFTED_MONTHS):
        folder = Path("satlas") / kind / month
        shutil.copytree(source / folder, root / folder, dirs_exist_ok=True)


def labels_file(root: Path, task: str) -> Path:
    """What is planted, as known objects."""
    path = root / f"{task}.geojson"
    with replacing(path) as partial:
        partial.write_text(planted_truth(SEED, task).to_json(drop_id=True))
    return path


def train(root: Path, task: str) -> SatlasRun:
    """A model from scratch, or the one that is there."""
    config = read_satlas_config(f"sandbox_{task}")
    training, validation, parents = open_window_examples(
        root, [month_text(number) for number in TRAINING_MONTHS], labels_file(root, task), config.model.heads[0],
        VALIDATION_SHARE, VALIDATION_SEED,
    )  # fmt: skip
    return train_satlas(training, validation, config, root / "models" / task, parents=parents)


def unseen_score(root: Path, task: str, run: SatlasRun) -> float:
    """F1 by pixel or average precision on the windows of a workspace."""
    model = open_satlas_model(task, run.folder, torch.device("cpu"))
    head = model.config.heads[0]
    folders = [folder for number in SCORED_MONTHS for folder in list_windows(root, month_text(number))]
    known = read_known_objects(labels_file(root, task), head.categories)  # type: ignore[union-attr]
    return score_examples(model, WindowExamples(folders, known, head), INFERENCE, MATCH_M[task]).metric


def predict_months(root: Path, task: str, weights: Path, months: list[str]) -> None:
    """Predictions and products of months, in order."""
    model = open_satlas_model(task, weights, torch.device("cpu"))
    sha256 = file_sha256(find_satlas_weights(task, weights)[0])
    for month in months:
        run = predict_windows(
            root, model, task, month, weights_sha256=sha256, config=INFERENCE,
            score_thresholds=read_score_thresholds(weights),
        )  # fmt: skip
        if run.failures:
            raise SystemExit(f"{month}: {run.failures}")
        build_products(root, task, month, ProductConfig())


def read_product(root: Path, task: str, name: str) -> geopandas.GeoDataFrame:
    """A product in meters around its place: columns of the file, and ``lonlat``."""
    return geopandas.read_parquet(products_folder(root, task) / name / f"{task}.parquet")


def in_tiles(frame: geopandas.GeoDataFrame, margin_m: float = 0.0) -> NDArray[np.bool_]:
    """Whether objects lie in held-out tiles, off their edge."""
    lonlat = places_of(frame)
    inside = np.zeros(len(frame), dtype=np.bool_)
    for tile in tiles_of_training_areas(held_out=True):
        x, y = Transformer.from_crs(4326, tile.grid.epsg, always_xy=True).transform(*lonlat.T)
        west, south, east, north = tile.grid.bounds_m
        inside |= (x > west + margin_m) & (x < east - margin_m) & (y > south + margin_m) & (y < north - margin_m)
    return inside


def flat_m(lonlat_deg: NDArray[np.float64]) -> NDArray[np.float64]:
    """Places in meters, true to a thousandth within an area; areas are far apart."""
    north = np.radians(lonlat_deg[:, 1]) * 6_371_000.0
    return np.column_stack([np.radians(lonlat_deg[:, 0]) * 6_371_000.0 * np.cos(np.radians(lonlat_deg[:, 1])), north])


def dated(root: Path, task: str) -> pd.DataFrame:
    """Every planted object with an event: when it was built and removed, and when the history says so."""
    truth = planted_truth(SEED, task)
    truth = truth[in_tiles(truth)].reset_index(drop=True)
    found = read_product(root, task, HISTORY)
    known_m, found_m = flat_m(places_of(truth)), flat_m(places_of(found))
    rows = []
    for number, each in truth.iterrows():
        near = np.linalg.norm(found_m - known_m[number], axis=1) <= MATCH_M[task]
        mine = found[near]
        started, ended = mine[mine["start_known"]], mine[mine["end_known"]]
        rows.append(
            {
                "clouded": each["clouded"], "first": each["first_month"], "last": each["last_month"],
                "found": len(mine) > 0,
                "start": started["first_month"].min() if len(started) else None,
                "end": ended["last_month"].max() if len(ended) else None,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def months_late(said: object, true: object) -> float:
    """Months from the true date to the one that the product says; NaN where it says none."""
    return float(month_number(said) - month_number(true)) if isinstance(said, str) and isinstance(true, str) else np.nan


def dating(table: pd.DataFrame) -> pd.DataFrame:
    """Share of constructions and removals that are dated in time, in the open and under the cloud."""
    rows = []
    for event, true, said, latest in (("built", "first", "start", 1), ("removed", "last", "end", NUM_PERIODS + 1)):
        for clouded in (False, True):
            chosen = table[table[true].notna() & (table["clouded"] == clouded)]
            late = np.array([months_late(row[said], row[true]) for _, row in chosen.iterrows()])
            in_time = (late >= -1) & (late <= latest)
            rows.append(
                {
                    "event": event, "clouded": clouded, "objects": len(chosen), "in time": int(in_time.sum()),
                    "share": float(in_time.mean()) if len(chosen) else float("nan"),
                    "found": int(chosen["found"].sum()),
                    "median months late": float(np.nanmedian(late)) if np.isfinite(late).any() else float("nan"),
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def without_image(root: Path, task: str, months: list[str]) -> tuple[int, int, int]:
    """Objects of all months, those whose place had no image, and objects planted where a month had none."""
    total = wrong = hidden = 0
    truth = planted_truth(SEED, task)
    truth = truth[in_tiles(truth)]
    for month in months:
        tiles = [(TileGrid(**read_record(folder)["grid"]), folder) for folder in list_predictions(root, task, month)]
        observed = ObservedMonth(tiles)
        objects = read_product(root, task, month)
        total += len(objects)
        wrong += int((observed.num_periods(places_of(objects)) == 0).sum()) if len(objects) else 0
        hidden += int((observed.num_periods(places_of(truth)) == 0).sum())
    return total, wrong, hidden


def changed_by_shift(root: Path, shifted: Path, task: str) -> tuple[int, int]:
    """Objects of some months on either grid, and those that the other lacks; off the areas' edges."""
    number = changed = 0
    for month in (month_text(each) for each in SHIFTED_MONTHS):
        places = []
        for folder in (root, shifted):
            frame = read_product(folder, task, month)
            places.append(flat_m(places_of(frame[in_tiles(frame, 300.0)])))
        right, _ = match_points(places[1], np.ones(len(places[1])), places[0], MATCH_M[task])
        number += max(len(each) for each in places)
        changed += len(places[0]) + len(places[1]) - 2 * int(right.sum())
    return number, changed


def measure_task(root: Path, task: str, months: list[str]) -> list[Figure]:
    """Trains, predicts and scores one task."""
    run = train(root / "training", task)
    minutes = run.record["seconds"] / 60
    unseen, shifted, alone = root / "unseen", root / "shifted", root / "alone"
    score = unseen_score(unseen, task, run)
    name = "F1 by pixel" if task == "solar_farm" else "average precision"
    elsewhere = unseen_score(root / "elsewhere", task, run)
    print(f"{task}: trained in {minutes:.1f} minutes, best epoch {run.record['best_epoch']}")
    print(f"{name} {score:.3f} on unseen tiles, {elsewhere:.3f} in an area of which nothing was learned")
    predict_months(unseen, task, run.folder, months)
    table = dating(dated(unseen, task))
    print(table.to_string(index=False, float_format="{:.2f}".format), end="\n\n")
    total, wrong, hidden = without_image(unseen, task, months)
    print(f"{total} objects in {len(months)} months, {wrong} of them without an image; {hidden} planted were hidden")
    take_months(unseen, alone, Path("predictions") / task)
    for folder in (alone, shifted):
        predict_months(folder, task, run.folder, [month_text(each) for each in SHIFTED_MONTHS])
    number, changed = changed_by_shift(alone, shifted, task)
    print(f"{changed} of {number} objects of {len(SHIFTED_MONTHS)} months change with the grid", end="\n\n")
    least = MINIMUM_F1 if task == "solar_farm" else MINIMUM_AP
    figures = [
        Figure(f"{task}_{name.lower().replace(' ', '_')}", score, least, score >= least),
        Figure(f"{task}_training_minutes", minutes, MAXIMUM_MINUTES, minutes <= MAXIMUM_MINUTES),
        Figure(f"{task}_objects_without_image", wrong, 0, wrong == 0 and hidden > 0),
        Figure(
            f"{task}_changed_by_grid", changed / max(number, 1), MAXIMUM_CHANGED, changed < MAXIMUM_CHANGED * number
        ),
    ]
    for event in ("built", "removed"):
        both = table[table["event"] == event]
        share = float(both["in time"].sum() / both["objects"].sum())
        figures.append(Figure(f"{task}_{event}_in_time", share, MINIMUM_DATED, share >= MINIMUM_DATED))
    return figures


def main() -> int:
    """Runs the loop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="takes windows, models, predictions and products")
    parser.add_argument("--task", choices=TASKS, action="append", help="default: both")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch")
    parser.add_argument("--check", action="store_true", help="exit with 1 unless every target holds")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    torch.set_num_threads(options.threads)
    root, months = options.folder, [month_text(number) for number in range(1, NUM_MONTHS + 1)]
    root.mkdir(parents=True, exist_ok=True)
    learned, unseen = (tiles_of_training_areas(held_out=held_out) for held_out in (False, True))
    make_windows(
        root / "training", tiles_config(root, "learned", learned), [month_text(number) for number in TRAINING_MONTHS]
    )
    make_windows(root / "unseen", tiles_config(root, "held_out", unseen), months)
    make_windows(root / "elsewhere", windows_config(UNSEEN_AREAS), [month_text(number) for number in SCORED_MONTHS])
    take_months(root / "unseen", root / "alone", Path("windows"))
    moved = tiles_config(root, "held_out", unseen, INFERENCE.window_px // 2)
    make_windows(root / "shifted", moved, [month_text(number) for number in SHIFTED_MONTHS])
    figures = [figure for task in options.task or TASKS for figure in measure_task(root, task, months)]
    for figure in figures:
        print(json.dumps(figure.__dict__))
    return 0 if not options.check or all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
