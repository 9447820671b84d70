"""What sampling costs and how even it comes out, over the sandbox's full land tiling.

    python benchmarks/sampling.py --check [--folder FOLDER]

Renders the items of all land tiles once (3 minutes; FOLDER keeps them), serves them by a STAC API on loopback, and then
- searches the scenes of 20,000 places, counting the requests that the server saw;
- draws 1,000,000 places and gives them ordered candidates, in a process of its own whose peak memory is measured;
- decides by the scene classification, rendered window by window, which patches of the 20,000 places are accepted, and
  compares their spherical-cap discrepancy with that of independent uniform places and of the original's procedure.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
from land_catalog import LandStac, build_catalog, serve_catalog
from numpy.typing import NDArray

from pipelines.patches.config import PatchConfig
from pipelines.patches.quality import window_quality
from pipelines.patches.uniformity import land_reference, spherical_cap_discrepancy, uniform_discrepancy_quantile
from pipelines.sampling.areas import search_groups
from pipelines.sampling.candidates import index_scenes, plan_candidates
from pipelines.sampling.catalog import open_catalog
from pipelines.sampling.config import PlanConfig, SearchConfig
from pipelines.sampling.manifest import write_sampling_manifest
from pipelines.sampling.original import draw_original
from pipelines.sampling.points import draw_land_points
from pipelines.sampling.scenes import find_scenes, read_scene_candidates, write_scene_candidates
from pipelines.sandbox import kernels, spectra
from pipelines.sandbox.fields import Planet
from pipelines.sandbox.rendering import Renderer
from pipelines.sandbox.scenes import HALF_SWATH, Scene, scene_from_product_name
from pipelines.sandbox.utm import central_meridian_deg

NUM_PLACES, NUM_PROJECTED, NUM_LARGEST = 20_000, 100_000, 1_000_000
MAX_REQUESTS_PER_PLACE, MAX_PROJECTED = 0.7, 0.25
MAX_SECONDS, MAX_GIGABYTES = 600.0, 4.0
MIN_ITEMS_PER_TILE = 10
SEED = 0
SEARCH, PLAN = SearchConfig(), PlanConfig()
SCL_GSD_M, SCL_SIZE, LATTICE_STEP = 20, 128, 8
LATITUDE_BANDS = (-56, -35, -15, 15, 35, 50, 60, 70, 84)
WINDOWS_PER_TASK = 250

Window = tuple[str, int, int]


def places_of(lonlat_deg: NDArray[np.float64]) -> pd.DataFrame:
    columns = {"place_id": np.arange(len(lonlat_deg)), "lon_deg": lonlat_deg[:, 0], "lat_deg": lonlat_deg[:, 1]}
    return pd.DataFrame(columns)


# acceptance by the scene classification -----------------------------------------------------------------------------


@cache
def _renderer() -> Renderer:
    return Renderer(Planet(SEED))


@cache
def _scene(product: str) -> Scene:
    return scene_from_product_name(product)


def scl_window(scene: Scene, row_px: int, col_px: int) -> NDArray[np.uint8]:
    """Scene classes of a patch of 2,560 m, shape (128, 128), rendered at its own place instead of block by block."""
    renderer, tile, count = _renderer(), scene.tile, SCL_SIZE // LATTICE_STEP + 1
    lonlat = kernels.position_lattice(
        float(tile.x_ul_m + 10 * col_px),
        float(tile.signed_y_ul_m - 10 * row_px),
        float(SCL_GSD_M * LATTICE_STEP),
        count,
        float(np.radians(central_meridian_deg(tile.zone))),
    )
    fields = kernels.fields_at(lonlat, *renderer.planet.field_arguments).reshape(-1, count, count)
    sky = renderer._sky_at(scene, lonlat).reshape(-1, count, count)
    classes = np.empty((SCL_SIZE, SCL_SIZE), dtype=np.uint8)
    kernels.classify_plane(
        fields, sky, LATTICE_STEP, np.float32(HALF_SWATH), scene.season, spectra.COVER_GREEN_ARRAY, classes
    )
    return classes


def accept_windows(windows: list[Window]) -> list[bool]:
    """Whether each window passes the test that patches are put to."""
    config = PatchConfig()
    accepted = []
    for product, row_px, col_px in windows:
        quality = window_quality(scl_window(_scene(product), row_px, col_px))
        clear = quality.unclear_fraction <= config.max_unclear_fraction
        accepted.append(clear and quality.nodata_fraction < config.max_nodata_fraction)
    return accepted


def judge(candidates: pd.DataFrame, products: NDArray[np.object_], pool: ProcessPoolExecutor) -> NDArray[np.bool_]:
    """The verdict on each candidate's window."""
    rows = candidates[["scene_row", "row_px", "col_px"]].to_numpy()
    windows = [(str(products[scene]), int(row), int(col)) for scene, row, col in rows]
    tasks = [windows[start : start + WINDOWS_PER_TASK] for start in range(0, len(windows), WINDOWS_PER_TASK)]
    return np.array([each for verdicts in pool.map(accept_windows, tasks) for each in verdicts], dtype=bool)


