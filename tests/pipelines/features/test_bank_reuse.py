"""A bank takes from those of other versions what they hold of the same patches; one process at a time writes it."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr

from pipelines.errors import StoreError
from pipelines.features.config import ViewsConfig
from pipelines.features.encoding import ViewEncoder
from pipelines.features.view_bank import (
    bank_fingerprint,
    build_image_features,
    image_features_path,
    open_image_features,
)
from pipelines.patches.shard_lock import exclusive_writer
from satclip_model.image_encoder import RandomConvolutionalFeatures
from tests.pipelines.features.test_view_bank import CONFIG, FakeDataset

VIEWS = ViewsConfig(num_views=2, seed=5)
BACKBONE = RandomConvolutionalFeatures(CONFIG)
FINGERPRINT = bank_fingerprint(BACKBONE, VIEWS)


def refreshed() -> FakeDataset:
    """Version v2: places in another order, two of them with other pixels, one with another offset, and a new one."""
    dataset = FakeDataset(version="v2").change(6)
    order = [3, 0, 9, 6, 1, 2, 5, 4, 7, 8]
    dataset.dn, dataset.places = dataset.dn[order], dataset.places.iloc[order].reset_index(drop=True)
    dataset.change(7)
    dataset.places.loc[0, "boa_add_offset"] = 0
    new = dataset.dn[:1] + 7
    added = dataset.places.iloc[:1].assign(place_id=999, sha256=hashlib.sha256(new.tobytes()).hexdigest())
    dataset.dn, dataset.places = (
        np.concatenate([dataset.dn, new]),
        pd.concat([dataset.places, added], ignore_index=True),
    )
    return dataset


def build(dataset: FakeDataset, root: Path) -> dict[str, object]:
    path = image_features_path(root, dataset.version, FINGERPRINT)
    return build_image_features(dataset, BACKBONE, path, VIEWS, device="cpu")


def features(dataset: FakeDataset, root: Path) -> np.ndarray:
    return open_image_features(
        image_features_path(root, dataset.version, FINGERPRINT), dataset.version, FINGERPRINT
    ).features


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Ids of the places whose patches were encoded."""
    seen: list[int] = []
    encode = ViewEncoder.encode

    def spy(self: ViewEncoder, dn: np.ndarray, offsets: np.ndarray, place_ids: np.ndarray) -> np.ndarray:
        seen.extend(place_ids.tolist())
        return encode(self, dn, offsets, place_ids)

    monkeypatch.setattr(ViewEncoder, "encode", spy)
    return seen


def test_a_new_version_encodes_only_patches_that_are_new(tmp_path: Path, encoded: list[int]) -> None:
    build(FakeDataset(), tmp_path)
    encoded.clear()
    dataset = refreshed()
    record = build(dataset, tmp_path)
    new = dataset.places["place_id"].to_numpy()[[0, 3, 7, 10]]
    assert sorted(encoded) == sorted(new) == [24, 31, 45, 999]
    assert (record["num_copied_patches"], record["num_computed_patches"], record["num_valid"]) == (5, 4, 9)
    build(refreshed(), tmp_path / "fresh")
    np.testing.assert_array_equal(features(dataset, tmp_path), features(dataset, tmp_path / "fresh"))
    encoded.clear()
    assert build(refreshed(), tmp_path)["num_copied_patches"] == 0
    assert encoded == []


def test_banks_of_other_views_are_not_looked_at(tmp_path: Path, encoded: list[int]) -> None:
    other = ViewsConfig(num_views=2, seed=6)
    path = image_features_path(tmp_path, "v1", bank_fingerprint(BACKBONE, other))
    build_image_features(FakeDataset(), BACKBONE, path, other, device="cpu")
    shutil.copytree(path, image_features_path(tmp_path, "v0", FINGERPRINT))
    encoded.clear()
    assert build(FakeDataset(version="v2"), tmp_path)["num_copied_patches"] == 0
    assert len(encoded) == 8


def test_features_that_were_lost_are_encoded_again(tmp_path: Path, encoded: list[int]) -> None:
    build(FakeDataset(), tmp_path)
    (image_features_path(tmp_path, "v1", FINGERPRINT) / "features" / "c" / "1" / "0" / "0").unlink()
    encoded.clear()
    dataset = FakeDataset(version="v2")
    assert build(dataset, tmp_path)["num_copied_patches"] == 4
    assert encoded == [31, 38, 45, 52]
    assert np.isfinite(features(dataset, tmp_path)[dataset.places["valid"]]).all()


def test_what_an_interrupted_build_finished_serves_another_version(tmp_path: Path, encoded: list[int]) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(FakeDataset(fail_at=2), tmp_path)
    encoded.clear()
    assert build(FakeDataset(version="v2"), tmp_path)["num_copied_patches"] == 7
    assert encoded == [66]


def test_two_builders_of_one_bank_are_told_apart_and_readers_of_a_finished_one_are_not_kept_out(
    tmp_path: Path,
) -> None:
    path = image_features_path(tmp_path, "v1", FINGERPRINT)
    with exclusive_writer(path.parent, path.name, "the bank"):
        with pytest.raises(StoreError, match=rf"the bank {path.name} of .*features is being written by process \d+ on"):
            build(FakeDataset(), tmp_path)
        assert not path.exists()
    build(FakeDataset(), tmp_path)
    with exclusive_writer(path.parent, path.name, "the bank"):
        assert build(FakeDataset(), tmp_path)["num_computed_patches"] == 0
    assert zarr.open_group(path, mode="r").attrs["complete"]
