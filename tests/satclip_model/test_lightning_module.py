from itertools import pairwise

import pytest
import torch

from satclip_model.config import (
    ImageHeadConfig,
    LocationEncoderConfig,
    RandomFeaturesConfig,
    SirenConfig,
    SphericalHarmonicsConfig,
)
from satclip_model.errors import DivergenceError
from satclip_model.lightning_module import (
    OptimizationSettings,
    SatCLIPLightningModule,
    learning_rate_factor,
    parameter_groups,
)
from satclip_model.satclip import SatCLIP, SatCLIPConfig, build_satclip

SETTINGS = OptimizationSettings(learning_rate=0.01, weight_decay=0.5, warmup_steps=4, total_steps=20)


@pytest.fixture
def model() -> SatCLIP:
    config = SatCLIPConfig(
        location=LocationEncoderConfig(
            positional_encoding=SphericalHarmonicsConfig(num_degrees=4),
            network=SirenConfig(hidden_dim=8),
            embedding_dim=6,
        ),
        image_backbone=RandomFeaturesConfig(num_filters=4, pool_factors=(1, 4)),
        image_head=ImageHeadConfig(hidden_dim=10),
    )
    return build_satclip(config, seed=0)


def test_weight_decay_spares_biases_norms_and_the_temperature(model: SatCLIP) -> None:
    model.image_projection.layers.append(torch.nn.LayerNorm(6))
    decayed, spared = parameter_groups(model, weight_decay=0.5)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.5, 0.0)
    assert all(names[id(each)].endswith("weight") for each in decayed["params"])
    spared_names = {names[id(each)] for each in spared["params"]}
    assert {"logit_scale", "image_projection.layers.5.weight", "location_encoder.location_network.last_layer.bias"} <= (
        spared_names
    )
    assert len(decayed["params"]) + len(spared["params"]) == len(names)


def test_learning_rate_rises_linearly_and_falls_to_zero() -> None:
    factors = [learning_rate_factor(step, warmup_steps=4, total_steps=20) for step in range(21)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert all(later < earlier for earlier, later in pairwise(factors[4:]))
    assert factors[12] == pytest.approx(0.5)
    assert factors[20] == pytest.approx(0.0)
    assert learning_rate_factor(0, warmup_steps=0, total_steps=1) == 1.0


def test_training_coordinates_are_augmented_and_validation_ones_are_not(model: SatCLIP) -> None:
    seen = []

    def note(lonlat_deg: torch.Tensor) -> torch.Tensor:
        seen.append(lonlat_deg.clone())
        return lonlat_deg

    module = SatCLIPLightningModule(model, SETTINGS, note)
    module.log = lambda *args, **kwargs: None
    batch = (torch.rand(3, model.config.image_backbone.feature_dim), torch.rand(3, 2, dtype=torch.float64))
    module.training_step(batch, 0)
    module.validation_step(batch, 0)
    assert len(seen) == 1


def test_loss_that_is_not_finite_stops_the_training(model: SatCLIP) -> None:
    module = SatCLIPLightningModule(model, SETTINGS)
    features = torch.full((3, model.config.image_backbone.feature_dim), float("nan"))
    with pytest.raises(DivergenceError, match="loss is nan"):
        module.training_step((features, torch.rand(3, 2, dtype=torch.float64)), 7)
