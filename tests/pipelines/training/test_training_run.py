import csv
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.errors import ArtefactError, ConfigurationError, DatasetError
from pipelines.evaluation.splits import block_cells
from pipelines.features.view_bank import ImageFeatures
from pipelines.training.config import TrainingConfig
from pipelines.training.fitting import choose_accelerator
from pipelines.training.history import HISTORY_COLUMNS
from pipelines.training.run import TrainingResult, train
from pipelines.training.splits import split_places
from satclip_model import lightning_module
from satclip_model.checkpoint.native import read_checkpoint
from satclip_model.image_encoder import RandomConvolutionalFeatures
from tests.pipelines.training.synthetic_places import BACKBONE, SMALL, synthetic


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    return train(*synthetic(150), SMALL.model_copy(update={"epochs": 60}), tmp_path_factory.mktemp("run"))


def test_learns_where_images_are_from(trained: TrainingResult) -> None:
    metrics = trained.metrics
    assert trained.num_training_places + trained.num_validation_places == 147
    assert metrics["train_recall_at_1"] > 5 * metrics["train_chance_recall_at_1"]
    assert metrics["val_mean_rank"] < 0.25 * (trained.num_validation_places + 1) / 2
    assert metrics["val_loss"] < 0.8 * np.log(32)


def test_leaves_exactly_checkpoint_history_and_record(trained: TrainingResult) -> None:
    folder = trained.checkpoint_path.parent
    assert sorted(each.name for each in folder.iterdir()) == ["record.json", "satclip.ckpt", "training_log.csv"]
    with trained.history_path.open() as handle:
        rows = list(csv.DictReader(handle))
    assert tuple(rows[0]) == HISTORY_COLUMNS
    assert [int(row["epoch"]) for row in rows] == [1, *range(2, 61, 2)]
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    assert float(rows[-1]["val_loss"]) == pytest.approx(trained.metrics["val_loss"])
    assert all(0 <= float(row["val_recall_at_1"]) <= float(row["val_recall_at_10"]) <= 1 for row in rows)
    assert float(rows[-1]["val_recall_at_5"]) == trained.metrics["val_recall_at_5"]
    assert float(rows[-1]["val_median_error_km"]) == trained.metrics["val_median_error_km"]


def test_record_names_dataset_split_settings_and_versions(trained: TrainingResult) -> None:
    model, record = read_checkpoint(trained.checkpoint_path)
    assert record["dataset_version"] == "v1"
    assert TrainingConfig.model_validate(record["config"]).epochs == 60
    assert record["split"]["num_validation_places"] == trained.num_validation_places
    assert record["metrics"] == trained.metrics
    assert "torch" in record["packages"]
    assert model.config == SMALL.model_settings(BACKBONE)


def test_head_is_standardised_by_training_places_alone(trained: TrainingResult) -> None:
    model, _ = read_checkpoint(trained.checkpoint_path)
    training, _ = split_places(*synthetic(150), SMALL)
    torch.testing.assert_close(model.image_projection.feature_mean, training.plain.mean(dim=0), rtol=1e-4, atol=1e-5)


def test_same_seed_gives_the_same_checkpoint(tmp_path: Path) -> None:
    global_state = torch.random.get_rng_state()
    first, again, other = (
        train(*synthetic(60), SMALL.model_copy(update={"seed": seed}), tmp_path / name).checkpoint_path
        for name, seed in (("first", 0), ("again", 0), ("other", 1))
    )
    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes() != other.read_bytes()
    assert torch.equal(torch.random.get_rng_state(), global_state)


def test_progress_is_logged_with_rate_and_time_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="pipelines.training"):
        train(*synthetic(40), SMALL, tmp_path)
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("pipelines.training")]
    assert "places, " in lines[0]
    assert [line.split(":")[0] for line in lines[1:-1]] == [f"epoch {epoch} of 6" for epoch in (1, 2, 4, 6)]
    assert all("samples per second" in line and line.endswith("s left") for line in lines[1:-1])
    assert "trained in" in lines[-1]


def test_twenty_places_train(tmp_path: Path) -> None:
    result = train(*synthetic(20, num_invalid=0), SMALL.model_copy(update={"batch_size": 512}), tmp_path)
    assert result.num_training_places + result.num_validation_places == 20
    read_checkpoint(result.checkpoint_path)


def test_no_validation_places_is_no_obstacle(tmp_path: Path) -> None:
    result = train(*synthetic(20), SMALL.model_copy(update={"validation_fraction": 0.0}), tmp_path)
    assert not [name for name in result.metrics if name.startswith("val_")]


