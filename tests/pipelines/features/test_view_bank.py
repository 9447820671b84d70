import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import zarr

from pipelines.errors import ArtefactError, DatasetError
from pipelines.features.view_bank import build_image_features, dataset_content, image_features_path, open_image_features
from pipelines.patches.radiometry import reflectance
from satclip_model.config import RandomFeaturesConfig
from satclip_model.image_encoder import RandomConvolutionalFeatures

CONFIG = RandomFeaturesConfig(seed=2, num_filters=4, pool_factors=(1, 4))


@dataclass
class FakeDataset:
    """Ten places of 16 x 16 pixels in shards of four; rows 1 and 8 have no patch."""

    version: str = "v1"
    shard_size: int = 4
    fail_at: int | None = None
    reads: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(0)
        valid = np.ones(10, dtype=bool)
        valid[[1, 8]] = False
        offsets = np.where(np.arange(10) % 3 == 0, -1000, 0)
        self.dn = (rng.integers(1500, 6000, (10, 12, 16, 16)) * valid[:, None, None, None]).astype(np.uint16)
        hashes = [hashlib.sha256(each.tobytes()).hexdigest() for each in self.dn]
        self.places = pd.DataFrame({"valid": valid, "boa_add_offset": offsets, "sha256": hashes})

    @property
    def num_places(self) -> int:
        return len(self.places)

    @property
    def num_shards(self) -> int:
        return 3

    def read_shard_dn(self, shard: int) -> np.ndarray:
        if shard == self.fail_at:
            raise KeyboardInterrupt
        self.reads.append(shard)
        return self.dn[shard * 4 : shard * 4 + 4]


@pytest.fixture
def backbone() -> RandomConvolutionalFeatures:
    return RandomConvolutionalFeatures(CONFIG)


def tree_digest(path: Path) -> str:
    digest = hashlib.sha256()
    for each in sorted(path.rglob("*")):
        if each.is_file():
            digest.update(str(each.relative_to(path)).encode() + each.read_bytes())
    return digest.hexdigest()


def test_features_are_those_of_offset_free_reflectance(tmp_path: Path, backbone: RandomConvolutionalFeatures) -> None:
    dataset = FakeDataset()
    path = image_features_path(tmp_path, dataset.version, backbone.fingerprint)
    record = build_image_features(dataset, backbone, path, batch_size=3)
    assert path.parent == tmp_path / "features"
    assert (record["num_valid"], record["num_computed_shards"]) == (8, 3)
    opened = open_image_features(path, "v1", backbone.fingerprint)
    np.testing.assert_array_equal(opened.valid, dataset.places["valid"])
    assert opened.features.dtype == np.float32
    assert np.isnan(opened.features[[1, 8]]).all()
    offsets = dataset.places["boa_add_offset"].to_numpy()
    expected = backbone(torch.from_numpy(reflectance(dataset.dn, offsets))).numpy()
    np.testing.assert_allclose(opened.features[opened.valid], expected[opened.valid], rtol=1e-5, atol=1e-6)
    assert RandomFeaturesConfig.model_validate(opened.record["encoder"]) == CONFIG
    array = zarr.open_group(path, mode="r")["features"]
    assert isinstance(array, zarr.Array)
    assert array.chunks == (4, CONFIG.feature_dim)


def test_interrupted_build_goes_on_where_it_stopped(tmp_path: Path, backbone: RandomConvolutionalFeatures) -> None:
    whole, resumed = tmp_path / "whole.zarr", tmp_path / "resumed.zarr"
    build_image_features(FakeDataset(), backbone, whole)
    with pytest.raises(KeyboardInterrupt):
        build_image_features(FakeDataset(fail_at=2), backbone, resumed)
    with pytest.raises(ArtefactError, match="unfinished"):
        open_image_features(resumed, "v1", backbone.fingerprint)
    again = FakeDataset()
    record = build_image_features(again, backbone, resumed)
    assert again.reads == [2]
    assert record["num_computed_shards"] == 1
    assert tree_digest(resumed) == tree_digest(whole)
    assert sorted(each.name for each in tmp_path.glob("*.zarr*")) == ["resumed.zarr", "whole.zarr"]


def test_finished_features_are_not_computed_again(tmp_path: Path, backbone: RandomConvolutionalFeatures) -> None:
    build_image_features(FakeDataset(), backbone, tmp_path / "f.zarr")
    again = FakeDataset()
    assert build_image_features(again, backbone, tmp_path / "f.zarr")["num_computed_shards"] == 0
    assert again.reads == []


def test_other_parents_are_refused(tmp_path: Path, backbone: RandomConvolutionalFeatures) -> None:
    path = tmp_path / "f.zarr"
    build_image_features(FakeDataset(), backbone, path)
    with pytest.raises(ArtefactError, match="dataset_version is 'v1', expected 'v2'"):
        open_image_features(path, "v2", backbone.fingerprint)
    with pytest.raises(ArtefactError, match=r"fingerprint is .* expected 'feed'"):
        open_image_features(path, "v1", "feed")
    other = RandomConvolutionalFeatures(CONFIG.model_copy(update={"seed": 9}))
    with pytest.raises(ArtefactError, match="fingerprint"):
        build_image_features(FakeDataset(), other, path)
    with pytest.raises(ArtefactError, match="dataset_version"):
        build_image_features(FakeDataset(version="v2"), backbone, path)


def test_features_of_another_dataset_are_never_removed(tmp_path: Path, backbone: RandomConvolutionalFeatures) -> None:
    path = tmp_path / "f.zarr"
    build_image_features(FakeDataset(), backbone, path)
    other = FakeDataset(version="v2")
    other.places.loc[3, "sha256"] = "f" * 64
    with pytest.raises(ArtefactError, match="dataset_version is 'v1', expected 'v2'"):
        build_image_features(other, backbone, path)
    assert open_image_features(path, "v1", backbone.fingerprint).valid.sum() == 8


def test_features_of_patches_that_changed_are_computed_again(
    tmp_path: Path, backbone: RandomConvolutionalFeatures
) -> None:
    path = tmp_path / "f.zarr"
    build_image_features(FakeDataset(), backbone, path)
    first = open_image_features(path, "v1", backbone.fingerprint)
    changed = FakeDataset()
    changed.dn[3] += 100
    changed.places.loc[3, "sha256"] = hashlib.sha256(changed.dn[3].tobytes()).hexdigest()
    assert build_image_features(changed, backbone, path)["num_computed_shards"] == 3
    second = open_image_features(path, "v1", backbone.fingerprint)
    assert second.record["content_sha256"] == dataset_content(changed) != first.record["content_sha256"]
    differs = (second.features != first.features).any(axis=1) & first.valid
    assert np.flatnonzero(differs).tolist() == [3]


def test_missing_and_foreign_groups_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"absent\.zarr: no image features"):
        open_image_features(tmp_path / "absent.zarr", "v1", "feed")
    zarr.create_group(tmp_path / "foreign.zarr", zarr_format=3)
    with pytest.raises(ArtefactError, match=r"foreign\.zarr: a Zarr group without a record"):
        open_image_features(tmp_path / "foreign.zarr", "v1", "feed")


def test_dataset_without_patches_is_refused(tmp_path: Path, backbone: RandomConvolutionalFeatures) -> None:
    dataset = FakeDataset()
    dataset.places["valid"] = False
    with pytest.raises(DatasetError, match="none of its 10 places has a patch"):
        build_image_features(dataset, backbone, tmp_path / "f.zarr")
    assert not (tmp_path / "f.zarr").exists()
