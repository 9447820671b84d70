import csv
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipelines.errors import ArtefactError, ConfigurationError, DatasetError
from pipelines.features.config import ViewsConfig
from pipelines.features.view_bank import ImageFeatures, dataset_content
from pipelines.training.config import TrainingConfig
from pipelines.training.run import TrainingResult, train
from pipelines.training.history import HISTORY_COLUMNS
from pipelines.training.splits import split_places
from pipelines.training.fitting import choose_accelerator
from satclip_model import lightning_module
from satclip_model.checkpoint.native import read_checkpoint
from satclip_model.config import RandomFeaturesConfig
from satclip_model.image_encoder import RandomConvolutionalFeatures

BACKBONE = RandomFeaturesConfig(num_filters=4, pool_factors=(1, 4))
SMALL = TrainingConfig(
    num_degrees=5,
    embedding_dim=8,
    location_hidden_dim=16,
    image_hidden_dim=16,
    image_dropout=0.1,
    feature_dropout=0.1,
    batch_size=32,
    epochs=6,
    learning_rate=5e-3,
    coordinate_jitter_m=10_000,
    validation_interval_epochs=2,
    accelerator="cpu",
    num_threads=1,
)


@dataclass(frozen=True)
class FakeDataset:
    places: pd.DataFrame
    version: str = "v1"
    shard_size: int = 256
    num_shards: int = 1

    @property
    def num_places(self) -> int:
        return len(self.places)

    def read_shard_dn(self, shard: int) -> np.ndarray:
        raise AssertionError("training reads no pixels")


def synthetic(num: int, num_invalid: int = 3) -> tuple[FakeDataset, ImageFeatures]:
    """Places whose image features are smooth functions of the place."""
    rng = np.random.default_rng(7)
    lon_deg, lat_deg = rng.uniform(-180, 180, num), np.degrees(np.arcsin(rng.uniform(-0.9, 0.9, num)))
    lon, lat = np.radians(lon_deg), np.radians(lat_deg)
    direction = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
    features = np.sin(2 * direction @ rng.standard_normal((3, BACKBONE.feature_dim))).astype(np.float32)
    valid = np.ones(num, dtype=bool)
    valid[:num_invalid] = False
    features[~valid] = np.nan
    places = pd.DataFrame({"place_id": np.arange(num) * 3 + 1, "lon_deg": lon_deg, "lat_deg": lat_deg, "valid": valid})
    places["sha256"] = [f"{number:064x}" for number in range(num)]
    record = {
        "dataset_version": "v1",
        "content_sha256": dataset_content(FakeDataset(places)),
        "encoder": BACKBONE.model_dump(mode="json"),
        "fingerprint": "f" * 16,
        "backbone_fingerprint": RandomConvolutionalFeatures(BACKBONE).fingerprint,
        "backbone": None,
        "views": ViewsConfig().model_dump(mode="json"),
        "feature_dim": BACKBONE.feature_dim,
    }
    return FakeDataset(places), ImageFeatures(features[:, None], valid, record)


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
    assert rows[0]["val_loss"] == ""


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
    torch.testing.assert_close(model.image_projection.feature_mean, training.features.mean(dim=0), rtol=1e-4, atol=1e-5)


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
    with caplog.at_level(logging.INFO, logger="pipelines.training.run"):
        train(*synthetic(40), SMALL, tmp_path)
    lines = [record.getMessage() for record in caplog.records if record.name == "pipelines.training.run"]
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
    other = ImageFeatures(features.features, features.valid, {**features.record, "fingerprint": "feed"})
    with pytest.raises(ArtefactError, match="fingerprint feed"):
        train(dataset, other, SMALL, tmp_path)


def test_features_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    dataset, features = synthetic(20)
    features.features[10, 2] = np.nan
    with pytest.raises(ArtefactError, match="not finite"):
        train(dataset, features, SMALL, tmp_path)


def test_divergence_ends_clearly_and_writes_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lightning_module, "contrastive_loss", lambda images, *_: images.sum() * float("nan"))
    with pytest.raises(ConfigurationError, match=r"loss is nan in epoch 0.*Lower learning_rate \(now 0\.005\)"):
        train(*synthetic(40), SMALL, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_absent_gpu_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigurationError, match="finds no CUDA device; set accelerator to 'auto' or 'cpu'"):
        choose_accelerator("gpu")
    assert (choose_accelerator("auto"), choose_accelerator("cpu")) == ("cpu", "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (choose_accelerator("auto"), choose_accelerator("gpu"), choose_accelerator("cpu")) == ("gpu", "gpu", "cpu")
