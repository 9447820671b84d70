"""Speed of the sandbox's renderer: pixels per second and core, and the cost of a patch of 12 bands and SCL.

``python benchmarks/sandbox_rendering.py [--check]`` prints a table and one JSON line per target.
"""

import argparse
import json
import sys
import time

import numpy as np

from pipelines.sandbox import spectra
from pipelines.sandbox.fields import Planet
from pipelines.sandbox.rendering import BLOCK_SIZE, Renderer
from pipelines.sandbox.scenes import Scene, tile_scenes
from pipelines.sandbox.tiling import TILE_SIZE_M, tile_from_id

BANDS = (*spectra.BANDS, "SCL")
TILES = ("32UNA", "20MRC", "35LNE", "13TDE", "58UGE", "46XER")
WINDOW_M = 2_560
MIN_MEGAPIXELS_PER_S = 15.0
MAX_PATCH_MS = 150.0


def band_row(scenes: list[Scene], band: str) -> float:
    """Megapixels per CPU second of one band over an area that is new to the renderer, for one band alone."""
    renderer = Renderer(Planet(0))
    num = -(-TILE_SIZE_M // (spectra.RESOLUTION_M[band] * BLOCK_SIZE))
    start, count = time.process_time(), 0
    for scene in scenes:
        for col in range(min(num, 6)):
            renderer.render(scene, band, num // 2, col)
            count += 1
    return count * BLOCK_SIZE**2 / 1e6 / (time.process_time() - start)


def area(scenes: list[Scene]) -> float:
    """Megapixels per CPU second of all bands of a 15 km square: fields are shared between bands."""
    renderer = Renderer(Planet(0))
    start, pixels = time.process_time(), 0
    for scene in scenes:
        for band in BANDS:
            across = 60 // spectra.RESOLUTION_M[band]
            for row in range(across):
                for col in range(across):
                    pixels += renderer.render(scene, band, across + row, across + col).size
    return pixels / 1e6 / (time.process_time() - start)


def patches(scenes: list[Scene], num: int, rng: np.random.Generator) -> tuple[float, float, float]:
    """CPU milliseconds per random unaligned window of 2,560 m, all bands and SCL; every block that is touched."""
    renderer = Renderer(Planet(0))
    start, blocks = time.process_time(), 0
    for index in range(num):
        scene = scenes[index % len(scenes)]
        top, left = rng.integers(0, TILE_SIZE_M - WINDOW_M, 2)
        for band in BANDS:
            extent = spectra.RESOLUTION_M[band] * BLOCK_SIZE
            for row in range(top // extent, (top + WINDOW_M - 1) // extent + 1):
                for col in range(left // extent, (left + WINDOW_M - 1) // extent + 1):
                    renderer.render(scene, band, int(row), int(col))
                    blocks += 1
    seconds = time.process_time() - start
    return 1e3 * seconds / num, blocks / num, blocks * BLOCK_SIZE**2 / 1e6 / seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    parser.add_argument("--patches", type=int, default=48)
    arguments = parser.parse_args()

    scenes = [tile_scenes(tile_from_id(name), 0)[1] for name in TILES]
    warm = Renderer(Planet(0))
    for band in (*BANDS, "visual"):
        warm.render(scenes[0], band, 0, 0)
    print(f"{'band':<8}{'Mpx per CPU second, alone':>28}")
    for band in ("B02", "B05", "B01", "SCL", "visual"):
        print(f"{band:<8}{band_row(scenes, band):>28.1f}")
    shared = area(scenes)
    print(f"{'all':<8}{shared:>28.1f}  (fields shared between bands)")
    patch_ms, blocks, patch_rate = patches(scenes, arguments.patches, np.random.default_rng(0))
    print(f"{'patch':<8}{patch_rate:>28.1f}  ({blocks:.1f} blocks, {patch_ms:.0f} CPU ms per random window)")
    targets = [
        ("megapixels_per_cpu_second", shared, MIN_MEGAPIXELS_PER_S, shared >= MIN_MEGAPIXELS_PER_S),
        (
            "random_window_megapixels_per_cpu_second",
            patch_rate,
            MIN_MEGAPIXELS_PER_S,
            patch_rate >= MIN_MEGAPIXELS_PER_S,
        ),
        ("random_window_cpu_ms", patch_ms, MAX_PATCH_MS, patch_ms <= MAX_PATCH_MS),
    ]
    for metric, value, target, holds in targets:
        print(json.dumps({"metric": metric, "value": round(value, 2), "target": target, "holds": bool(holds)}))
    return 1 if arguments.check and not all(row[3] for row in targets) else 0


if __name__ == "__main__":
    sys.exit(main())
