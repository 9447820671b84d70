import numpy as np
import pytest
import torch

from pipelines.training.datamodule import (
    PlaceDataModule,
    PlaceTensors,
    PlainBatches,
    TrainingBatches,
    choose_views,
    epoch_order,
)


def places(num: int, num_views: int = 1) -> PlaceTensors:
    """Feature 0 of a view is the place, feature 1 the view."""
    index = torch.arange(num, dtype=torch.float16)
    features = torch.stack(
        [index[:, None].expand(num, num_views), torch.arange(num_views).half().expand(num, num_views)], dim=2
    )
    lonlat_deg = torch.stack([index.double(), index.double() / 10], dim=1)
    return PlaceTensors(features, lonlat_deg, np.arange(num) * 7)


def epochs_of(batches: TrainingBatches) -> list[torch.Tensor]:
    everything = torch.cat([features for features, _ in batches])
    return list(everything.split(batches.steps_per_epoch * batches.batch_size))


def test_every_place_comes_once_an_epoch_and_stays_with_its_location() -> None:
    batches = TrainingBatches(places(12), batch_size=4, seed=1, num_epochs=2)
    for features, lonlat_deg in batches:
        assert features.shape == (4, 2)
        assert features.dtype == torch.float32
        np.testing.assert_allclose(features[:, 0], lonlat_deg[:, 0])
    first, second = (epoch[:, 0].tolist() for epoch in epochs_of(batches))
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second != list(range(12))
    assert len(batches) == 6


def test_order_follows_from_seed_and_epoch() -> None:
    assert torch.equal(epoch_order(30, 5, 1), epoch_order(30, 5, 1))
    assert not torch.equal(epoch_order(30, 5, 1), epoch_order(30, 5, 2))
    assert not torch.equal(epoch_order(30, 5, 1), epoch_order(30, 6, 1))
    (only,) = epochs_of(TrainingBatches(places(30), 10, seed=5, num_epochs=1))
    assert only[:, 0].long().tolist() == epoch_order(30, 5, 0).tolist()


@pytest.mark.parametrize("first_step", [0, 1, 2, 3, 7, 8])
def test_batches_go_on_anywhere(first_step: int) -> None:
    whole = list(TrainingBatches(places(11, num_views=3), 4, seed=3, num_epochs=4))
    rest = TrainingBatches(places(11, num_views=3), 4, seed=3, num_epochs=4, first_step=first_step)
    assert len(rest) == len(whole) - first_step
    for expected, found in zip(whole[first_step:], rest, strict=True):
        assert torch.equal(expected[0], found[0])
        assert torch.equal(expected[1], found[1])


def test_views_are_drawn_per_epoch_and_place_and_all_come() -> None:
    ids = np.arange(6000) * 3
    first, second = (choose_views(ids, seed=0, epoch=epoch, num_views=4) for epoch in (0, 1))
    np.testing.assert_allclose(np.bincount(first, minlength=4) / len(ids), 0.25, atol=0.02)
    assert (first == second).mean() == pytest.approx(0.25, abs=0.02)
    assert (first == choose_views(ids, seed=1, epoch=0, num_views=4)).mean() == pytest.approx(0.25, abs=0.02)
    np.testing.assert_array_equal(choose_views(ids[::-1], 0, 0, 4), first[::-1])


def test_batches_hold_the_chosen_views() -> None:
    some = places(20, num_views=5)
    for epoch, features in enumerate(epochs_of(TrainingBatches(some, 5, seed=2, num_epochs=3))):
        chosen = choose_views(some.place_ids, 2, epoch, 5)
        assert features[:, 1].long().tolist() == chosen[features[:, 0].long()].tolist()


def test_training_batches_have_one_size_and_plain_ones_are_complete_and_without_augmentation() -> None:
    assert [len(features) for features, _ in TrainingBatches(places(10), 4, seed=0, num_epochs=1)] == [4, 4]
    plain = list(PlainBatches(places(10, num_views=3), 4))
    assert [len(features) for features, _ in plain] == [4, 4, 2]
    assert len(PlainBatches(places(10), 4)) == 3
    assert all((features[:, 1] == 0).all() for features, _ in plain)
    for make in (lambda: PlainBatches(places(10), 11), lambda: TrainingBatches(places(10), 11, 0, 1)):
        with pytest.raises(ValueError, match="batch_size is 11; expected 1 to 10"):
            make()


def test_batch_is_clipped_and_a_lone_validation_place_is_left_out() -> None:
    data = PlaceDataModule(places(7), places(1), batch_size=512, seed=0, num_epochs=3)
    assert data.batch_size == 7
    assert data.steps_per_epoch == 1
    assert len(data.train_dataloader()) == 3
    assert list(data.val_dataloader()) == []
