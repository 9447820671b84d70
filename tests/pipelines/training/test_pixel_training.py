"""Whole trainings from pixels: what they leave, that they go on, and what they refuse."""

import csv
import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from pipelines.errors import ArtefactError, ConfigurationError, DatasetError
from pipelines.features.config import ViewsConfig
from pipelines.features.view_bank import build_image_features, open_image_features
from pipelines.patches.dataset import PatchDataset
from pipelines.training import run
from pipelines.training.config import PixelLoaderConfig, TrainingConfig
from pipelines.training.history import HISTORY_NAME
from pipelines.training.pixel_datamodule import PixelDataModule
from pipelines.training.pixels import open_shard_reader
from pipelines.training.run import TrainingResult, train_from_pixels
from pipelines.training.splits import split_pixel_places
from pipelines.training.state import STATE_NAME
from pipelines.training.validation import validate
from satclip_model.checkpoint.native import read_checkpoint
from satclip_model.config import ModifiedResNetConfig
from satclip_model.image_encoder import ModifiedResNet, RandomConvolutionalFeatures
from satclip_model.lightning_module import SatCLIPLightningModule
from tests.conftest import REPOSITORY
from tests.pipelines.training.pixel_dataset import publish_small_dataset
from tests.pipelines.training.synthetic_places import BACKBONE
from tests.processes import processes_of_session, shared_memory, wait_until

SMALL = TrainingConfig(
    num_degrees=4, embedding_dim=8, location_hidden_dim=16, location_dropout=0.1, image_hidden_dim=8, image_dropout=0.1,
    batch_size=8, epochs=4, learning_rate=5e-3, coordinate_jitter_m=5_000, validation_interval_epochs=1,
    checkpoint_interval_steps=3, accelerator="cpu", num_threads=1,
)  # fmt: skip
PARALLEL = PixelLoaderConfig(num_workers=2, part_size=3, prefetch_parts=1)
SERIAL = PixelLoaderConfig(num_workers=0, part_size=5)
VIEWS = ViewsConfig(num_views=2)
TIMES = {"samples_per_s", "elapsed_s", "left_s"}


BATCHES_BEFORE_STEP_8 = 4 + 2 * 2 + 8
"""Four are read to measure the features, two validate each of two epochs, the eighth of training is at hand."""
CHILD = """
import os, signal, sys, time
from pathlib import Path
from pipelines.patches.dataset import open_patch_dataset
from pipelines.training.pixels import PixelBatches
from tests.pipelines.training.test_pixel_training import PARALLEL, train

batches, assemble = [], PixelBatches._assemble
def stopped_assemble(self, parts, size, epoch):
    batches.append(size)
    if len(batches) == int(sys.argv[4]):
        if sys.argv[3] == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        os.killpg(0, signal.SIGTERM)
        time.sleep(0.5)
    return assemble(self, parts, size, epoch)
PixelBatches._assemble = stopped_assemble
if __name__ == "__main__":
    train(open_patch_dataset(Path(sys.argv[1])), Path(sys.argv[2]), loader=PARALLEL)
"""


class CrashError(Exception):
    pass


def tiny_backbone(trainable: bool = True, seed: int = 3) -> ModifiedResNet:
    config = ModifiedResNetConfig(image_size=32, width=4, num_blocks=(1, 1, 1, 1), output_dim=8, trainable=trainable)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ModifiedResNet(config)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PatchDataset:
    """50 places, 43 of them with a patch, of which 29 are trained on, in three steps per epoch."""
    return publish_small_dataset(tmp_path_factory.mktemp("pixels"), 50)


def train(
    dataset: PatchDataset,
    folder: Path,
    config: TrainingConfig = SMALL,
    loader: PixelLoaderConfig = SERIAL,
    trainable: bool = True,
) -> TrainingResult:
    return train_from_pixels(dataset, tiny_backbone(trainable), config, folder, views=VIEWS, loader=loader)


def log_without_times(folder: Path) -> list[dict[str, str]]:
    with (folder / HISTORY_NAME).open() as handle:
        return [{name: value for name, value in row.items() if name not in TIMES} for row in csv.DictReader(handle)]


