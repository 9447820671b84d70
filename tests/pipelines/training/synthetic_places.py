"""Places whose image features are smooth functions of the place."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipelines.features.config import ViewsConfig
from pipelines.features.view_bank import ImageFeatures, dataset_content
from pipelines.training.config import TrainingConfig
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


def synthetic(num: int, num_invalid: int = 3, num_views: int = 1) -> tuple[FakeDataset, ImageFeatures]:
    """Places and a bank; views after the first are noisy."""
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
        "views": ViewsConfig(num_views=num_views).model_dump(mode="json"),
        "feature_dim": BACKBONE.feature_dim,
    }
    noise = 0.1 * rng.standard_normal((num, num_views, BACKBONE.feature_dim))
    noise[:, 0] = 0
    return FakeDataset(places), ImageFeatures((features[:, None] + noise).astype(np.float16), valid, record)
