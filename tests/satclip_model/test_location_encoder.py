import torch

from satclip_model.config import LocationEncoderConfig, SirenConfig, SphericalHarmonicsConfig
from satclip_model.location_encoder import build_location_encoder, encode_in_blocks

CONFIG = LocationEncoderConfig(
    positional_encoding=SphericalHarmonicsConfig(num_degrees=6),
    network=SirenConfig(hidden_dim=16, dropout=0.3),
    embedding_dim=5,
)
LONLAT_DEG = torch.tensor([[12.5, -33.0], [180.0, 71.0], [-90.0, 90.0], [3.0, 4.0]], dtype=torch.float64)


def test_same_seed_gives_the_same_twin_and_leaves_the_global_state() -> None:
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first, again, other = (build_location_encoder(CONFIG, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first(LONLAT_DEG), again(LONLAT_DEG))
    assert not torch.allclose(first(LONLAT_DEG), other(LONLAT_DEG))
    assert not first.training


def test_embedding_has_the_type_of_the_weights() -> None:
    encoder = build_location_encoder(CONFIG, seed=0)
    assert encoder(LONLAT_DEG).dtype == torch.float32
    single = encoder(LONLAT_DEG).detach()
    double = encoder.double()(LONLAT_DEG).detach()
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-4)


def test_antimeridian_and_poles_have_one_embedding() -> None:
    encoder = build_location_encoder(CONFIG, seed=0)
    places = torch.tensor([[180.0, 10.0], [-180.0, 10.0], [0.0, 90.0], [120.0, 90.0]], dtype=torch.float64)
    embeddings = encoder(places)
    assert torch.equal(embeddings[0], embeddings[1])
    assert torch.equal(embeddings[2], embeddings[3])
    assert not torch.allclose(embeddings[0], embeddings[2])


def test_blocks_do_not_change_the_result() -> None:
    encoder = build_location_encoder(CONFIG, seed=0)
    whole = encoder(LONLAT_DEG).detach()
    torch.testing.assert_close(encode_in_blocks(encoder, LONLAT_DEG, block_points=3), whole, rtol=0, atol=1e-6)
