import numpy as np
import pytest

from pipelines.evaluation.methods import EncoderFeatures, EncodingAlone, SinCosCoordinates, UntrainedEncoder
from satclip_model.config import LocationEncoderConfig, SirenConfig, SphericalHarmonicsConfig


@pytest.fixture
def lonlat_deg():
    z = np.random.default_rng(1).uniform(-1, 1, (300, 2))
    return np.column_stack([180 * z[:, 0], np.rad2deg(np.arcsin(z[:, 1]))])


def test_sines_and_cosines_of_known_places():
    features = SinCosCoordinates().features(np.array([[0.0, 0.0], [90.0, 30.0], [180.0, -90.0]]))
    np.testing.assert_allclose(features, [[0, 1, 0, 1], [1, 0, 0.5, np.sqrt(0.75)], [0, -1, -1, 0]], atol=1e-15)


def test_sines_and_cosines_do_not_know_the_antimeridian():
    features = SinCosCoordinates().features(np.array([[-180.0, 12.0], [180.0, 12.0]]))
    np.testing.assert_allclose(features[0], features[1], atol=1e-15)


def test_harmonics_have_a_column_per_degree_and_order_and_their_squares_add_up(lonlat_deg):
    features = EncodingAlone(SphericalHarmonicsConfig(num_degrees=6)).features(lonlat_deg)
    assert features.shape == (300, 36)
    assert features.dtype == np.float64
    np.testing.assert_allclose((features**2).sum(axis=1), 36 / (4 * np.pi))


def test_an_untrained_encoder_is_decided_by_its_seed(lonlat_deg):

    config = LocationEncoderConfig(
        positional_encoding=SphericalHarmonicsConfig(num_degrees=4), network=SirenConfig(hidden_dim=8), embedding_dim=5
    )
    features = UntrainedEncoder(config, seed=3).features(lonlat_deg)
    assert features.shape == (300, 5)
    np.testing.assert_array_equal(features, UntrainedEncoder(config, seed=3).features(lonlat_deg))
    assert np.abs(features - UntrainedEncoder(config, seed=4).features(lonlat_deg)).max() > 1e-3


def test_an_encoder_is_called_batch_by_batch(lonlat_deg, monkeypatch):
    monkeypatch.setattr("pipelines.evaluation.methods.base.BATCH_SIZE", 128)
    sizes = []
    method = EncoderFeatures("satclip", lambda batch: sizes.append(len(batch)) or batch * 2, target="ab12")
    np.testing.assert_array_equal(method.features(lonlat_deg), lonlat_deg * 2)
    assert sizes == [128, 128, 44]


def test_methods_name_themselves():
    assert (SinCosCoordinates().name, SinCosCoordinates().target) == (
        "sincos",
        "pipelines.evaluation.methods.baselines.SinCosCoordinates",
    )
    assert EncodingAlone(SphericalHarmonicsConfig(num_degrees=3)).name == "harmonics"
