import csv
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.errors import ArtefactError, ConfigurationError
from pipelines.features.view_bank import ImageFeatures, dataset_content
from pipelines.training.history import HISTORY_NAME
from pipelines.training.run import TrainingResult, train
from pipelines.training.state import STATE_NAME
from satclip_model.checkpoint.native import read_checkpoint
from satclip_model.lightning_module import SatCLIPLightningModule
from tests.pipelines.training.synthetic_places import SMALL, synthetic

TIMES = {"samples_per_s", "elapsed_s", "left_s"}
SETTINGS = SMALL.model_copy(
    update={"location_dropout": 0.1, "checkpoint_interval_steps": 2, "early_stopping_patience": 9}
)
PLACES = {"num": 150, "num_views": 3}
STEPS_PER_EPOCH = 3
SIGNAL_STEPS = {signal.SIGKILL: 12, signal.SIGTERM: 5}
CHILD = """
import os, sys
from pathlib import Path
from pipelines.training.run import train
from satclip_model.lightning_module import SatCLIPLightningModule
from tests.pipelines.training.synthetic_places import synthetic
from tests.pipelines.training.test_training_resume import PLACES, SETTINGS

steps, step = [], SatCLIPLightningModule.training_step
def fatal_step(self, batch, batch_idx):
    steps.append(batch_idx)
    if len(steps) == int(sys.argv[2]):
        os.kill(os.getpid(), int(sys.argv[3]))
    return step(self, batch, batch_idx)
SatCLIPLightningModule.training_step = fatal_step
train(*synthetic(**PLACES), SETTINGS, Path(sys.argv[1]))
"""


class CrashError(Exception):
    pass


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


def log_without_times(folder: Path) -> list[dict[str, str]]:
    with (folder / HISTORY_NAME).open() as handle:
        return [{name: value for name, value in row.items() if name not in TIMES} for row in csv.DictReader(handle)]