def test_too_few_places_are_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"1 valid places, of which \d for training; .* at least 2"):
        train(*synthetic(4, num_invalid=3), SMALL, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_features_of_another_dataset_are_refused(tmp_path: Path) -> None:
    dataset, features = synthetic(20)
    other = ImageFeatures(features.features, features.valid, {**features.record, "dataset_version": "v0"})
    with pytest.raises(ArtefactError, match="'v0' with 20 places; expected 'v1'"):
        train(dataset, other, SMALL, tmp_path)


def test_features_of_other_patches_are_refused(tmp_path: Path) -> None:
    dataset, features = synthetic(40)
    dataset.places.loc[5, "sha256"] = "f" * 64
    with pytest.raises(ArtefactError, match="made from other patches than it holds now; materialize image_features"):
        train(dataset, features, SMALL, tmp_path)


def test_features_of_a_changed_encoder_are_refused(tmp_path: Path) -> None:
    dataset, features = synthetic(20)
    other = ImageFeatures(features.features, features.valid, {**features.record, "backbone_fingerprint": "feed"})
    with pytest.raises(ArtefactError, match="are of encoder feed"):
        train(dataset, other, SMALL, tmp_path)


def test_features_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    dataset, features = synthetic(20)
    features.features[10, 0, 2] = np.nan
    with pytest.raises(ArtefactError, match="not finite"):
        train(dataset, features, SMALL, tmp_path)


def test_divergence_ends_clearly_and_writes_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lightning_module, "joint_contrastive_loss", lambda images, *_: images.sum() * float("nan"))
    with pytest.raises(
        ConfigurationError,
        match=r"in step 1, epoch 1: loss is nan; no checkpoint was written\. Lower learning_rate \(now 0\.005\)",
    ):
        train(*synthetic(40), SMALL, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_absent_gpu_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigurationError, match="finds no CUDA device; set accelerator to 'auto' or 'cpu'"):
        choose_accelerator("gpu")
    assert (choose_accelerator("auto"), choose_accelerator("cpu")) == ("cpu", "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (choose_accelerator("auto"), choose_accelerator("gpu"), choose_accelerator("cpu")) == ("gpu", "gpu", "cpu")


def test_encoding_in_float32_trains_alike_and_leaves_an_exact_model(tmp_path: Path) -> None:
    exact, rounded = (
        train(*synthetic(60), SMALL.model_copy(update={"encoding_dtype": dtype}), tmp_path / dtype)
        for dtype in ("float64", "float32")
    )
    assert rounded.metrics["train_loss"] == pytest.approx(exact.metrics["train_loss"], rel=1e-3)
    assert rounded.checkpoint_path.read_bytes() != exact.checkpoint_path.read_bytes()
    model, _ = read_checkpoint(rounded.checkpoint_path)
    assert model.location_encoder.positional_encoding.compute_dtype == torch.float64


def test_networks_train_in_bfloat16(tmp_path: Path) -> None:
    result = train(*synthetic(60), SMALL.model_copy(update={"precision": "bf16-mixed"}), tmp_path)
    model, _ = read_checkpoint(result.checkpoint_path)
    assert model.location_encoder.dtype == torch.float32
    assert np.isfinite(result.metrics["val_loss"])


def test_temperature_stays_above_its_bound(tmp_path: Path) -> None:
    result = train(*synthetic(60), SMALL.model_copy(update={"min_temperature": 0.5}), tmp_path)
    assert result.metrics["temperature"] == pytest.approx(0.5)


def test_validation_takes_blocks_whole_and_says_so(tmp_path: Path) -> None:
    settings = SMALL.model_copy(update={"validation_blocks_deg": 30.0})
    training, validation = split_places(*synthetic(150), settings)
    cells = [{tuple(cell) for cell in block_cells(part.lonlat_deg.numpy(), 30.0)} for part in (training, validation)]
    assert min(len(each) for each in cells) > 1
    assert not cells[0] & cells[1]
    split = read_checkpoint(train(*synthetic(150), settings, tmp_path).checkpoint_path)[1]["split"]
    assert (split["validation_blocks_deg"], split["num_validation_places"]) == (30.0, len(validation))
    assert "block" in split["rule"]


def test_training_sees_augmented_views_and_validation_the_plain_one(tmp_path: Path) -> None:
    dataset, features = synthetic(60, num_views=4)
    plain = ImageFeatures(features.features[:, :1], features.valid, features.record)
    many, one = (train(dataset, bank, SMALL, tmp_path / str(bank.num_views)) for bank in (features, plain))
    assert many.metrics["train_loss"] != one.metrics["train_loss"]
    held_out = split_places(dataset, features, SMALL)[1]
    torch.testing.assert_close(held_out.plain, split_places(dataset, plain, SMALL)[1].plain)


def test_checkpoint_holds_the_weights_of_the_backbone_that_is_given(tmp_path: Path) -> None:
    dataset, features = synthetic(40)
    backbone = RandomConvolutionalFeatures(BACKBONE)
    for weights in backbone.buffers():
        weights.mul_(2.0)
    record = {**features.record, "backbone_fingerprint": backbone.fingerprint}
    bank = ImageFeatures(features.features, features.valid, record)
    with pytest.raises(ArtefactError, match="or give the encoder that made them"):
        train(dataset, bank, SMALL, tmp_path)
    model, _ = read_checkpoint(train(dataset, bank, SMALL, tmp_path, backbone).checkpoint_path)
    assert model.image_backbone.fingerprint == backbone.fingerprint


def test_early_stopping_needs_places_to_watch(tmp_path: Path) -> None:
    settings = SMALL.model_copy(update={"early_stopping_patience": 1, "validation_fraction": 1e-6})
    with pytest.raises(DatasetError, match="0 validation places, too few for early stopping; raise"):
        train(*synthetic(20), settings, tmp_path)
