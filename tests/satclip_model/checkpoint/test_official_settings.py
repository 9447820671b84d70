import logging

import pytest

from satclip_model.checkpoint.official_settings import (
    FORMER_ARGUMENTS,
    MODULE_ARGUMENTS,
    config_from_hyper_parameters,
    hyper_parameters_from_config,
    location_config_from_hyper_parameters,
    location_hyper_parameters,
)
from satclip_model.config import (
    CoordinatesConfig,
    FCNetConfig,
    ImageBackboneConfig,
    ImageHeadConfig,
    LinearConfig,
    LocationEncoderConfig,
    LocationNetworkConfig,
    MLPConfig,
    MoCoConfig,
    ModifiedResNetConfig,
    MultiScaleConfig,
    PositionalEncodingConfig,
    SatCLIPConfig,
    SirenConfig,
    SphericalHarmonicsConfig,
    VisionTransformerConfig,
)
from satclip_model.errors import CheckpointError
from tests.satclip_model.official_files import FORMER, HYPER_PARAMETERS

RELEASED = HYPER_PARAMETERS | FORMER | {"vision_layers": "moco_vit16", "embed_dim": 256, "capacity": 512}

ENCODINGS: list[PositionalEncodingConfig] = [
    SphericalHarmonicsConfig(num_degrees=7, convention="analytic"),
    SphericalHarmonicsConfig(num_degrees=7, convention="closed-form"),
    SphericalHarmonicsConfig(num_degrees=7, convention="discretized"),
    CoordinatesConfig(kind="direct"),
    CoordinatesConfig(kind="cartesian3d"),
    CoordinatesConfig(kind="wrap"),
    *(
        MultiScaleConfig(kind=kind, num_frequencies=5, min_radius=0.25, max_radius=77.0)
        for kind in ("theory", "grid", "spherec", "spherecplus", "spherem", "spheremplus")
    ),
]
NETWORKS: list[LocationNetworkConfig] = [
    SirenConfig(hidden_dim=33, num_hidden_layers=3, dropout=0.5),
    FCNetConfig(hidden_dim=33),
    MLPConfig(hidden_dim=33, num_hidden_layers=3, tie_hidden_layers=True),
    LinearConfig(),
]
IMAGE_TOWERS: list[ImageBackboneConfig] = [
    MoCoConfig(kind="moco_resnet18"),
    MoCoConfig(kind="moco_resnet50"),
    MoCoConfig(kind="moco_vit16"),
    VisionTransformerConfig(in_channels=4, image_size=64, patch_size=16, width=128, num_layers=3, output_dim=48),
    ModifiedResNetConfig(in_channels=12, image_size=96, width=16, num_blocks=(1, 2, 1, 3), output_dim=48),
]


def towers(
    encoding: PositionalEncodingConfig, network: LocationNetworkConfig, image: ImageBackboneConfig
) -> SatCLIPConfig:
    is_moco = isinstance(image, MoCoConfig)
    return SatCLIPConfig(
        location=LocationEncoderConfig(positional_encoding=encoding, network=network, embedding_dim=48),
        image_backbone=image,
        image_head=ImageHeadConfig(kind="projection" if is_moco else "identity", hidden_dim=0),
        min_temperature=0.0,
    )


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.kind)
def test_location_settings_survive_both_directions(
    encoding: PositionalEncodingConfig, network: LocationNetworkConfig
) -> None:
    config = towers(encoding, network, IMAGE_TOWERS[0])
    assert config_from_hyper_parameters(hyper_parameters_from_config(config)) == config
    assert location_config_from_hyper_parameters(location_hyper_parameters(config.location)) == config.location


@pytest.mark.parametrize("image", IMAGE_TOWERS, ids=lambda image: image.kind)
def test_image_settings_survive_both_directions(image: ImageBackboneConfig) -> None:
    config = towers(ENCODINGS[0], NETWORKS[0], image)
    written = hyper_parameters_from_config(config)
    assert config_from_hyper_parameters(written) == config
    assert written.keys() == {*MODULE_ARGUMENTS, *FORMER_ARGUMENTS}
    assert None not in written.values()


