"""Batches from the store: the right pixels in the right order, whoever decodes them, and nothing left behind."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from pipelines.errors import ConfigurationError, StoreError
from pipelines.features.config import ViewsConfig
from pipelines.features.views import augment
from pipelines.patches.dataset import PatchDataset
from pipelines.training import pixel_reading
from pipelines.training.config import PixelLoaderConfig
from pipelines.training.pixels import PixelBatches, open_shard_reader, pixel_places
from tests.pipelines.training.fatal_reader import FatalReader
from tests.pipelines.training.pixel_dataset import publish_small_dataset
from tests.processes import processes_of_session

CPU = torch.device("cpu")
SERIAL = PixelLoaderConfig(num_workers=0, part_size=5)
PARALLEL = PixelLoaderConfig(num_workers=2, part_size=3, prefetch_parts=2)
EPOCH_SCRIPT = """
import sys, torch
from pathlib import Path
from pipelines.patches.dataset import open_patch_dataset
from pipelines.training.config import PixelLoaderConfig
from pipelines.training.pixels import PixelBatches, open_shard_reader, pixel_places

dataset = open_patch_dataset(Path(sys.argv[1]))
config = PixelLoaderConfig(num_workers=2, part_size=2)
reader = open_shard_reader(dataset)
batches = PixelBatches(pixel_places(dataset), reader, 8, config, torch.device("cpu"), shuffle_seed=0)
for _ in batches:
    print("batch", flush=True)
    if sys.argv[2] == "raise":
        raise KeyboardInterrupt
    if sys.argv[2] == "wait":
        sys.stdin.read()
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PatchDataset:
    """45 places in shards of 8, 39 of them with a patch."""
    return publish_small_dataset(tmp_path_factory.mktemp("pixels"), 45)


def open_batches(
    dataset: PatchDataset,
    config: PixelLoaderConfig = SERIAL,
    seed: int | None = 0,
    views: ViewsConfig | None = None,
    batch_size: int = 8,
) -> PixelBatches:
    reader = open_shard_reader(dataset)
    return PixelBatches(pixel_places(dataset), reader, batch_size, config, CPU, shuffle_seed=seed, views=views)


def read_epoch(batches: PixelBatches) -> tuple[torch.Tensor, torch.Tensor]:
    reflectances, lonlats = zip(*batches, strict=True)
    return torch.cat(reflectances), torch.cat(lonlats)


def test_validation_is_every_valid_place_in_order_as_reflectance(dataset: PatchDataset) -> None:
    batches = open_batches(dataset, seed=None)
    sizes = [len(lonlat_deg) for _, lonlat_deg in batches]
    assert sizes == [8, 8, 8, 8, 7]
    assert len(batches) == 5
    found, lonlat_deg = read_epoch(batches)
    valid = np.flatnonzero(dataset.places["valid"])
    assert len(valid) == 39
    expected = np.stack([dataset.read(int(index)) for index in valid])
    np.testing.assert_array_equal(found.numpy(), expected)
    np.testing.assert_array_equal(lonlat_deg.numpy(), dataset.places[["lon_deg", "lat_deg"]].to_numpy()[valid])
    assert lonlat_deg.dtype == torch.float64


def test_training_takes_whole_batches_in_another_order_each_epoch(dataset: PatchDataset) -> None:
    batches = open_batches(dataset)
    assert len(batches) == 4
    plain, everywhere = read_epoch(open_batches(dataset, seed=None))
    row_of = {tuple(lonlat): row for row, lonlat in enumerate(everywhere.tolist())}
    orders = []
    for _ in range(2):
        found, lonlat_deg = read_epoch(batches)
        rows = [row_of[tuple(lonlat)] for lonlat in lonlat_deg.tolist()]
        assert torch.equal(found, plain[rows])
        assert len(set(rows)) == 32
        orders.append(rows)
    assert orders[0] != orders[1]


def test_workers_give_what_one_process_gives(dataset: PatchDataset) -> None:
    serial, parallel = (
        open_batches(dataset, each.model_copy(update={"window_shards": 2}), views=ViewsConfig(num_views=2))
        for each in (SERIAL, PARALLEL)
    )
    for _ in range(2):
        expected = list(serial)
        for (reflectance_of, lonlat_deg), (found, found_lonlat) in zip(expected, parallel, strict=True):
            time.sleep(0.05)
            torch.testing.assert_close(found, reflectance_of, rtol=1e-5, atol=1e-6)
            assert torch.equal(found_lonlat, lonlat_deg)


