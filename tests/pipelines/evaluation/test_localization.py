import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.evaluation.localization import build_gallery, fibonacci_lattice, localize, similarity_field
from pipelines.evaluation.sphere import unit_vectors


@given(st.integers(1, 3000))
@settings(max_examples=30, deadline=None)
def test_a_lattice_is_on_the_sphere_and_balanced_about_its_centre(number):
    places = fibonacci_lattice(number)
    assert places.shape == (number, 2)
    assert (np.abs(places[:, 1]) <= 90).all()
    assert ((places[:, 0] >= -180) & (places[:, 0] < 180)).all()
    assert np.abs(unit_vectors(places)[:, 2].mean()) < 1e-9


def test_a_lattice_has_equal_shares_in_caps_of_equal_area():
    vectors = unit_vectors(fibonacci_lattice(20_000))
    axes = unit_vectors(np.array([[0.0, 0.0], [90.0, 0.0], [180.0, 0.0], [45.0, 45.0], [-120.0, -60.0], [0.0, 90.0]]))
    shares = (vectors @ axes.T > 0.8).mean(axis=0)
    np.testing.assert_allclose(shares, 0.1, atol=2e-3)


def test_an_image_whose_embedding_is_its_place_is_found_at_the_nearest_of_the_gallery():
    rng = np.random.default_rng(1)
    taken = np.column_stack([rng.uniform(-180, 180, 600), rng.uniform(-89, 89, 600)])
    taken[0] = [179.999, 10.0]
    gallery = build_gallery(lambda places: 7.0 * unit_vectors(places), 5_000)
    found = localize(3.0 * unit_vectors(taken), taken, gallery)
    np.testing.assert_allclose(found.error_km, found.floor_km, atol=0.5)
    assert found.share_within(400.0) == 1.0
    assert found.median_error_km < 200.0 < np.median(found.chance_km)
    np.testing.assert_allclose(np.median(found.chance_km), 10_000, rtol=0.1)
    np.testing.assert_allclose(found.chance_within(2500.0), (1 - np.cos(2500 / 6371)) / 2, atol=0.03)
    assert (found.similarity > 0.999).all()


def test_places_that_are_not_wanted_are_never_found():
    gallery = build_gallery(unit_vectors, 2_000, lambda places: places[:, 1] > 0)
    found = localize(unit_vectors(np.array([[20.0, -80.0]])), np.array([[20.0, -80.0]]), gallery)
    assert 0 < found.found_lonlat_deg[0, 1] < 5
    field = similarity_field(unit_vectors(np.array([[20.0, -80.0]]))[0], gallery)
    assert field.shape == (len(gallery.lonlat_deg),)
    assert field.max() == pytest.approx(found.similarity[0], abs=1e-6)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.ones((2, 4)), r"\(2, 4\).*do not fit"),
        (np.ones((1, 3)), "do not fit"),
        (np.array([[np.nan, 0, 0], [1, 0, 0]]), "1 embeddings are zero or not finite"),
        (np.array([[0.0, 0, 0], [1, 0, 0]]), "1 embeddings are zero"),
    ],
)
def test_embeddings_that_cannot_be_compared_are_refused(images, message):
    gallery = build_gallery(unit_vectors, 100)
    with pytest.raises(ValueError, match=message):
        localize(images, np.zeros((2, 2)), gallery)


def test_an_empty_gallery_and_no_places_are_refused():
    with pytest.raises(ValueError, match="none of 10 places"):
        build_gallery(unit_vectors, 10, lambda places: np.zeros(len(places), dtype=bool))
    with pytest.raises(ValueError, match="num_places is 0"):
        fibonacci_lattice(0)