@dataclass(frozen=True)
class Ended:
    folder: Path
    code: int
    errors: str


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[signal.Signals, Ended]:
    """Processes that sent themselves a signal inside a step."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    folders = {number: tmp_path_factory.mktemp(number.name) for number in (signal.SIGKILL, signal.SIGTERM)}
    processes = {
        number: subprocess.Popen(
            [sys.executable, "-c", CHILD, str(folder), str(SIGNAL_STEPS[number]), str(number.value)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, folder in folders.items()
    }
    errors = {number: process.communicate(timeout=200)[1] for number, process in processes.items()}
    return {number: Ended(folders[number], processes[number].returncode, errors[number]) for number in folders}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    return train(*synthetic(**PLACES), SETTINGS, tmp_path_factory.mktemp("undisturbed"))


def require_same(folder: Path, undisturbed: TrainingResult) -> None:
    assert (folder / "satclip.ckpt").read_bytes() == undisturbed.checkpoint_path.read_bytes()
    assert log_without_times(folder) == log_without_times(undisturbed.checkpoint_path.parent)
    assert not (folder / STATE_NAME).exists()


@pytest.mark.slow
def test_a_killed_training_goes_on_with_the_same_losses_to_the_bit(
    ended: dict[signal.Signals, Ended], undisturbed: TrainingResult
) -> None:
    killed = ended[signal.SIGKILL]
    assert killed.code == -signal.SIGKILL, killed.errors
    assert read_checkpoint(killed.folder / STATE_NAME)[1]["step"] == 10
    assert [int(row["epoch"]) for row in log_without_times(killed.folder)] == [1, 2]
    train(*synthetic(**PLACES), SETTINGS, killed.folder)
    require_same(killed.folder, undisturbed)


@pytest.mark.slow
def test_termination_of_a_process_ends_it_by_the_signal(ended: dict[signal.Signals, Ended]) -> None:
    terminated = ended[signal.SIGTERM]
    assert terminated.code == -signal.SIGTERM, terminated.errors
    assert read_checkpoint(terminated.folder / STATE_NAME)[1]["step"] == 5
    assert sorted(each.name for each in terminated.folder.iterdir()) == [HISTORY_NAME, STATE_NAME]


@pytest.mark.parametrize("step", [1, 2, STEPS_PER_EPOCH, 4, 7, 18])
def test_a_crash_in_any_step_changes_nothing(
    step: int, tmp_path: Path, undisturbed: TrainingResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        at_step(step, crash, patched)
        with pytest.raises(CrashError):
            train(*synthetic(**PLACES), SETTINGS, tmp_path)
    result = train(*synthetic(**PLACES), SETTINGS, tmp_path)
    require_same(tmp_path, undisturbed)
    assert result.metrics == undisturbed.metrics


def test_cancellation_ends_after_the_step_with_a_usable_checkpoint(
    tmp_path: Path, undisturbed: TrainingResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patched:
        at_step(5, lambda: signal.raise_signal(signal.SIGINT), patched)
        with pytest.raises(KeyboardInterrupt):
            train(*synthetic(**PLACES), SETTINGS.model_copy(update={"checkpoint_interval_steps": 0}), tmp_path)
    assert signal.getsignal(signal.SIGINT) is before
    model, record = read_checkpoint(tmp_path / STATE_NAME)
    assert record["step"] == 5
    assert record["dataset_version"] == "v1"
    assert torch.isfinite(model.encode_location(torch.tensor([[10.0, 20.0]], dtype=torch.float64))).all()
    train(*synthetic(**PLACES), SETTINGS.model_copy(update={"checkpoint_interval_steps": 0}), tmp_path)
    assert log_without_times(tmp_path) == log_without_times(undisturbed.checkpoint_path.parent)


def test_cancellation_in_the_last_step_completes_the_training(
    tmp_path: Path, undisturbed: TrainingResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_step(18, lambda: signal.raise_signal(signal.SIGINT), monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(*synthetic(**PLACES), SETTINGS, tmp_path)
    require_same(tmp_path, undisturbed)


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with monkeypatch.context() as patched:
        at_step(4, crash, patched)
        with pytest.raises(CrashError):
            train(*synthetic(**PLACES), SETTINGS, tmp_path)
    return tmp_path


def test_a_state_of_other_settings_is_refused_and_kept(stopped: Path) -> None:
    before = (stopped / STATE_NAME).read_bytes()
    with pytest.raises(
        ArtefactError, match=r"training_state\.ckpt: .* config\.learning_rate is 0\.005, expected 0\.1\. .*remove"
    ):
        train(*synthetic(**PLACES), SETTINGS.model_copy(update={"learning_rate": 0.1}), stopped)
    assert (stopped / STATE_NAME).read_bytes() == before


def test_a_state_of_a_dataset_that_changed_is_refused(stopped: Path) -> None:
    dataset, features = synthetic(**PLACES)
    dataset.places.loc[5, "sha256"] = "f" * 64
    record = {**features.record, "content_sha256": dataset_content(dataset)}
    with pytest.raises(
        ArtefactError, match=r"image_features\.content_sha256 is '.*', expected '.*usable checkpoint of"
    ):
        train(dataset, ImageFeatures(features.features, features.valid, record), SETTINGS, stopped)


def test_a_state_of_another_bank_is_refused(stopped: Path) -> None:
    dataset, features = synthetic(**PLACES)
    record = {**features.record, "fingerprint": "e" * 16}
    with pytest.raises(ArtefactError, match=r"image_features\.fingerprint is 'f+', expected 'e+'"):
        train(dataset, ImageFeatures(features.features, features.valid, record), SETTINGS, stopped)


def test_a_damaged_state_is_named(stopped: Path) -> None:
    (stopped / STATE_NAME).write_bytes((stopped / STATE_NAME).read_bytes()[:1000])
    with pytest.raises(
        ArtefactError, match=r"not the state of a training .*remove the file to train from the beginning"
    ):
        train(*synthetic(**PLACES), SETTINGS, stopped)


def test_divergence_keeps_the_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil() -> None:
        raise_next.append(True)

    raise_next: list[bool] = []
    at_step(6, spoil, monkeypatch)
    step = SatCLIPLightningModule.training_step

    def training_step(self: SatCLIPLightningModule, batch: tuple[torch.Tensor, ...], batch_idx: int) -> torch.Tensor:
        if raise_next:
            self.model.logit_scale.data.fill_(float("nan"))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(SatCLIPLightningModule, "training_step", training_step)
    with pytest.raises(
        ConfigurationError,
        match=rf"step 7, epoch 2: loss is nan; the last checkpoint is .*{STATE_NAME}\. Lower learning",
    ):
        train(*synthetic(**PLACES), SETTINGS, tmp_path)
    assert read_checkpoint(tmp_path / STATE_NAME)[1]["step"] == 6


def test_weights_that_are_not_finite_are_never_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = SatCLIPLightningModule.training_step

    def training_step(self: SatCLIPLightningModule, batch: tuple[torch.Tensor, ...], batch_idx: int) -> torch.Tensor:
        loss = step(self, batch, batch_idx)
        return loss * float("inf") if batch_idx == 3 else loss

    monkeypatch.setattr(SatCLIPLightningModule, "training_step", training_step)
    with pytest.raises(ConfigurationError, match="the weights are not finite; the last checkpoint is"):
        train(*synthetic(**PLACES), SETTINGS.model_copy(update={"gradient_clip_norm": 0.0}), tmp_path)
    assert read_checkpoint(tmp_path / STATE_NAME)[1]["step"] == 2


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried ..."),
    ],
    ids=["gpu", "cpu"],
)
def test_a_batch_beyond_memory_names_its_size_and_keeps_the_checkpoint(
    error: RuntimeError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise error

    at_step(4, fail, monkeypatch)
    with pytest.raises(
        ConfigurationError,
        match=r"a batch of 32 places in step 4; the last checkpoint is .*Lower batch_size \(now 32\)",
    ):
        train(*synthetic(**PLACES), SETTINGS, tmp_path)
    assert read_checkpoint(tmp_path / STATE_NAME)[1]["step"] == 2


def test_other_errors_of_a_step_are_not_disguised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("shapes do not fit")

    at_step(1, fail, monkeypatch)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        train(*synthetic(**PLACES), SETTINGS, tmp_path)


def test_early_stopping_keeps_the_best_weights_also_over_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SETTINGS.model_copy(
        update={
            "early_stopping_patience": 2,
            "validation_interval_epochs": 1,
            "epochs": 40,
            "learning_rate": 0.03,
            "checkpoint_interval_steps": 5,
        }
    )
    whole = train(*synthetic(**PLACES), settings, tmp_path / "whole")
    rows = log_without_times(tmp_path / "whole")
    losses = [float(row["val_loss"]) for row in rows]
    assert whole.epoch == int(np.argmin(losses)) + 1
    assert len(rows) == whole.epoch + 2 < 40
    assert whole.metrics["val_loss"] == min(losses)
    record = read_checkpoint(whole.checkpoint_path)[1]
    assert (record["epoch"], record["num_epochs"]) == (whole.epoch, len(rows))
    with monkeypatch.context() as patched:
        at_step(len(rows) * STEPS_PER_EPOCH, crash, patched)
        with pytest.raises(CrashError):
            train(*synthetic(**PLACES), settings, tmp_path / "again")
    again = train(*synthetic(**PLACES), settings, tmp_path / "again")
    assert again.checkpoint_path.read_bytes() == whole.checkpoint_path.read_bytes()
