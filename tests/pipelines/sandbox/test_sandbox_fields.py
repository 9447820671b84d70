import io

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import RidgeClassifier, RidgeCV
from sklearn.model_selection import KFold, cross_val_predict, cross_val_score

from pipelines.sandbox import kernels
from pipelines.sandbox.fields import BIOMES, FIELD_NAMES, LAND_COVERS, Planet, normalised_legendre
from pipelines.sandbox.tables import table_csv, table_points


@pytest.fixture(scope="module")
def planet():
    return Planet(0)


def test_legendre_functions_obey_the_addition_theorem():
    lat = np.radians([-89.9, -30.0, 0.0, 12.3, 77.0])
    legendre = normalised_legendre(lat, 40)
    weight = np.where(np.arange(41) == 0, 1.0, 2.0)
    power = np.einsum("m,lmy->ly", weight, legendre**2)
    np.testing.assert_allclose(power * 4 * np.pi, (2 * np.arange(41) + 1)[:, None] * np.ones(5), rtol=1e-9)


def test_smooth_fields_have_no_power_above_degree_40(planet):
    # An orthonormal harmonic of degree 40 changes sign at most 80 times around the equator.
    equator = planet.grids[0, 360, :-1]
    spectrum = np.abs(np.fft.rfft(equator)) ** 2
    assert spectrum[41:].sum() < 1e-6 * spectrum.sum()
    assert spectrum[5:26].sum() > 0.4 * spectrum[1:].sum()


@pytest.mark.parametrize("name", FIELD_NAMES)
@pytest.mark.parametrize("seed", [0, 1])
def test_ridge_on_coordinates_explains_a_tenth_to_six_tenths(name, seed):
    """R2 of a number; of a class (accuracy - majority) / (1 - majority): the share of errors put right."""
    planet = Planet(seed)
    lonlat = table_points(planet)
    target = planet.fields(lonlat)[name]
    lon, lat = np.radians(lonlat).T
    features = np.stack([np.sin(lon), np.cos(lon), np.sin(lat), np.cos(lat)], axis=1)
    folds = KFold(5, shuffle=True, random_state=0)
    if name in ("biome", "land_cover"):
        accuracy = (cross_val_predict(RidgeClassifier(1.0), features, target, cv=folds) == target).mean()
        majority = np.bincount(target.astype(int)).max() / target.size
        share = (accuracy - majority) / (1 - majority)
    else:
        share = cross_val_score(RidgeCV(np.logspace(-3, 3, 7)), features, target, cv=folds, scoring="r2").mean()
    assert 0.1 <= share <= 0.6


def test_every_class_occurs_and_values_are_plausible(planet):
    fields = planet.fields(table_points(planet))
    assert set(fields["biome"].astype(int)) == set(range(len(BIOMES)))
    assert set(fields["land_cover"].astype(int)) == set(range(len(LAND_COVERS)))
    assert 0 <= fields["elevation"].min() < 300
    assert 3_000 < fields["elevation"].max() < 7_000
    assert -60 < fields["temperature"].min() < -15 < 25 < fields["temperature"].max() < 60


def test_planets_follow_from_their_seed(planet):
    np.testing.assert_array_equal(planet.grids, Planet(0).grids)
    assert np.corrcoef(planet.grids[0].ravel(), Planet(1).grids[0].ravel())[0, 1] < 0.6


def test_noise_has_unit_variance_and_is_continuous():
    rng = np.random.default_rng(0)
    x, y, z = rng.uniform(-500, 500, (3, 40_000))
    out = np.zeros(40_000, dtype=np.float32)
    moved = np.zeros(40_000, dtype=np.float32)
    still = np.zeros(3)
    kernels.add_noise(x, y, z, 1.0, still, np.float32(1), np.uint32(7), out)
    kernels.add_noise(x + 1e-3, y, z, 1.0, still, np.float32(1), np.uint32(7), moved)
    assert out.mean() == pytest.approx(0, abs=0.03)
    assert out.std() == pytest.approx(1, abs=0.05)
    assert np.abs(out - moved).max() < 0.02


def test_sea_agrees_with_real_shores(planet):
    land = {"Alps": (10.0, 46.5), "Congo": (22.0, 0.0), "Peary Land": (-35.0, 83.0), "Fiji": (178.0, -17.8)}
    sea = {"Atlantic": (-30.0, 30.0), "North Sea": (3.0, 56.0), "Caspian side of the Pacific": (-150.0, 10.0)}
    assert planet.is_land(np.array(list(land.values()))).all()
    assert not planet.is_land(np.array(list(sea.values()))).any()


@pytest.mark.parametrize("name", FIELD_NAMES)
def test_tables_equal_the_fields(planet, name):
    table = pd.read_csv(io.StringIO(table_csv(planet, name)))
    assert list(table.columns) == ["lon", "lat", name]
    assert len(table) == 1_200
    expected = planet.fields(table[["lon", "lat"]].to_numpy())[name]
    np.testing.assert_allclose(table[name], expected, rtol=0, atol=1e-3)


def test_an_unknown_table_is_refused(planet):
    with pytest.raises(ValueError, match="no table 'population'"):
        table_csv(planet, "population")
