"""Patches with the texture of real ones, and a store of them.

Real patches, turned and mirrored at random, where ``SATCLIP_SHARED_DATA`` has them, so that they compress as real ones
do; else blocks of the synthetic planet with noise of 1 %.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
from numpy.typing import NDArray

from pipelines.patches.dataset import PatchDataset, open_patch_dataset
from pipelines.patches.publication import publish_dataset
from pipelines.patches.rows import PATCH_COLUMNS, PatchRow
from pipelines.patches.store import StoreSchema, dataset_folder, open_store
from pipelines.sentinel2 import BANDS, NATIVE_GSD_M

SIZE_PX = 256
REAL = "real S2-100K patches, turned and mirrored"
SYNTHETIC = "synthetic planet with 1 % noise"
TILES = ("32UNA", "20MRC", "35LNE", "13TDE", "58UGE", "46XER")
BLOCKS = ((12, 18), (24, 6), (30, 30))
"""Rows and columns of 10 m blocks that blocks of 20 m and 60 m begin with, too."""
VERSION = "benchmark"


def sample_patches(number: int) -> tuple[Callable[[], Iterator[NDArray[np.uint16]]], str]:
    """A function that gives the same patches at every call, shape (12, 256, 256), and what they are."""
    shared = os.environ.get("SATCLIP_SHARED_DATA")
    folder = Path(shared or "") / "s2_100k_sample" / "images"
    real = shared is not None and folder.is_dir()
    originals = _real(folder) if real else _synthetic()

    def patches() -> Iterator[NDArray[np.uint16]]:
        rng = np.random.default_rng(0)
        for index in range(number):
            turned = np.rot90(originals[index % len(originals)], rng.integers(4), axes=(1, 2))
            yield np.ascontiguousarray(turned[:, :: rng.choice((-1, 1))])

    return patches, REAL if real else SYNTHETIC


def publish_patches(root: Path, patches: Iterator[NDArray[np.uint16]], number: int) -> PatchDataset:
    """A published dataset of them, at places drawn uniformly on the sphere."""
    rng = np.random.default_rng(1)
    lon_deg, lat_deg = rng.uniform(-180, 180, number), np.degrees(np.arcsin(rng.uniform(-1, 1, number)))
    rows = [
        PatchRow(place, lon, lat, lon, lat, valid=True, datetime="2022-06-01T10:00:00Z", epsg=32632)
        for place, (lon, lat) in enumerate(zip(lon_deg, lat_deg, strict=True))
    ]
    table = pd.DataFrame([asdict(row) for row in rows], columns=list(PATCH_COLUMNS))
    schema = StoreSchema(VERSION, number, SIZE_PX)
    store = open_store(dataset_folder(root, VERSION), schema)
    for shard in schema.own_shards:
        own = list(schema.plan_rows(shard))
        dn = np.stack([next(patches) for _ in own])
        store.write_shard(shard, dn, table.iloc[own].reset_index(drop=True), {})
    record = publish_dataset(root, VERSION, "benchmark")
    assert record.passed, record.problems
    return open_patch_dataset(root)


def _real(folder: Path) -> list[NDArray[np.uint16]]:
    found = []
    for path in sorted(folder.glob("*.tif")):
        with rasterio.open(path) as source:
            found.append(source.read())
    return found


def _synthetic() -> list[NDArray[np.uint16]]:
    from pipelines.sandbox.fields import Planet
    from pipelines.sandbox.rendering import Renderer
    from pipelines.sandbox.scenes import tile_scenes
    from pipelines.sandbox.tiling import tile_from_id

    renderer = Renderer(Planet(0))
    noise = np.random.default_rng(0)
    found = []
    for tile in TILES:
        scene = tile_scenes(tile_from_id(tile), 0)[1]
        for row, col in BLOCKS:
            bands = []
            for band in BANDS:
                step = NATIVE_GSD_M[band] // 10
                block = renderer.render(scene, band, row // step, col // step)
                bands.append(block.repeat(step, axis=0).repeat(step, axis=1)[:SIZE_PX, :SIZE_PX])
            dn = np.stack(bands)
            found.append((dn * noise.normal(1, 0.01, dn.shape)).astype(np.uint16))
    return [dn for dn in found if (dn > 0).all()]