def at_step(number: int, act: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets something happen inside the step of this number, counted from 1."""
    step, steps = SatCLIPLightningModule.training_step, []

    def training_step(self: SatCLIPLightningModule, batch: tuple[torch.Tensor, ...], batch_idx: int) -> torch.Tensor:
        steps.append(batch_idx)
        if len(steps) == number:
            act()
        return step(self, batch, batch_idx)

    monkeypatch.setattr(SatCLIPLightningModule, "training_step", training_step)


def crash() -> None:
    raise CrashError


@pytest.fixture(scope="module")
def undisturbed(dataset: PatchDataset, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    return train(dataset, tmp_path_factory.mktemp("undisturbed"))


def validation_loss(dataset: PatchDataset, result: TrainingResult) -> float:
    """Of the model in the checkpoint."""
    model, _ = read_checkpoint(result.checkpoint_path)
    places = split_pixel_places(dataset, SMALL)
    data = PixelDataModule(*places, open_shard_reader(dataset), SMALL, SERIAL, torch.device("cpu"))
    return validate(model, data.val_dataloader(), SMALL.seed, data.batch_size)["val_loss"]


def test_early_stopping_keeps_the_trained_backbone_of_the_best_epoch(dataset: PatchDataset, tmp_path: Path) -> None:
    settings = SMALL.model_copy(update={"early_stopping_patience": 1, "epochs": 30, "learning_rate": 0.05})
    stopped = train(dataset, tmp_path, settings)
    rows = log_without_times(tmp_path)
    assert stopped.epoch == int(np.argmin([float(row["val_loss"]) for row in rows])) + 1 < len(rows) < 30
    assert validation_loss(dataset, stopped) == pytest.approx(stopped.metrics["val_loss"], rel=1e-5)


def test_a_crash_in_any_step_changes_nothing(
    dataset: PatchDataset, undisturbed: TrainingResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gone on with at the ends of two epochs, by other workers."""
    for loader in (SERIAL, PARALLEL):
        with monkeypatch.context() as patched:
            at_step(5, crash, patched)
            with pytest.raises(CrashError):
                train(dataset, tmp_path, loader=loader)
        assert not multiprocessing.active_children()
    assert read_checkpoint(tmp_path / STATE_NAME)[1]["step"] == 6
    result = train(dataset, tmp_path)
    require_same(tmp_path, undisturbed)
    assert result.metrics == undisturbed.metrics


def require_same(folder: Path, undisturbed: TrainingResult) -> None:
    assert (folder / "satclip.ckpt").read_bytes() == undisturbed.checkpoint_path.read_bytes()
    assert log_without_times(folder) == log_without_times(undisturbed.checkpoint_path.parent)
    assert not (folder / STATE_NAME).exists()


def test_cancellation_ends_after_the_step_with_a_usable_checkpoint_and_no_worker(
    dataset: PatchDataset, undisturbed: TrainingResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SMALL.model_copy(update={"checkpoint_interval_steps": 0})
    with monkeypatch.context() as patched:
        at_step(5, lambda: signal.raise_signal(signal.SIGINT), patched)
        with pytest.raises(KeyboardInterrupt):
            train(dataset, tmp_path, settings, PARALLEL)
    assert not multiprocessing.active_children()
    model, record = read_checkpoint(tmp_path / STATE_NAME)
    assert (record["step"], record["dataset_version"], record["image_features"]["source"]) == (5, "small", "pixels")
    initial = tiny_backbone().state_dict()
    assert not torch.equal(model.image_backbone.state_dict()["layer1.0.conv1.weight"], initial["layer1.0.conv1.weight"])
    train(dataset, tmp_path, settings)
    assert log_without_times(tmp_path) == log_without_times(undisturbed.checkpoint_path.parent)


def test_record_names_what_was_seen(dataset: PatchDataset, undisturbed: TrainingResult) -> None:
    model, record = read_checkpoint(undisturbed.checkpoint_path)
    images = record["image_features"]
    assert images["source"] == "pixels"
    assert images["content_sha256"] == dataset.record.content_sha256
    assert images["backbone_fingerprint"] == tiny_backbone().fingerprint != model.image_backbone.fingerprint
    assert ViewsConfig.model_validate(images["views"]) == VIEWS
    assert ModifiedResNetConfig.model_validate(images["encoder"]) == model.config.image_backbone
    assert record["metrics"] == undisturbed.metrics
    assert undisturbed.metrics["train_num_places"] == undisturbed.num_training_places == 29


def test_loss_falls_and_the_measures_are_those_of_the_checkpoint(
    dataset: PatchDataset, undisturbed: TrainingResult
) -> None:
    rows = log_without_times(undisturbed.checkpoint_path.parent)
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"]) - 0.1
    assert validation_loss(dataset, undisturbed) == pytest.approx(undisturbed.metrics["val_loss"], rel=1e-5)


def test_a_frozen_backbone_stays_as_it_is_and_in_evaluation_mode(
    dataset: PatchDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, modes = SatCLIPLightningModule.training_step, []

    def training_step(self: SatCLIPLightningModule, batch: tuple[torch.Tensor, ...], batch_idx: int) -> torch.Tensor:
        backbone = self.model.image_backbone
        modes.append((self.model.training, any(each.training for each in backbone.modules())))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(SatCLIPLightningModule, "training_step", training_step)
    model, _ = read_checkpoint(train(dataset, tmp_path, trainable=False).checkpoint_path)
    assert set(modes) == {(True, False)}
    torch.testing.assert_close(model.image_backbone.state_dict(), tiny_backbone().state_dict(), rtol=0, atol=0)


def test_a_frozen_backbone_trains_as_on_the_bank(dataset: PatchDataset, tmp_path: Path) -> None:
    backbone = RandomConvolutionalFeatures(BACKBONE)
    path = tmp_path / "bank.zarr"
    record = build_image_features(dataset, backbone, path, device="cpu")
    bank = open_image_features(path, dataset.version, record["fingerprint"])
    on_bank = run.train(dataset, bank, SMALL, tmp_path / "bank", backbone)
    from_pixels = train_from_pixels(dataset, backbone, SMALL, tmp_path / "pixels", loader=SERIAL)
    one, other = (log_without_times(each.history_path.parent) for each in (on_bank, from_pixels))
    assert len(one) == len(other) == 4
    for expected, found in zip(one, other, strict=True):
        for name in ("train_loss", "val_loss", "temperature"):
            assert float(found[name]) == pytest.approx(float(expected[name]), abs=1e-3)
    models = [read_checkpoint(each.checkpoint_path)[0] for each in (on_bank, from_pixels)]
    torch.testing.assert_close(*(model.image_backbone.state_dict() for model in models), rtol=0, atol=0)
    torch.testing.assert_close(*(model.image_projection.feature_mean for model in models), rtol=1e-3, atol=1e-4)
    for name, value in on_bank.metrics.items():
        assert from_pixels.metrics[name] == pytest.approx(value, rel=0.02, abs=1e-3), name


@pytest.fixture(scope="module")
def ended(dataset: PatchDataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, int, str]]:
    """Folder, exit code and errors of processes that were stopped inside a step, and whose sessions have ended."""
    started = {}
    for name in ("killed", "terminated"):
        folder = tmp_path_factory.mktemp(name)
        command = [
            sys.executable,
            "-c",
            CHILD,
            str(dataset.path.parents[1]),
            str(folder),
            name,
            str(BATCHES_BEFORE_STEP_8),
        ]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        started[name] = (
            folder,
            subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True),
        )
    ended = {}
    for name, (folder, process) in started.items():
        errors = process.communicate(timeout=200)[1]
        wait_until(lambda session=process.pid: not processes_of_session(session), 30, "end of the workers")
        assert not shared_memory({process.pid})
        ended[name] = folder, process.returncode, errors
    return ended


@pytest.mark.slow
def test_a_killed_training_leaves_no_process_and_goes_on_to_the_bit(
    dataset: PatchDataset, undisturbed: TrainingResult, ended: dict[str, tuple[Path, int, str]]
) -> None:
    folder, code, errors = ended["killed"]
    assert code == -signal.SIGKILL, errors
    assert read_checkpoint(folder / STATE_NAME)[1]["step"] == 6
    train(dataset, folder)
    require_same(folder, undisturbed)


@pytest.mark.slow
def test_termination_of_all_processes_ends_after_the_step(ended: dict[str, tuple[Path, int, str]]) -> None:
    """As a batch system ends a job: trainer, workers and fork server get the signal, while a batch is waited for."""
    folder, code, errors = ended["terminated"]
    assert code == -signal.SIGTERM, errors
    assert read_checkpoint(folder / STATE_NAME)[1]["step"] == 8


@pytest.fixture
def stopped(dataset: PatchDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with monkeypatch.context() as patched:
        at_step(5, crash, patched)
        with pytest.raises(CrashError):
            train(dataset, tmp_path)
    return tmp_path


def test_a_state_of_another_parent_is_refused_and_kept(stopped: Path, dataset: PatchDataset) -> None:
    before = (stopped / STATE_NAME).read_bytes()
    changed = dataset.places.copy()
    changed.loc[5, "sha256"] = "f" * 64
    others = {
        "content_sha256": lambda: train(dataclasses.replace(dataset, places=changed), stopped),
        "backbone_fingerprint": lambda: train_from_pixels(dataset, tiny_backbone(seed=4), SMALL, stopped, views=VIEWS),
        "encoder.trainable": lambda: train(dataset, stopped, trainable=False),
        "views.num_views": lambda: train_from_pixels(dataset, tiny_backbone(), SMALL, stopped),
        "window_shards": lambda: train(dataset, stopped, loader=PixelLoaderConfig(num_workers=0, window_shards=2)),
    }
    for name, other in others.items():
        with pytest.raises(
            ArtefactError, match=rf"image_features\.{name} is .*, expected .*usable checkpoint of step 3"
        ):
            other()
    assert (stopped / STATE_NAME).read_bytes() == before


def test_no_patches_and_too_few_are_named(dataset: PatchDataset, tmp_path: Path) -> None:
    without = dataset.places.assign(valid=False)
    with pytest.raises(DatasetError, match=r"small: 0 valid places, of which 0 for training; .* at least 2"):
        train(dataclasses.replace(dataset, places=without), tmp_path / "run")
    settings = SMALL.model_copy(update={"early_stopping_patience": 1, "validation_fraction": 1e-6})
    with pytest.raises(DatasetError, match="0 validation places, too few for early stopping"):
        train(dataset, tmp_path / "run", settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("call", "told"), [(1, "a batch of 8 places"), (6, "a batch of 8 places in step 3; the last")])
def test_a_batch_beyond_memory_names_its_size(
    call: int, told: str, dataset: PatchDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first step the features of three training batches are measured."""
    encode, calls = ModifiedResNet.encode, []

    def fail(self: ModifiedResNet, reflectance: torch.Tensor) -> torch.Tensor:
        calls.append(len(reflectance))
        if len(calls) == call:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return encode(self, reflectance)

    monkeypatch.setattr(ModifiedResNet, "encode", fail)
    settings = SMALL.model_copy(update={"checkpoint_interval_steps": 1})
    with pytest.raises(
        ConfigurationError, match=rf"the memory of the cpu does not hold {told}.*Lower batch_size .now 8"
    ):
        train(dataset, tmp_path, settings)


def test_workers_that_are_killed_are_replaced(
    dataset: PatchDataset,
    undisturbed: TrainingResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def kill_workers() -> None:
        for worker in multiprocessing.active_children():
            worker.kill()

    at_step(4, kill_workers, monkeypatch)
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))
    train(dataset, tmp_path, loader=PARALLEL)
    assert sum("a process that reads patches was killed" in message for message in caplog.messages) == 1
    assert not multiprocessing.active_children()
    require_same(tmp_path, undisturbed)
