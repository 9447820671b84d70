"""Two ways to keep versions of a patch store: whole Zarr stores that share immutable shards, and Icechunk.

    python benchmarks/versions.py --check

Both hold the same patches with the same codec and shards; 5 % of the places are renewed. Measured: bytes that the
renewal writes beside the bytes of the renewed patches, seconds to commit, random patches read per second, and whether a
reader that opened the version before goes on undisturbed.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import icechunk
import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray

from pipelines.patches.dataset import open_patch_dataset
from pipelines.patches.publication import publish_dataset
from pipelines.patches.rows import PATCH_COLUMNS, PatchRow
from pipelines.patches.store import StoreSchema, compression, dataset_folder, open_store
from pipelines.sandbox.fields import Planet
from pipelines.sandbox.rendering import Renderer
from pipelines.sandbox.scenes import tile_scenes
from pipelines.sandbox.tiling import tile_from_id
from pipelines.sentinel2 import BANDS, NATIVE_GSD_M

SHARD_SIZE = 64
RENEWED_SHARE = 0.05
FIRST_BLOCK, BLOCKS_ACROSS = 12, 28
MAX_WRITTEN_OVER_CHANGED = 2.0


@dataclass(frozen=True)
class Outcome:
    """What one way needed."""

    written_bytes: int
    commit_s: float
    reads_per_s: float
    old_reader_undisturbed: bool


def render_patches(number: int) -> NDArray[np.uint16]:
    """Patches of the synthetic planet, 256 px, coarse bands replicated."""
    renderer = Renderer(Planet(0))
    scenes = sorted(tile_scenes(tile_from_id("32UNA"), 0), key=lambda each: each.product_name)
    scene = min(scenes, key=lambda each: int((renderer.scene_classes(each) == 0).sum()))
    patches = np.empty((number, len(BANDS), 256, 256), dtype=np.uint16)
    for index in range(number):
        row, col = (FIRST_BLOCK + at for at in divmod(index, BLOCKS_ACROSS))
        for band, name in enumerate(BANDS):
            factor = NATIVE_GSD_M[name] // 10
            block = renderer.render(scene, name, row // factor, col // factor)
            top, left = (at % factor * 256 // factor for at in (row, col))
            size = -(-256 // factor)
            cut = block[top : top + size, left : left + size]
            patches[index, band] = cut.repeat(factor, axis=0).repeat(factor, axis=1)[:256, :256]
    return patches


def rows_of(places: NDArray[np.int64]) -> pd.DataFrame:
    empty = PatchRow(place_id=0, place_lon_deg=9.0, place_lat_deg=50.0, lon_deg=9.0, lat_deg=50.0, valid=True)
    settled = replace(empty, datetime="2022-06-01T10:00:00Z", item_id="scene", epsg=32632)
    return pd.DataFrame([{**settled.__dict__, "place_id": int(place)} for place in places], columns=list(PATCH_COLUMNS))


def measure_ours(
    folder: Path, patches: NDArray[np.uint16], renewed: NDArray[np.int64], new: NDArray[np.uint16]
) -> Outcome:
    first = StoreSchema("first", len(patches), 256, SHARD_SIZE)
    fill(folder, first, np.arange(len(patches)), patches)
    publish_dataset(folder, "first", "benchmark")
    old = open_patch_dataset(folder, "first")
    before = inode_bytes(folder)
    second = StoreSchema(
        "second", len(renewed), 256, SHARD_SIZE, base_version="first", base_rows=first.num_shards * SHARD_SIZE
    )
    fill(folder, second, renewed, new)
    started = time.perf_counter()
    publish_dataset(folder, "second", "benchmark")
    commit_s = time.perf_counter() - started
    written = sum(size for inode, size in inode_bytes(folder).items() if inode not in before)
    dataset = open_patch_dataset(folder)
    assert np.array_equal(dataset.read_dn(int(renewed[0])), new[0])
    undisturbed = np.array_equal(old.read_dn(int(renewed[0])), patches[renewed[0]])
    return Outcome(written, commit_s, read_rate(dataset.read_dn, len(patches)), undisturbed)


def fill(root: Path, schema: StoreSchema, places: NDArray[np.int64], dn: NDArray[np.uint16]) -> None:
    store = open_store(dataset_folder(root, schema.plan_id), schema)
    for shard in schema.own_shards:
        rows = list(schema.plan_rows(shard))
        store.write_shard(shard, dn[rows], rows_of(places[rows]), {})


def measure_icechunk(
    folder: Path, patches: NDArray[np.uint16], renewed: NDArray[np.int64], new: NDArray[np.uint16]
) -> Outcome:
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(folder)))
    session = repository.writable_session("main")
    array = zarr.create_group(session.store).create_array(
        "image", shape=patches.shape, chunks=(1, *patches.shape[1:]), shards=(SHARD_SIZE, *patches.shape[1:]),
        dtype="uint16", fill_value=0, compressors=compression(),
    )  # fmt: skip
    for start in range(0, len(patches), SHARD_SIZE):
        array[start : start + SHARD_SIZE] = patches[start : start + SHARD_SIZE]
    session.commit("first")
    old = zarr.open_group(repository.readonly_session("main").store, mode="r")["image"]
    before = inode_bytes(folder)
    session = repository.writable_session("main")
    array = zarr.open_group(session.store)["image"]
    for shard in np.unique(renewed // SHARD_SIZE):  # each shard once: one patch at a time would rewrite it every time
        rows = slice(int(shard) * SHARD_SIZE, min((int(shard) + 1) * SHARD_SIZE, len(patches)))
        block, chosen = np.asarray(array[rows]), renewed // SHARD_SIZE == shard
        block[renewed[chosen] - rows.start] = new[chosen]
        array[rows] = block
    started = time.perf_counter()
    session.commit("second")
    commit_s = time.perf_counter() - started
    written = sum(size for inode, size in inode_bytes(folder).items() if inode not in before)
    latest = zarr.open_group(repository.readonly_session("main").store, mode="r")["image"]
    assert np.array_equal(latest[int(renewed[0])], new[0])
    undisturbed = np.array_equal(old[int(renewed[0])], patches[renewed[0]])
    return Outcome(written, commit_s, read_rate(lambda index: latest[index], len(patches)), undisturbed)


def inode_bytes(folder: Path) -> dict[int, int]:
    """Size of every file by inode: a hard link adds nothing."""
    return {path.stat().st_ino: path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def read_rate(read: Callable[[int], object], number: int) -> float:
    """Random patches per second, median of five rounds of 64."""
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(5):
        chosen = rng.integers(0, number, 64).tolist()
        started = time.perf_counter()
        for index in chosen:
            read(index)
        rates.append(len(chosen) / (time.perf_counter() - started))
    return statistics.median(rates)


def compressed_bytes(dn: NDArray[np.uint16]) -> int:
    """Bytes of patches under the store's codec."""
    with tempfile.TemporaryDirectory() as name:
        array = zarr.create_array(
            name, shape=dn.shape, chunks=(1, *dn.shape[1:]), dtype="uint16", compressors=compression()
        )
        array[:] = dn
        return sum(path.stat().st_size for path in (Path(name) / "c").rglob("*") if path.is_file())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--places", type=int, default=512)
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="icechunk")
    patches = render_patches(options.places)
    rng = np.random.default_rng(1)
    renewed = np.sort(rng.choice(options.places, round(options.places * RENEWED_SHARE), replace=False))
    new = patches[renewed][:, :, ::-1].copy()
    assert new.any(axis=(1, 2, 3)).all()
    changed_bytes = compressed_bytes(new)
    outcomes = {}
    for name, measure in (("linked shards", measure_ours), ("icechunk", measure_icechunk)):
        folder = Path(tempfile.mkdtemp())
        try:
            outcomes[name] = measure(folder, patches, renewed, new)
        finally:
            shutil.rmtree(folder)
    print(f"{options.places} patches, {len(renewed)} renewed: {changed_bytes / 1e6:.1f} MB compressed")
    print("way              MB written  over changed  commit s  patches/s  old reader undisturbed")
    for name, each in outcomes.items():
        print(
            f"{name:16} {each.written_bytes / 1e6:10.1f} {each.written_bytes / changed_bytes:13.2f} "
            f"{each.commit_s:9.2f} {each.reads_per_s:10.0f}  {each.old_reader_undisturbed}"
        )
    ours = outcomes["linked shards"]
    ratio = ours.written_bytes / changed_bytes
    lines = [
        {"metric": "bytes_written_over_changed", "value": round(ratio, 3), "target": MAX_WRITTEN_OVER_CHANGED,
         "holds": ratio <= MAX_WRITTEN_OVER_CHANGED},
        {"metric": "old_reader_undisturbed", "value": float(ours.old_reader_undisturbed), "target": 1.0,
         "holds": ours.old_reader_undisturbed},
    ]  # fmt: skip
    for line in lines:
        print(json.dumps(line))
    return int(options.check and not all(line["holds"] for line in lines))


if __name__ == "__main__":
    raise SystemExit(main())
