import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from satclip_model.config import (
    ImageHeadConfig,
    LocationEncoderConfig,
    RandomFeaturesConfig,
    SatCLIPConfig,
    SirenConfig,
    SphericalHarmonicsConfig,
)
from satclip_model.satclip import build_satclip

CONFIG = SatCLIPConfig(
    location=LocationEncoderConfig(
        positional_encoding=SphericalHarmonicsConfig(num_degrees=4), network=SirenConfig(hidden_dim=8), embedding_dim=6
    ),
    image_backbone=RandomFeaturesConfig(num_filters=4, pool_factors=(1, 4)),
    image_head=ImageHeadConfig(hidden_dim=10),
)
LONLAT_DEG = torch.tensor([[10.0, 50.0], [-70.0, -20.0], [140.0, 35.0]], dtype=torch.float64)


def test_both_towers_give_unit_length_float32() -> None:
    model = build_satclip(CONFIG, seed=0).eval()
    images = model.encode_image(torch.rand(3, 12, 16, 32))
    locations = model.encode_location(LONLAT_DEG)
    for embeddings in (images, locations, build_satclip(CONFIG, seed=0).double().encode_location(LONLAT_DEG)):
        assert embeddings.shape == (3, 6)
        assert embeddings.dtype == torch.float32
        torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(3))


def test_logits_are_scaled_cosines_of_both_towers() -> None:
    model = build_satclip(CONFIG, seed=1).eval()
    features = torch.rand(3, CONFIG.image_backbone.feature_dim)
    per_image, per_location = model(features, LONLAT_DEG)
    assert torch.equal(per_image, per_location.T)
    images, locations = model.image_projection(features), model.location_encoder(LONLAT_DEG)
    cosine = torch.cosine_similarity(images[2], locations[0], dim=0)
    torch.testing.assert_close(per_image[2, 0], cosine / 0.07)


def test_temperature_starts_at_seven_hundredths_and_stays_above_its_bound() -> None:
    model = build_satclip(CONFIG, seed=0)
    assert float(torch.exp(-model.clamped_logit_scale.detach())) == pytest.approx(0.07)
    with torch.no_grad():
        model.logit_scale.fill_(20.0)
    assert float(torch.exp(-model.clamped_logit_scale.detach())) == pytest.approx(0.01)


def test_seed_decides_the_weights() -> None:
    first, again, other = (build_satclip(CONFIG, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    name = "image_projection.layers.1.weight"
    assert not torch.equal(first[name], other[name])


def test_configuration_survives_json_and_refuses_unknown_names() -> None:
    assert SatCLIPConfig.model_validate_json(CONFIG.model_dump_json()) == CONFIG
    with pytest.raises(ValidationError, match="le_type"):
        SatCLIPConfig.model_validate({"le_type": "sphericalharmonics"})


def test_published_size_of_the_location_encoder() -> None:
    config = SatCLIPConfig(location=LocationEncoderConfig(positional_encoding=SphericalHarmonicsConfig(num_degrees=10)))
    count = sum(each.numel() for each in build_satclip(config, seed=0).location_encoder.parameters())
    assert count == 445_696
    assert math.isclose(np.log(1 / 0.07), float(build_satclip(config, seed=0).logit_scale.detach()), rel_tol=1e-6)


def test_settings_do_not_import_pytorch() -> None:
    code = (
        "import sys, satclip_model.config, pipelines.training.config, pipelines.features; "
        "assert not {'torch', 'lightning', 'zarr'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
