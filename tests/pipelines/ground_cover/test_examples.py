from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.errors import ArtefactError, DatasetError
from pipelines.features.config import ViewsConfig
from pipelines.ground_cover.classes import LandCoverClasses
from pipelines.ground_cover.examples import PixelImages, balanced_order, labelled_examples, require_classes
from pipelines.ground_cover.labels import GroundCoverLabels
from tests.pipelines.ground_cover.labelled_patches import CLASSES, world

COUNTS = st.lists(st.integers(1, 30), min_size=1, max_size=5)


@pytest.fixture(scope="module")
def examples():
    return world((6, 5, 4, 3)).examples


@settings(max_examples=30, deadline=None)
@given(counts=COUNTS, seed=st.integers(0, 100), epoch=st.integers(0, 5))
def test_without_balance_an_epoch_is_a_permutation(counts, seed, epoch):
    dominant = np.repeat(np.arange(len(counts)), counts)
    order = balanced_order(dominant, 0.0, seed, epoch)
    assert sorted(order.tolist()) == list(range(len(dominant)))
    np.testing.assert_array_equal(order, balanced_order(dominant, 0.0, seed, epoch))


@settings(max_examples=30, deadline=None)
@given(counts=COUNTS, seed=st.integers(0, 100))
def test_full_balance_draws_every_class_equally_often(counts, seed):
    dominant = np.repeat(np.arange(len(counts)), counts)
    drawn = np.bincount(dominant[balanced_order(dominant, 1.0, seed, 0)], minlength=len(counts))
    assert drawn.sum() == len(dominant)
    share = len(dominant) / len(counts)
    of_a_patch = np.bincount(balanced_order(dominant, 1.0, seed, 0), minlength=len(dominant))
    expected = share / np.asarray(counts)[dominant]
    assert (np.abs(of_a_patch - expected) <= 1 + 1e-9).all()


def test_epochs_differ():
    dominant = np.repeat([0, 1], [30, 10])
    assert not np.array_equal(balanced_order(dominant, 0.5, 0, 0), balanced_order(dominant, 0.5, 0, 1))


def test_without_a_class_nothing_of_it_is_left(examples):
    rest = examples.without_class(1, 0.05)
    assert [each.name for each in rest.classes] == ["Cold forest", "Cold desert", "Warm desert"]
    np.testing.assert_allclose(rest.fractions.sum(axis=1), 1, rtol=1e-6)
    kept = set(rest.positions.tolist())
    assert kept == set(examples.positions[examples.fractions[:, 1] < 0.05].tolist())
    assert 0 < len(rest) < len(examples)


def test_one_class_alone_cannot_be_trained_on(examples):
    alone = examples.select(examples.dominant == 2)
    with pytest.raises(DatasetError, match=r"dataset abc: 4 labelled patches with 1 dominant classes \(Cold desert\)"):
        require_classes(alone, "dataset abc", {"valid": 4, "other_year": 9})
    with pytest.raises(DatasetError, match="0 dominant classes"):
        require_classes(examples.select(np.zeros(len(examples), dtype=bool)), "dataset abc")


class _Reader:
    patch_shape = (12, 4, 4)

    def read(self, rows, out):
        out[:] = (1000 + 100 * rows)[:, None, None, None]


def test_pixels_come_as_reflectance_without_the_offset_of_their_baseline():
    images = PixelImages(
        _Reader(), np.array([4, 7]), np.array([0, -1000]), np.array([40, 70]), ViewsConfig(num_views=1)
    )
    found = images.batch(np.array([1, 0]), 3)
    assert found.shape == (2, 12, 4, 4)
    assert found[:, 0, 0, 0].tolist() == pytest.approx([0.07, 0.14])


def test_an_epoch_sees_its_own_view_of_a_pixel_patch():
    views = ViewsConfig(num_views=4, max_band_jitter=0.2)
    images = PixelImages(_Reader(), np.array([4, 7]), np.array([0, 0]), np.array([40, 70]), views)
    rows = np.array([0, 1])
    plain, first, again, second = (images.batch(rows, epoch) for epoch in (None, 0, 0, 1))
    assert first.equal(again)
    assert not first.equal(second)
    assert not first.equal(plain)


def test_labels_of_other_places_are_refused():
    dataset = SimpleNamespace(version="abc", places=pd.DataFrame({"row": [0, 1, 2]}))
    classes = LandCoverClasses("world", CLASSES)
    labels = GroundCoverLabels(
        np.array([0, 1]), np.zeros((2, 2)), np.full((2, 4), 0.25, dtype=np.float32), np.ones(2, dtype=np.int64),
        np.full(2, 2021), ("valid", "valid"), classes,
    )  # fmt: skip
    with pytest.raises(ArtefactError, match="its 3 places are not those of the 2 labels"):
        labelled_examples(dataset, labels, None, np.ones(3, dtype=bool))
