import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import zarr

from pipelines.errors import ArtefactError, DatasetError
from pipelines.features.config import ImageBackboneSettings, ViewsConfig
from pipelines.features.encoding import ViewEncoder
from pipelines.features.view_bank import (
    bank_fingerprint,
    build_image_features,
    dataset_content,
    image_features_path,
    open_image_features,
    publish_image_features,
    resolve_fingerprint,
)
from pipelines.features.views import augment
from pipelines.patches.radiometry import reflectance
from satclip_model.config import RandomFeaturesConfig
from satclip_model.image_encoder import RandomConvolutionalFeatures

CONFIG = RandomFeaturesConfig(seed=2, num_filters=4, pool_factors=(1, 4))
PLAIN = ViewsConfig()
THREE = ViewsConfig(num_views=3, seed=5)


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
        self.places = pd.DataFrame(
            {"place_id": np.arange(10) * 7 + 3, "valid": valid, "boa_add_offset": offsets, "sha256": hashes}
        )

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

    def change(self, row: int) -> "FakeDataset":
        self.dn[row] += 100
        self.places.loc[row, "sha256"] = hashlib.sha256(self.dn[row].tobytes()).hexdigest()
        return self


@pytest.fixture
def backbone() -> RandomConvolutionalFeatures:
    return RandomConvolutionalFeatures(CONFIG)


@pytest.fixture
def fingerprint(backbone: RandomConvolutionalFeatures) -> str:
    return bank_fingerprint(backbone, PLAIN)


def tree_digest(path: Path) -> str:
    digest = hashlib.sha256()
    for each in sorted(path.rglob("*")):
        if each.is_file():
            digest.update(str(each.relative_to(path)).encode() + each.read_bytes())
    return digest.hexdigest()


def test_one_view_holds_plain_features_to_rounding(
    tmp_path: Path, backbone: RandomConvolutionalFeatures, fingerprint: str
) -> None:
    dataset = FakeDataset()
    path = image_features_path(tmp_path, dataset.version, fingerprint)
    record = build_image_features(dataset, backbone, path, batch_size=3, device="cpu")
    assert path.parent == tmp_path / "features"
    assert (record["num_valid"], record["num_computed_shards"], record["num_computed_patches"]) == (8, 3, 8)
    opened = open_image_features(path, "v1", fingerprint)
    np.testing.assert_array_equal(opened.valid, dataset.places["valid"])
    assert (opened.features.dtype, opened.features.shape) == (np.float16, (10, 1, CONFIG.feature_dim))
    assert np.isnan(opened.features[[1, 8]]).all()
    offsets = dataset.places["boa_add_offset"].to_numpy()
    expected = backbone(torch.from_numpy(reflectance(dataset.dn, offsets))).numpy()[opened.valid]
    error = np.abs(opened.plain[opened.valid].astype(np.float32) - expected)
    assert (error <= np.maximum(np.abs(expected) * 2.0**-11, 2.0**-25) + 1e-6).all()
    array = zarr.open_group(path, mode="r")["features"]
    assert isinstance(array, zarr.Array)
    assert array.chunks == (4, 1, CONFIG.feature_dim)
    assert array.metadata.dimension_names == ("place", "view", "feature")


def test_views_are_those_of_each_place(tmp_path: Path, backbone: RandomConvolutionalFeatures) -> None:
    dataset = FakeDataset()
    build_image_features(dataset, backbone, tmp_path / "f.zarr", THREE, batch_size=2, device="cpu")
    opened = open_image_features(tmp_path / "f.zarr", "v1", bank_fingerprint(backbone, THREE))
    assert opened.num_views == 3
    patch = torch.from_numpy(reflectance(dataset.dn[6:7], dataset.places["boa_add_offset"].to_numpy()[6:7]))
    for view in range(3):
        expected = backbone(augment(patch, dataset.places["place_id"][6:7].tolist(), view, THREE)).numpy()
        np.testing.assert_allclose(opened.features[6:7, view], expected, rtol=1e-3, atol=1e-5)
    assert (opened.features[6, 1] != opened.features[6, 2]).any()
    build_image_features(dataset, backbone, tmp_path / "plain.zarr", device="cpu")
    plain = open_image_features(tmp_path / "plain.zarr", "v1", bank_fingerprint(backbone, PLAIN))
    np.testing.assert_array_equal(opened.plain, plain.plain)


