"""Whole trainings from pixels: what they leave, and what they refuse."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.errors import ConfigurationError, DatasetError
from pipelines.features.config import ViewsConfig
from pipelines.features.view_bank import build_image_features, open_image_features
from pipelines.patches.dataset import PatchDataset
from pipelines.training import run
from pipelines.training.pixel_datamodule import PixelDataModule
from pipelines.training.pixels import open_shard_reader
from pipelines.training.run import TrainingResult, train_from_pixels
from pipelines.training.splits import split_pixel_places
from pipelines.training.validation import validate
from satclip_model.checkpoint.native import read_checkpoint
from satclip_model.config import ModifiedResNetConfig
from satclip_model.image_encoder import ModifiedResNet, RandomConvolutionalFeatures
from satclip_model.lightning_module import SatCLIPLightningModule
from tests.pipelines.training.pixel_dataset import publish_small_dataset
from tests.pipelines.training.pixel_trainings import SERIAL, SMALL, VIEWS, log_without_times, tiny_backbone, train
from tests.pipelines.training.synthetic_places import BACKBONE


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> PatchDataset:
    """50 places, 43 of them with a patch, of which 29 are trained on, in three steps per epoch."""
    return publish_small_dataset(tmp_path_factory.mktemp("pixels"), 50)


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