def test_any_epoch_can_be_gone_on_with(dataset: PatchDataset) -> None:
    whole = open_batches(dataset, views=ViewsConfig(num_views=2))
    epochs = [read_epoch(whole) for _ in range(3)]
    resumed = open_batches(dataset, views=ViewsConfig(num_views=2))
    resumed.sampler.set_epoch(2)
    found, lonlat_deg = read_epoch(resumed)
    assert torch.equal(found, epochs[2][0])
    assert torch.equal(lonlat_deg, epochs[2][1])


def test_a_pass_that_was_broken_off_is_begun_again_and_closing_ends_the_workers(dataset: PatchDataset) -> None:
    expected = read_epoch(open_batches(dataset))
    before = set(multiprocessing.active_children())
    batches = open_batches(dataset, PARALLEL)
    for _ in batches:
        break
    found, _ = read_epoch(batches)
    assert torch.equal(found, expected[0])
    assert len(set(multiprocessing.active_children()) - before) == 2
    batches.close()
    gc.collect()
    assert set(multiprocessing.active_children()) == before


def test_each_epoch_has_its_own_view_of_a_place(dataset: PatchDataset) -> None:
    views = ViewsConfig(num_views=4, seed=3)
    batches = open_batches(dataset, views=views, batch_size=39)
    place_ids = pixel_places(dataset).place_ids
    plain, everywhere = read_epoch(open_batches(dataset, seed=None))
    row_of = {tuple(lonlat): row for row, lonlat in enumerate(everywhere.tolist())}
    for epoch in range(2):
        found, lonlat_deg = read_epoch(batches)
        rows = [row_of[tuple(lonlat)] for lonlat in lonlat_deg.tolist()]
        expected = augment(plain[rows], place_ids[rows], epoch + 1, views)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(found, plain[rows], atol=1e-2)


def test_workers_do_not_run_the_main_module(
    dataset: PatchDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = ModuleType("__main__")
    main.__file__ = str(tmp_path / "main.py")
    (tmp_path / "main.py").write_text(f"from pathlib import Path\nPath({str(tmp_path)!r}, 'ran').touch()\n")
    monkeypatch.setitem(sys.modules, "__main__", main)
    next(iter(open_batches(dataset, PARALLEL)))
    assert sys.modules["__main__"] is main
    assert not (tmp_path / "ran").exists()


def test_workers_that_are_killed_again_are_told(dataset: PatchDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))
    reader = FatalReader(open_shard_reader(dataset))
    batches = PixelBatches(pixel_places(dataset), reader, 8, PARALLEL, CPU)
    with pytest.raises(ConfigurationError, match=r"patches are killed again and again .* lower num_workers"):
        read_epoch(batches)


def test_a_damaged_shard_is_named_in_the_training_process(tmp_path: Path) -> None:
    dataset = publish_small_dataset(tmp_path, 20)
    path = dataset.store.shard_path(1)
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"^\S*c/1/0/0/0: patch 0: a wrong checksum"):
        read_epoch(open_batches(dataset, PARALLEL))


def test_more_shared_memory_than_there_is_is_refused(dataset: PatchDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 64_000_000})
    monkeypatch.setattr(pixel_reading.shutil, "disk_usage", lambda path: usage)
    config = PixelLoaderConfig(num_workers=64, prefetch_parts=64, part_size=8)
    with pytest.raises(ConfigurationError, match=r"64 MB free, expected 806 MB for 4097 parts of 8 patches; lower"):
        next(iter(open_batches(dataset, config)))


def test_batches_larger_than_the_dataset_are_refused(dataset: PatchDataset) -> None:
    with pytest.raises(ValueError, match="batch_size is 40; expected 1 to 39"):
        open_batches(dataset, batch_size=40)


@pytest.mark.slow
@pytest.mark.parametrize(("manner", "exit_code"), [("finish", 0), ("raise", -signal.SIGINT), ("wait", -signal.SIGKILL)])
def test_no_process_and_no_shared_memory_stays_behind(dataset: PatchDataset, manner: str, exit_code: int) -> None:
    command = [sys.executable, "-c", EPOCH_SCRIPT, str(dataset.path.parents[1]), manner]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"batch\n"
        if manner == "wait":
            assert len(processes_of_session(process.pid)) >= 3
            process.kill()
        else:
            process.stdout.read()
        assert process.wait(60) == exit_code
    deadline = time.monotonic() + 30
    while processes_of_session(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_of_session(process.pid) == []
    assert [each.name for each in Path("/dev/shm").glob(f"*_{process.pid}_*")] == []
