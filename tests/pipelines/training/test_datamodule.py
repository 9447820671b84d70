import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.training.datamodule import PlaceBatches, PlaceDataModule, PlaceTensors, is_validation_place


def places(num: int) -> PlaceTensors:
    index = torch.arange(num, dtype=torch.float32)
    return PlaceTensors(
        features=torch.stack([index, -index], dim=1),
        lonlat_deg=torch.stack([index, index / 10], dim=1).double(),
        place_ids=np.arange(num),
    )


@given(
    ids=st.lists(st.integers(0, 10**9), unique=True, max_size=40),
    added=st.lists(st.integers(0, 10**9), unique=True, max_size=40),
    seed=st.integers(0, 2**31),
)
def test_split_is_unchanged_when_locations_are_added(ids: list[int], added: list[int], seed: int) -> None:
    alone = dict(zip(ids, is_validation_place(ids, seed, 0.25), strict=True))
    everything = sorted({*ids, *added}, reverse=True)
    together = dict(zip(everything, is_validation_place(everything, seed, 0.25), strict=True))
    assert all(together[each] == alone[each] for each in ids)


def test_split_has_the_asked_share_and_depends_on_the_seed() -> None:
    ids = np.arange(20_000)
    split = is_validation_place(ids, seed=0, fraction=0.25)
    assert split.mean() == pytest.approx(0.25, abs=0.01)
    assert 0.3 < (split != is_validation_place(ids, seed=1, fraction=0.25)).mean() < 0.45
    assert not is_validation_place(ids, seed=0, fraction=0.0).any()


def test_split_is_the_one_recorded_in_checkpoints() -> None:
    assert np.flatnonzero(is_validation_place(range(20), seed=0, fraction=0.25)).tolist() == [3, 7, 8, 9, 11, 12, 18]


def test_a_larger_fraction_keeps_the_validation_places() -> None:
    ids = np.arange(1000)
    assert (is_validation_place(ids, 3, 0.4) >= is_validation_place(ids, 3, 0.2)).all()


def test_every_place_comes_once_and_stays_with_its_location() -> None:
    batches = PlaceBatches(places(12), batch_size=4, shuffle_seed=1)
    seen = []
    for features, lonlat_deg in batches:
        assert features.shape == (4, 2)
        np.testing.assert_allclose(features[:, 0], lonlat_deg[:, 0])
        seen += features[:, 0].tolist()
    assert sorted(seen) == list(range(12))
    assert seen != list(range(12))
    assert len(batches) == 3


def test_passes_differ_and_follow_from_the_seed() -> None:
    first, second = (
        [torch.cat([features for features, _ in batches]) for _ in range(2)]
        for batches in (PlaceBatches(places(30), 10, shuffle_seed=5), PlaceBatches(places(30), 10, shuffle_seed=5))
    )
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], first[1])


def test_shuffled_batches_have_one_size_and_ordered_ones_are_complete() -> None:
    assert [len(features) for features, _ in PlaceBatches(places(10), 4, shuffle_seed=0)] == [4, 4]
    assert [len(features) for features, _ in PlaceBatches(places(10), 4)] == [4, 4, 2]
    with pytest.raises(ValueError, match="batch_size is 11; expected 1 to 10"):
        PlaceBatches(places(10), 11)


def test_batch_is_clipped_and_a_lone_validation_place_is_left_out() -> None:
    data = PlaceDataModule(places(7), places(1), batch_size=512, seed=0)
    assert data.batch_size == 7
    assert len(data.train_dataloader()) == 1
    assert list(data.val_dataloader()) == []