def test_record_names_encoder_views_and_how_to_open_it_again(
    tmp_path: Path, backbone: RandomConvolutionalFeatures
) -> None:
    settings = ImageBackboneSettings(seed=2)
    build_image_features(FakeDataset(), backbone, tmp_path / "f.zarr", THREE, settings=settings, device="cpu")
    record = open_image_features(tmp_path / "f.zarr", "v1", bank_fingerprint(backbone, THREE)).record
    assert RandomFeaturesConfig.model_validate(record["encoder"]) == CONFIG
    assert record["backbone_fingerprint"] == backbone.fingerprint
    assert ImageBackboneSettings.model_validate(record["backbone"]) == settings
    assert ViewsConfig.model_validate(record["views"]) == THREE


def test_fingerprint_follows_what_the_encoder_sees(backbone: RandomConvolutionalFeatures) -> None:
    other = RandomConvolutionalFeatures(CONFIG.model_copy(update={"seed": 9}))
    prints = [bank_fingerprint(each, views) for each in (backbone, other) for views in (PLAIN, THREE)]
    prints.append(bank_fingerprint(backbone, THREE.model_copy(update={"max_band_jitter": 0.2})))
    assert len(set(prints)) == 5
    assert bank_fingerprint(backbone, PLAIN) == bank_fingerprint(backbone, ViewsConfig(seed=8, max_band_jitter=0.2))


def test_interrupted_build_goes_on_where_it_stopped(
    tmp_path: Path, backbone: RandomConvolutionalFeatures, fingerprint: str
) -> None:
    whole, resumed = tmp_path / "whole.zarr", tmp_path / "resumed.zarr"
    build_image_features(FakeDataset(), backbone, whole, device="cpu")
    with pytest.raises(KeyboardInterrupt):
        build_image_features(FakeDataset(fail_at=2), backbone, resumed, device="cpu")
    with pytest.raises(ArtefactError, match="unfinished"):
        open_image_features(resumed, "v1", fingerprint)
    again = FakeDataset()
    record = build_image_features(again, backbone, resumed, device="cpu")
    assert again.reads == [2]
    assert record["num_computed_shards"] == 1
    assert tree_digest(resumed) == tree_digest(whole)
    assert sorted(each.name for each in tmp_path.glob("*.zarr*")) == ["resumed.zarr", "whole.zarr"]


def test_finished_features_are_not_computed_again(tmp_path: Path, backbone: RandomConvolutionalFeatures) -> None:
    build_image_features(FakeDataset(), backbone, tmp_path / "f.zarr", device="cpu")
    before = tree_digest(tmp_path)
    again = FakeDataset()
    assert build_image_features(again, backbone, tmp_path / "f.zarr", device="cpu")["num_computed_shards"] == 0
    assert again.reads == []
    assert tree_digest(tmp_path) == before


def test_other_parents_are_refused(tmp_path: Path, backbone: RandomConvolutionalFeatures, fingerprint: str) -> None:
    path = tmp_path / "f.zarr"
    build_image_features(FakeDataset(), backbone, path, device="cpu")
    with pytest.raises(ArtefactError, match="dataset_version is 'v1', expected 'v2'"):
        open_image_features(path, "v2", fingerprint)
    with pytest.raises(ArtefactError, match=r"fingerprint is .* expected 'feed'; these are 1 views under random_conv"):
        open_image_features(path, "v1", "feed")
    other = RandomConvolutionalFeatures(CONFIG.model_copy(update={"seed": 9}))
    with pytest.raises(ArtefactError, match="fingerprint"):
        build_image_features(FakeDataset(), other, path, device="cpu")
    with pytest.raises(ArtefactError, match="fingerprint"):
        build_image_features(FakeDataset(), backbone, path, THREE, device="cpu")
    with pytest.raises(ArtefactError, match="dataset_version"):
        build_image_features(FakeDataset(version="v2").change(3), backbone, path, device="cpu")
    assert open_image_features(path, "v1", fingerprint).valid.sum() == 8


