import pytest
import torch
from torch import Tensor

from satclip_model.checkpoint.official_names import (
    from_official,
    location_from_official,
    location_to_official,
    to_official,
)
from satclip_model.config import (
    ImageBackboneConfig,
    ImageHeadConfig,
    LocationEncoderConfig,
    MoCoConfig,
    ModifiedResNetConfig,
    RandomFeaturesConfig,
    SatCLIPConfig,
    SirenConfig,
    SphericalHarmonicsConfig,
    VisionTransformerConfig,
)
from satclip_model.errors import CheckpointError
from satclip_model.image_encoder import ImageProjection
from satclip_model.satclip import build_satclip

LOCATION = LocationEncoderConfig(
    positional_encoding=SphericalHarmonicsConfig(num_degrees=3), network=SirenConfig(hidden_dim=8), embedding_dim=24
)
LINEAR = ImageHeadConfig(hidden_dim=0)
IDENTITY = ImageHeadConfig(kind="identity")
BACKBONES = [
    pytest.param(MoCoConfig(kind="moco_resnet18"), LINEAR, id="moco_resnet18"),
    pytest.param(MoCoConfig(kind="moco_resnet50"), LINEAR, id="moco_resnet50"),
    pytest.param(MoCoConfig(kind="moco_vit16"), LINEAR, id="moco_vit16"),
    pytest.param(VisionTransformerConfig(width=64, num_layers=1, output_dim=24), IDENTITY, id="clip_vit"),
    pytest.param(ModifiedResNetConfig(width=4, num_blocks=(1, 1, 1, 1), output_dim=24), IDENTITY, id="clip_resnet"),
]


def settings(backbone: ImageBackboneConfig, head: ImageHeadConfig, min_temperature: float = 0.0) -> SatCLIPConfig:
    return SatCLIPConfig(location=LOCATION, image_backbone=backbone, image_head=head, min_temperature=min_temperature)


@pytest.mark.parametrize(("backbone", "head"), BACKBONES)
def test_weights_survive_the_way_to_the_original_and_back(backbone: ImageBackboneConfig, head: ImageHeadConfig) -> None:
    config = settings(backbone, head)
    state = build_satclip(config, seed=1).state_dict()
    official = to_official(config, state)
    assert all(
        name.startswith(("model.visual.", "model.nnet.", "model.location.nnet."))
        for name in official
        if name != "model.logit_scale"
    )
    back = from_official(config, official)
    assert back.keys() == state.keys()
    for name, tensor in state.items():
        assert back[name].dtype == (torch.float64 if name.startswith("location_encoder.") else tensor.dtype)
        assert torch.equal(back[name].to(tensor.dtype), tensor), name


def test_location_network_is_written_once_under_two_names() -> None:
    encoder = build_satclip(settings(MoCoConfig(kind="moco_resnet18"), LINEAR), seed=0).location_encoder
    official = location_to_official(encoder.state_dict())
    assert official["model.nnet.layers.0.weight"].shape == (8, 9)
    for name in ("layers.0.weight", "layers.1.bias", "last_layer.weight"):
        assert official[f"model.nnet.{name}"] is official[f"model.location.nnet.{name}"]
        assert official[f"model.nnet.{name}"].dtype == torch.float64


@pytest.mark.parametrize("family", ["model.nnet.", "model.location.nnet."])
def test_one_of_the_two_names_is_enough(family: str) -> None:
    encoder = build_satclip(settings(MoCoConfig(kind="moco_resnet18"), LINEAR), seed=0).location_encoder
    official = location_to_official(encoder.state_dict())
    ours = location_from_official({name: tensor for name, tensor in official.items() if name.startswith(family)})
    assert ours.keys() == encoder.state_dict().keys()


def test_two_location_networks_that_differ_are_refused() -> None:
    network = {"model.nnet.last_layer.bias": torch.ones(3), "model.location.nnet.last_layer.bias": torch.zeros(3)}
    with pytest.raises(CheckpointError, match=r"model\.location\.nnet\.last_layer\.bias differs from its other copy"):
        location_from_official(network)


def test_names_that_are_none_of_the_originals_are_refused() -> None:
    with pytest.raises(CheckpointError, match=r"weight nnet\.last_layer\.bias is none of the original's"):
        from_official(settings(MoCoConfig(kind="moco_resnet18"), LINEAR), {"nnet.last_layer.bias": torch.ones(3)})


def test_standardisation_goes_into_the_linear_layer() -> None:
    config = settings(MoCoConfig(kind="moco_resnet18"), LINEAR)
    model = build_satclip(config, seed=0).double()
    features = torch.rand(50, 512, dtype=torch.float64) * torch.linspace(0.1, 40, 512) + torch.linspace(-3, 90, 512)
    assert isinstance(model.image_projection, ImageProjection)
    model.image_projection.fit_standardisation(features)
    official = to_official(config, model.state_dict())
    folded = features @ official["model.visual.fc.weight"].T + official["model.visual.fc.bias"]
    torch.testing.assert_close(folded, model.eval().image_projection(features), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("stored", "written"), [(9.0, 4.6051702), (2.0, 2.0)])
def test_bound_on_the_temperature_goes_into_the_scale(stored: float, written: float) -> None:
    config = settings(MoCoConfig(kind="moco_resnet18"), LINEAR, min_temperature=0.01)
    state: dict[str, Tensor] = build_satclip(config, seed=0).state_dict() | {"logit_scale": torch.tensor(stored)}
    assert float(to_official(config, state)["model.logit_scale"]) == pytest.approx(written)


@pytest.mark.parametrize(
    ("backbone", "head", "message"),
    [
        (RandomFeaturesConfig(), LINEAR, "no image tower 'random_convolutional'"),
        (MoCoConfig(kind="moco_resnet18", in_channels=12), LINEAR, "has 13 channels; this model has 12"),
        (MoCoConfig(kind="moco_vit16"), ImageHeadConfig(hidden_dim=7), "ends in one linear layer.*hidden_dim 7"),
        (VisionTransformerConfig(), ImageHeadConfig(hidden_dim=0), "no layer after clip_vit"),
    ],
)
def test_towers_that_the_original_lacks_are_refused(
    backbone: ImageBackboneConfig, head: ImageHeadConfig, message: str
) -> None:
    config = settings(backbone, head)
    with pytest.raises(ValueError, match=message):
        to_official(config, {})
    with pytest.raises(ValueError, match=message):
        from_official(config, {})
