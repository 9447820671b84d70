import math

import pytest
import torch

from satclip_model.checkpoint.analytic_harmonics import orthonormal_over_analytic, to_analytic_harmonics
from satclip_model.config import (
    CoordinatesConfig,
    FCNetConfig,
    LinearConfig,
    LocationEncoderConfig,
    LocationNetworkConfig,
    MLPConfig,
    SirenConfig,
    SphericalHarmonicsConfig,
)
from satclip_model.location_encoder import LocationEncoder, build_location_encoder
from satclip_model.positional_encoding.spherical_harmonics import real_spherical_harmonics

LONLAT_DEG = torch.tensor(
    [[10.0, 50.0], [-70.0, -20.5], [179.9, 89.999], [-180.0, -90.0], [0.0, 0.0], [123.4, -66.6]], dtype=torch.float64
)


@pytest.mark.parametrize("num_degrees", [1, 2, 9, 40])
def test_factors_turn_one_basis_into_the_other(num_degrees: int) -> None:
    analytic = real_spherical_harmonics(LONLAT_DEG, num_degrees, "analytic")
    orthonormal = real_spherical_harmonics(LONLAT_DEG, num_degrees, "orthonormal")
    torch.testing.assert_close(
        analytic * orthonormal_over_analytic(num_degrees), orthonormal, rtol=0, atol=1e-12 * math.sqrt(num_degrees)
    )


@pytest.mark.parametrize(
    "network",
    [SirenConfig(hidden_dim=20), FCNetConfig(hidden_dim=20), MLPConfig(hidden_dim=20), LinearConfig()],
    ids=lambda network: network.kind,
)
def test_embeddings_stay_equal(network: LocationNetworkConfig) -> None:
    config = LocationEncoderConfig(
        positional_encoding=SphericalHarmonicsConfig(num_degrees=12), network=network, embedding_dim=8
    )
    encoder = build_location_encoder(config, seed=2).double()
    analytic, state = to_analytic_harmonics(config, encoder.state_dict())
    assert analytic.positional_encoding == SphericalHarmonicsConfig(num_degrees=12, convention="analytic")
    again = LocationEncoder(analytic).double().eval()
    again.load_state_dict(state)
    torch.testing.assert_close(again(LONLAT_DEG), encoder(LONLAT_DEG), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "encoding", [SphericalHarmonicsConfig(num_degrees=3, convention="analytic"), CoordinatesConfig(kind="wrap")]
)
def test_other_encodings_are_left_alone(encoding: SphericalHarmonicsConfig | CoordinatesConfig) -> None:
    config = LocationEncoderConfig(positional_encoding=encoding, network=LinearConfig(), embedding_dim=4)
    state = build_location_encoder(config, seed=0).state_dict()
    same, weights = to_analytic_harmonics(config, state)
    assert same == config
    assert all(torch.equal(weights[name], state[name]) for name in state)