def first_accepted(
    candidates: pd.DataFrame, products: NDArray[np.object_], pool: ProcessPoolExecutor
) -> tuple[pd.DataFrame, int]:
    """Per place the first candidate whose window is accepted, and how many windows were looked at."""
    accepted: list[pd.DataFrame] = []
    done: NDArray[np.int64] = np.empty(0, dtype=np.int64)
    tried = 0
    for rank in range(int(candidates["rank"].max()) + 1):
        left = candidates[(candidates["rank"] == rank) & ~candidates["place_row"].isin(done)]
        chosen = left[judge(left, products, pool)]
        tried += len(left)
        accepted.append(chosen)
        done = np.concatenate([done, chosen["place_row"].to_numpy()])
    return pd.concat(accepted), tried


def products_of(scenes: pd.DataFrame) -> NDArray[np.object_]:
    """The name of each scene's product: the folder of its files."""
    return np.array([urlsplit(base).path.strip("/").rpartition("/")[2] for base in scenes["href_base"]], dtype=object)


# one million places, in a process of its own -------------------------------------------------------------------------


def plan_largest(url: str, folder: Path, num_places: int) -> None:
    """Draws, searches, plans; prints the seconds of each step. Runs as ``--plan-largest``."""
    started = time.monotonic()
    places = places_of(draw_land_points(num_places, SEED))
    drawn = time.monotonic()
    scenes, report = find_scenes(places, open_catalog(url, "sentinel-2-l2a", "none"), SEARCH)
    write_scene_candidates(folder / "scenes.parquet", scenes, {})
    found = time.monotonic()
    parents = {"search_config": SEARCH.model_dump(mode="json")}
    manifest = write_sampling_manifest(folder / "sampling", places, scenes, PLAN, parents)
    ended = time.monotonic()
    steps = {"draw_s": drawn - started, "search_s": found - drawn, "plan_s": ended - found, "total_s": ended - started}
    counts = {
        "requests": report.num_requests,
        "scenes": len(scenes),
        "candidates": int(manifest.candidate_counts().sum()),
    }
    print(json.dumps(steps | counts))


def measure_largest(url: str, folder: Path, num_places: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--plan-largest", url, "--folder", str(folder), "--largest", str(num_places)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"planning {num_places} places ended with {process.returncode}")
    return json.loads(told.splitlines()[-1]) | {"peak_gb": usage.ru_maxrss * 1024 / 1e9}


# the whole ------------------------------------------------------------------------------------------------------------


def measure_requests(url: str, stac: LandStac, num_places: int) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, float]]:
    """Places, their scenes, and what the server counted."""
    places = places_of(draw_land_points(num_places, SEED))
    before, started = stac.num_requests, time.monotonic()
    scenes, report = find_scenes(places, open_catalog(url, "sentinel-2-l2a", "none"), SEARCH)
    requests = stac.num_requests - before
    figures = {
        "requests_per_place": requests / num_places,
        "requests_per_search": requests / report.num_searches,
        "places_without_scene": float(report.places_without_scene),
        "scenes": float(report.num_scenes),
        "seconds": time.monotonic() - started,
    }
    return places, scenes, figures