def test_released_settings_mean_the_published_model() -> None:
    config = config_from_hyper_parameters(RELEASED)
    assert config.location.network == SirenConfig(hidden_dim=512, num_hidden_layers=2, w0_initial=30.0, dropout=0.5)
    assert config.location.positional_encoding == SphericalHarmonicsConfig(num_degrees=6, convention="analytic")
    assert config.image_backbone == MoCoConfig(kind="moco_vit16", in_channels=13, trainable=False)
    assert config.image_head == ImageHeadConfig(kind="projection", hidden_dim=0)
    assert (config.embedding_dim, config.min_temperature) == (256, 0.0)
    written = hyper_parameters_from_config(config)
    inert = {"image_resolution", "vision_patch_size", "vision_width", *FORMER}
    assert {name: written[name] for name in RELEASED.keys() - inert} == {
        name: RELEASED[name] for name in RELEASED.keys() - inert
    }


def test_former_and_lightning_keys_are_told_and_ignored(caplog: pytest.LogCaptureFixture) -> None:
    plain = {name: value for name, value in RELEASED.items() if name not in FORMER}
    with caplog.at_level(logging.DEBUG, logger="satclip_model"):
        assert config_from_hyper_parameters(plain) == config_from_hyper_parameters(
            RELEASED | {"_instantiator": "lightning.pytorch.cli.instantiate_module"}
        )
    assert "eval_downstream, air_temp_data_path, election_data_path, _instantiator" in caplog.text


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"text_encoder": "x", "alpha": 1}, "hold alpha, text_encoder, which SatCLIP does not have"),
        ({"le_type": "healpix"}, "le_type 'healpix' is no positional encoding"),
        ({"pe_type": "kan"}, "pe_type 'kan', expected siren"),
        ({"harmonics_calculation": "orthonormal"}, "'orthonormal', expected analytic"),
        ({"harmonics_calculation": "series"}, "convention"),
        ({"vision_layers": "moco_swin"}, "moco_resnet18"),
        ({"vision_layers": 0}, "num_layers"),
        ({"vision_layers": (1, 2)}, "num_blocks"),
        ({"capacity": "wide"}, "hidden_dim"),
        ({"embed_dim": None}, "none of SatCLIP's"),
    ],
)
def test_settings_that_are_none_are_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        config_from_hyper_parameters(RELEASED | changed)


@pytest.mark.parametrize(
    "name", ["embed_dim", "le_type", "legendre_polys", "harmonics_calculation", "pe_type", "capacity"]
)
def test_a_missing_key_is_named(name: str) -> None:
    rest = {key: value for key, value in RELEASED.items() if key != name}
    with pytest.raises(CheckpointError, match=f"hyper_parameters lack '{name}'; found air_temp_data_path"):
        location_config_from_hyper_parameters(rest)


def test_keys_of_the_image_tower_may_be_missing_for_the_location_tower() -> None:
    rest = {key: value for key, value in RELEASED.items() if "vision" not in key and key != "image_resolution"}
    assert location_config_from_hyper_parameters(rest) == config_from_hyper_parameters(RELEASED).location
    with pytest.raises(CheckpointError, match="lack 'vision_layers'"):
        config_from_hyper_parameters(rest)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (towers(SphericalHarmonicsConfig(), NETWORKS[0], IMAGE_TOWERS[0]), "no orthonormal harmonics"),
        (towers(ENCODINGS[0], SirenConfig(w0_initial=20.0), IMAGE_TOWERS[0]), r"w0_initial 30\.0; this one has 20\.0"),
        (towers(ENCODINGS[0], MLPConfig(num_hidden_layers=2), IMAGE_TOWERS[0]), "share one matrix"),
        (SatCLIPConfig(location=LocationEncoderConfig(positional_encoding=ENCODINGS[0])), "location_only=True"),
    ],
)
def test_models_the_original_lacks_are_refused(config: SatCLIPConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hyper_parameters_from_config(config)


def test_a_single_hidden_layer_need_not_be_tied() -> None:
    config = LocationEncoderConfig(positional_encoding=ENCODINGS[0], network=MLPConfig(num_hidden_layers=1))
    assert location_hyper_parameters(config)["num_hidden_layers"] == 1
