"""Throughput of Satlas inference beside the original's way: window by window, without batches, in float32.

Both go over the same windows of a synthetic tile with the same weights (random, of the published solar-farm model),
up to the shares of each pixel; ours blends them over windows too. Polygons are left out: random shares make thousands.
The backbone's forward pass alone, in our batches and precision, is printed beside them, as it is and arranged for
inference. Rounds of all ways alternate.

    python benchmarks/satlas_inference.py [--check] [--device cpu|cuda] [--tile-px N] [--window-px N] [--batch-size N]
        [--precision auto|float32|bfloat16] [--rounds N] [--threads N]

Prints a table, then one JSON line per target; with ``--check`` the exit code is 1 unless every target holds.
"""

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from pipelines.satlas.images import TileImage
from pipelines.satlas.inference import (
    autocast_for,
    blend_windows,
    cut_window,
    predict_points,
    run_windows,
    tile_windows,
)
from pipelines.satlas.inference_config import InferenceConfig
from pipelines.satlas.predictions import TileGrid
from satclip_model.satlas import EXPLORER_CONFIGS, SatlasModel, build_satlas
from satclip_model.satlas.config import DetectionConfig

MINIMUM_RATIO = 1.3


def synthetic_images(tile_px: int, number: int) -> list[TileImage]:
    rng = np.random.default_rng(0)
    present = np.ones((tile_px, tile_px), dtype=bool)
    return [TileImage(rng.integers(1, 256, (9, tile_px, tile_px)).astype(np.uint8), present) for _ in range(number)]


@torch.inference_mode()
def original_way(model: SatlasModel, images: list[TileImage], grid: TileGrid, config: InferenceConfig) -> int:
    """Each window by itself: cut, converted, predicted in float32, taken to the host."""
    device = next(model.parameters()).device
    windows = tile_windows(grid.height_px, grid.width_px, config)
    for window in windows:
        stacked = cut_window(images, window, model.config.num_channels)[None].float() / 255.0
        (given,) = model(stacked.to(device))
        each = given[0]
        for tensor in each.values() if isinstance(each, dict) else (each,):
            tensor.float().cpu().numpy()
    return len(windows)


def ours(model: SatlasModel, images: list[TileImage], grid: TileGrid, config: InferenceConfig) -> None:
    """As products are made: maps blended over windows, or points, each once."""
    if isinstance(model.config.heads[0], DetectionConfig):
        predict_points(model, grid, images, config)
    else:
        blend_windows(run_windows(model, grid, images, config), grid, images)


@torch.inference_mode()
def bare_backbone(model: SatlasModel, images: list[TileImage], grid: TileGrid, config: InferenceConfig) -> int:
    """The backbone on windows that are on the device already."""
    device = next(model.parameters()).device
    windows = tile_windows(grid.height_px, grid.width_px, config)
    batch_size = config.batch_size_on(device.type)
    for start in range(0, len(windows), batch_size):
        batch = windows[start : start + batch_size]
        ready = torch.stack([cut_window(images, window, model.config.num_channels) for window in batch]).to(device)
        with autocast_for(device, config):
            model.backbone(ready.float() / 255.0, torch.ones(ready.shape[:2], dtype=torch.bool, device=device))
    return len(windows)


def seconds(run: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=("solar_farm", "wind_turbine"), default="solar_farm")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--tile-px", type=int, default=640)
    parser.add_argument("--window-px", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=None, help="default: one on a CPU, eight on a GPU")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    model = build_satlas(EXPLORER_CONFIGS[options.task]).to(device).eval()
    own = copy.deepcopy(model).for_inference()
    grid = TileGrid(32633, 500_000.0, 5_000_000.0, 10.0, options.tile_px, options.tile_px)
    config = InferenceConfig(
        window_px=options.window_px,
        overlap_px=options.window_px // 4,
        batch_size=options.batch_size,
        precision=options.precision,
    )
    images = synthetic_images(options.tile_px, model.config.num_images)
    ways: dict[str, Callable[[], object]] = {
        "original's way": lambda: original_way(model, images, grid, config),
        "ours": lambda: ours(own, images, grid, config),
        "backbone alone": lambda: bare_backbone(model, images, grid, config),
        "ours alone": lambda: bare_backbone(own, images, grid, config),
    }
    for run in ways.values():
        seconds(run, device)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, run in ways.items():
            taken[name].append(seconds(run, device))
    medians = {name: statistics.median(each) for name, each in taken.items()}
    number = len(tile_windows(options.tile_px, options.tile_px, config))
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{options.threads} threads"
    print(
        f"{number} windows of {options.window_px} px, {len(images)} images each, {where}, precision {options.precision}"
    )
    for name, found in medians.items():
        print(f"{name:<18}{found:>9.2f} s{number / found:>9.2f} windows per second")
    ratio = statistics.median(slow / fast for slow, fast in zip(taken["original's way"], taken["ours"], strict=True))
    shares = [round(medians[name] / medians["ours"], 3) for name in ("backbone alone", "ours alone")]
    lines = [
        {"metric": "satlas_inference.over_original", "value": round(ratio, 3), "target": MINIMUM_RATIO,
         "holds": ratio >= MINIMUM_RATIO},
        {"metric": "satlas_inference.backbone_over_ours", "value": shares[0], "target": None, "holds": True},
        {"metric": "satlas_inference.own_backbone_over_ours", "value": shares[1], "target": None, "holds": True},
    ]  # fmt: skip
    for line in lines:
        print(json.dumps(line))
    return 0 if all(line["holds"] for line in lines) or not options.check else 1


if __name__ == "__main__":
    sys.exit(main())
