import numpy as np
import pandas as pd
import pytest

from pipelines.evaluation.effective_resolution import (
    Resolution,
    checkerboard,
    draw_places,
    measure_resolution,
    similarity_by_distance,
)
from pipelines.evaluation.methods import EncoderFeatures, EncodingAlone
from pipelines.evaluation.sphere import EARTH_RADIUS_KM
from satclip_model.config import SphericalHarmonicsConfig

HARMONICS = EncodingAlone(SphericalHarmonicsConfig(num_degrees=12))


def noise(lonlat_deg):
    return np.random.default_rng(len(lonlat_deg)).normal(size=(len(lonlat_deg), 20))


def test_colours_alternate_along_and_across_rows_and_over_the_antimeridian():
    degrees_km = np.pi * EARTH_RADIUS_KM / 180
    side_km = 10 * degrees_km
    east = checkerboard(np.column_stack([np.arange(-175.0, 180, 10), np.full(36, 5.0)]), side_km)
    assert (np.diff(east) != 0).all()
    assert east[0] != east[-1]
    north = checkerboard(np.column_stack([np.full(4, 5.0), np.arange(-15.0, 25, 10)]), side_km)
    assert set(north) <= {0, 1}
    assert north[1] != north[2]
    shares = checkerboard(draw_places(20_000, np.random.default_rng(0)), 500.0).mean()
    assert shares == pytest.approx(0.5, abs=0.03)


def test_random_features_tell_nothing():
    found = measure_resolution(EncoderFeatures("noise", noise, "none"), 1000, sides_km=(500.0, 5000.0))
    assert (found.checkerboard["lower"] < 0.5).all()
    assert np.isnan(found.finest_side_km)


def test_a_commoner_colour_is_no_knowledge():
    """Where few cells meet the places, guessing the commoner colour is right more than half the time."""

    def is_wanted(drawn):
        return (checkerboard(drawn, 5000.0) == 0) | (drawn[:, 0] > 140)

    found = measure_resolution(EncoderFeatures("noise", noise, "none"), 1000, sides_km=(5000.0,), is_wanted=is_wanted)
    assert found.checkerboard["lower"].item() > 0.5
    assert np.isnan(found.finest_side_km)


def test_harmonics_tell_cells_of_their_waves_and_not_finer_ones():
    """Degrees up to 11 have half waves of 1,820 km and more."""
    found = measure_resolution(HARMONICS, 2000, sides_km=(50.0, 200.0, 2200.0, 5000.0))
    accuracy = found.checkerboard.set_index("side_km")["accuracy"]
    assert accuracy[5000.0] > 0.8
    assert accuracy[2200.0] > 0.6
    assert accuracy[[50.0, 200.0]].max() < 0.55
    assert found.finest_side_km == 2200.0


def test_similarity_falls_with_distance_as_the_harmonics_say():
    """The addition theorem: the cosine depends on the distance alone."""
    table = similarity_by_distance(HARMONICS, 3000, np.random.default_rng(0))
    assert table["mean"].iloc[0] > 0.999
    assert (table["upper_decile"] - table["lower_decile"]).iloc[:8].max() < 0.02
    found = Resolution(pd.DataFrame(), table)
    assert 300 < found.half_similarity_km < 3000


def test_places_are_those_that_are_wanted():
    places = draw_places(500, np.random.default_rng(1), lambda drawn: drawn[:, 1] > 0)
    assert places.shape == (500, 2)
    assert (places[:, 1] > 0).all()


def test_sides_beyond_the_globe_and_too_few_places_are_refused():
    with pytest.raises(ValueError, match="side_km is 30000"):
        checkerboard(np.zeros((1, 2)), 30_000.0)
    with pytest.raises(ValueError, match="at least 100"):
        measure_resolution(HARMONICS, 10)
