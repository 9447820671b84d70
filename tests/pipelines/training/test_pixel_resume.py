"""Trainings from pixels that are stopped, killed or robbed of their workers go on exactly."""

import dataclasses
import multiprocessing
import multiprocessing.process
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from pipelines.errors import ArtefactError
from pipelines.patches.dataset import PatchDataset
from pipelines.training.config import PixelLoaderConfig
from pipelines.training.run import TrainingResult, train_from_pixels
from pipelines.training.state import STATE_NAME
from satclip_model.checkpoint.native import read_checkpoint
from tests.conftest import REPOSITORY
from tests.pipelines.training.pixel_dataset import publish_small_dataset
from tests.pipelines.training.pixel_trainings import (
    PARALLEL,
    SERIAL,
    SMALL,
    VIEWS,
    CrashError,
    at_step,
    crash,
    log_without_times,
    require_same,
    tiny_backbone,
    train,
)
from tests.processes import processes_of_session, shared_memory, wait_until

BATCHES_BEFORE_STEP_8 = 4 + 2 * 2 + 8
"""Four are read to measure the features, two validate each of two epochs, the eighth of training is at hand."""
CHILD = """
import os, signal, sys, time
from pathlib import Path
from pipelines.patches.dataset import open_patch_dataset
from pipelines.training.pixels import PixelBatches
from tests.pipelines.training.pixel_trainings import PARALLEL, train

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


def loader_workers() -> list[multiprocessing.process.BaseProcess]:
    """Workers of loaders, which a fork server starts; other tests' clusters have children of their own."""
    return [each for each in multiprocessing.active_children() if type(each).__name__ == "ForkServerProcess"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PatchDataset:
    """50 places, 43 of them with a patch, of which 29 are trained on, in three steps per epoch."""
    return publish_small_dataset(tmp_path_factory.mktemp("pixels"), 50)


@pytest.fixture(scope="module")
def undisturbed(dataset: PatchDataset, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    return train(dataset, tmp_path_factory.mktemp("undisturbed"))


def test_a_crash_in_any_step_changes_nothing(
    dataset: PatchDataset, undisturbed: TrainingResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gone on with at the ends of two epochs, by other workers."""
    for loader in (SERIAL, PARALLEL):
        with monkeypatch.context() as patched:
            at_step(5, crash, patched)
            with pytest.raises(CrashError):
                train(dataset, tmp_path, loader=loader)
        assert not loader_workers()
    assert read_checkpoint(tmp_path / STATE_NAME)[1]["step"] == 6
    result = train(dataset, tmp_path)
    require_same(tmp_path, undisturbed)
    assert result.metrics == undisturbed.metrics


def test_cancellation_ends_after_the_step_with_a_usable_checkpoint_and_no_worker(
    dataset: PatchDataset, undisturbed: TrainingResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SMALL.model_copy(update={"checkpoint_interval_steps": 0})
    with monkeypatch.context() as patched:
        at_step(5, lambda: signal.raise_signal(signal.SIGINT), patched)
        with pytest.raises(KeyboardInterrupt):
            train(dataset, tmp_path, settings, PARALLEL)
    assert not loader_workers()
    model, record = read_checkpoint(tmp_path / STATE_NAME)
    assert (record["step"], record["dataset_version"], record["image_features"]["source"]) == (5, "small", "pixels")
    initial = tiny_backbone().state_dict()
    assert not torch.equal(model.image_backbone.state_dict()["layer1.0.conv1.weight"], initial["layer1.0.conv1.weight"])
    train(dataset, tmp_path, settings)
    assert log_without_times(tmp_path) == log_without_times(undisturbed.checkpoint_path.parent)


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


def test_workers_that_are_killed_are_replaced(
    dataset: PatchDataset,
    undisturbed: TrainingResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def kill_workers() -> None:
        for worker in loader_workers():
            worker.kill()

    at_step(4, kill_workers, monkeypatch)
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))
    train(dataset, tmp_path, loader=PARALLEL)
    assert sum("a process that reads patches was killed" in message for message in caplog.messages) == 1
    assert not loader_workers()
    require_same(tmp_path, undisturbed)