def measure(options: argparse.Namespace, folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Lines of figures and of the table."""
    catalog = build_catalog(folder / "items", SEED, options.max_acquisitions)
    with serve_catalog(folder / "items") as (url, stac):
        small = measure_requests(url, stac, 1000)[2]
        places, scenes, figures = measure_requests(url, stac, options.places)
        largest = measure_largest(url, folder, options.largest)
    groups = len(search_groups(draw_land_points(NUM_PROJECTED, SEED), SEARCH))
    projected = groups * figures["requests_per_search"] / NUM_PROJECTED
    candidates = plan_candidates(places, index_scenes(scenes, PLAN), PLAN)
    every_scene = read_scene_candidates(folder / "scenes.parquet")
    _, original = draw_original(every_scene, options.places, SEED)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        accepted, tried = first_accepted(candidates, products_of(scenes), pool)
        original_clear = judge(original, products_of(every_scene), pool)
    reference = land_reference()
    ours, theirs = (each[["patch_lon_deg", "patch_lat_deg"]].to_numpy() for each in (accepted, original))
    limits = {count: uniform_discrepancy_quantile(count, reference) for count in {len(ours), len(theirs)}}
    discrepancies = [spherical_cap_discrepancy(each, reference) for each in (ours, theirs, theirs[original_clear])]
    planned = spherical_cap_discrepancy(places[["lon_deg", "lat_deg"]].to_numpy(), reference)

    def line(metric: str, value: float, target: float | None = None, holds: bool | None = None) -> dict[str, Any]:
        return {"metric": metric, "value": round(float(value), 5), "target": target, "holds": holds}

    def at_most(metric: str, value: float, target: float) -> dict[str, Any]:
        return line(metric, value, round(target, 5), bool(value <= target))

    lines = [
        line("items_per_tile_min", catalog["min_items_per_tile"], MIN_ITEMS_PER_TILE,
             catalog["min_items_per_tile"] >= MIN_ITEMS_PER_TILE),
        line("items", catalog["num_items"]),
        line("requests_per_place_1000", small["requests_per_place"]),
        at_most(f"requests_per_place_{options.places}", figures["requests_per_place"], MAX_REQUESTS_PER_PLACE),
        line("search_seconds", figures["seconds"]),
        at_most("requests_per_place_100000_projected", projected, MAX_PROJECTED),
        line("places_without_scene", figures["places_without_scene"]),
        line("places_accepted", len(accepted)),
        line("windows_tried_per_place", tried / options.places),
        line("discrepancy_places", planned),
        at_most("discrepancy_accepted", discrepancies[0], limits[len(ours)]),
        line("discrepancy_original", discrepancies[1], round(limits[len(theirs)], 5),
             discrepancies[1] > limits[len(theirs)]),
        line("discrepancy_original_clear_only", discrepancies[2]),
        line("clear_fraction_original", original_clear.mean()),
        *(line(f"largest_{name}", value) for name, value in largest.items() if name not in ("total_s", "peak_gb")),
        at_most("largest_seconds", largest["total_s"], MAX_SECONDS),
        at_most("largest_peak_gb", largest["peak_gb"], MAX_GIGABYTES),
    ]  # fmt: skip
    shares = [np.histogram(each[:, 1], LATITUDE_BANDS)[0] / len(each) for each in
              (reference.lonlat_deg, places[["lon_deg", "lat_deg"]].to_numpy(), ours, theirs)]  # fmt: skip
    table = ["latitude     land   places  accepted  original   (share, %)"]
    for index, (low, high) in enumerate(pairwise(LATITUDE_BANDS)):
        land, drawn, kept, other = (100 * share[index] for share in shares)
        table.append(f"{low:4d} to {high:3d} {land:7.2f} {drawn:8.2f} {kept:9.2f} {other:9.2f}")
    return lines, table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="keeps the items between runs")
    parser.add_argument("--places", type=int, default=NUM_PLACES)
    parser.add_argument("--largest", type=int, default=NUM_LARGEST)
    parser.add_argument("--max-acquisitions", type=int, default=12)
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    parser.add_argument("--plan-largest", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plan_largest:
        plan_largest(options.plan_largest, options.folder, options.largest)
        return 0
    with tempfile.TemporaryDirectory(prefix="satclip-sampling-") as name:
        lines, table = measure(options, options.folder or Path(name))
    print("\n".join(table))
    for each in lines:
        print(json.dumps({key: value for key, value in each.items() if value is not None}))
    return int(options.check and not all(each["holds"] is not False for each in lines))


if __name__ == "__main__":
    raise SystemExit(main())