def test_only_patches_that_changed_are_encoded_again(
    tmp_path: Path, backbone: RandomConvolutionalFeatures, fingerprint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f.zarr"
    build_image_features(FakeDataset(), backbone, path, device="cpu")
    first = open_image_features(path, "v1", fingerprint)
    changed = FakeDataset().change(6)
    changed.places.loc[9, "boa_add_offset"] = 0
    seen: list[int] = []
    encode = ViewEncoder.encode

    def spy(self: ViewEncoder, dn: np.ndarray, offsets: np.ndarray, place_ids: np.ndarray) -> np.ndarray:
        seen.extend(place_ids.tolist())
        return encode(self, dn, offsets, place_ids)

    monkeypatch.setattr(ViewEncoder, "encode", spy)
    record = build_image_features(changed, backbone, path, device="cpu")
    assert (record["num_computed_shards"], record["num_computed_patches"]) == (2, 2)
    assert (seen, changed.reads) == ([45, 66], [1, 2])
    second = open_image_features(path, "v1", fingerprint)
    assert second.record["content_sha256"] == dataset_content(changed) != first.record["content_sha256"]
    differs = (second.features != first.features).any(axis=(1, 2)) & first.valid
    assert np.flatnonzero(differs).tolist() == [6, 9]


def test_a_place_that_lost_its_patch_loses_its_features(
    tmp_path: Path, backbone: RandomConvolutionalFeatures, fingerprint: str
) -> None:
    build_image_features(FakeDataset(), backbone, tmp_path / "f.zarr", device="cpu")
    dataset = FakeDataset()
    dataset.places.loc[5, ["valid", "sha256"]] = [False, ""]
    assert build_image_features(dataset, backbone, tmp_path / "f.zarr", device="cpu")["num_computed_patches"] == 0
    opened = open_image_features(tmp_path / "f.zarr", "v1", fingerprint)
    assert np.flatnonzero(~opened.valid).tolist() == [1, 5, 8]
    assert np.isnan(opened.features[5]).all()


def test_interrupted_update_is_not_taken_for_finished(
    tmp_path: Path, backbone: RandomConvolutionalFeatures, fingerprint: str
) -> None:
    path = tmp_path / "f.zarr"
    build_image_features(FakeDataset(), backbone, path, device="cpu")
    changed = FakeDataset(fail_at=2).change(2).change(9)
    with pytest.raises(KeyboardInterrupt):
        build_image_features(changed, backbone, path, device="cpu")
    with pytest.raises(ArtefactError, match="unfinished"):
        open_image_features(path, "v1", fingerprint)
    changed.fail_at = None
    assert build_image_features(changed, backbone, path, device="cpu")["num_computed_patches"] == 1
    build_image_features(changed, backbone, tmp_path / "whole.zarr", device="cpu")
    np.testing.assert_array_equal(
        open_image_features(path, "v1", fingerprint).features,
        open_image_features(tmp_path / "whole.zarr", "v1", fingerprint).features,
    )


class Amplified(RandomConvolutionalFeatures):
    """Features times 1e5, but for the first: beyond float16 for most patches."""

    def forward(self, reflectance: torch.Tensor) -> torch.Tensor:
        features = super().forward(reflectance)
        return torch.cat([features[:, :1], features[:, 1:] * 1e5], dim=1)


def test_features_beyond_float16_name_patch_view_and_feature(tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"row 0 \(place 3\) has the value .* in feature [1-9]\d* of view 0; .* 65504"
    ):
        build_image_features(FakeDataset(), Amplified(CONFIG), tmp_path / "f.zarr", device="cpu")


def test_features_that_are_not_finite_are_named(tmp_path: Path, backbone: RandomConvolutionalFeatures) -> None:
    backbone.centers[1, 2] = torch.nan
    with pytest.raises(DatasetError, match=r"row 0 \(place 3\) has the value nan in feature 10 of view 0"):
        build_image_features(FakeDataset(), backbone, tmp_path / "f.zarr", device="cpu")


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


def test_latest_is_the_bank_published_last_of_a_dataset(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="no image features of dataset v1 yet; materialize image_features"):
        resolve_fingerprint(tmp_path, "v1")
    for version, fingerprint in (("v1", "a"), ("v1", "b"), ("v2", "c")):
        publish_image_features(tmp_path, version, fingerprint)
    assert [resolve_fingerprint(tmp_path, version) for version in ("v1", "v2")] == ["b", "c"]
    assert resolve_fingerprint(tmp_path, "v1", "a") == "a"
