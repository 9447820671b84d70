"""Settings of the original's checkpoints, and the same settings under our names.

The original keeps the arguments of its Lightning module: ``le_type`` names the positional encoding, ``pe_type`` the
network behind it, ``capacity`` its width. Arguments that a network does not use are kept but mean nothing.

Source: microsoft/satclip, main.py (SatCLIPLightningModule), model.py (SatCLIP) and location_encoder.py.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, get_args

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
    RandomFeaturesConfig,
    SatCLIPConfig,
    SirenConfig,
    SphericalHarmonicsConfig,
    VisionTransformerConfig,
    told,
)
from satclip_model.errors import CheckpointError

logger = logging.getLogger(__name__)

SIREN_W0: Final = 30.0
"""Frequency factor of the original's first sine layer."""
SIREN_DROPOUT: Final = 0.5
"""Dropout of the original's sine layers in training."""
MOCO_CHANNELS: Final = 13

MODULE_ARGUMENTS: Final = (
    "embed_dim", "image_resolution", "vision_layers", "vision_width", "vision_patch_size", "in_channels", "le_type",
    "pe_type", "frequency_num", "max_radius", "min_radius", "legendre_polys", "harmonics_calculation",
    "sh_embedding_dims", "learning_rate", "weight_decay", "num_hidden_layers", "capacity",
)  # fmt: skip
"""Arguments of the original's Lightning module."""
FORMER_ARGUMENTS: Final = ("eval_downstream", "air_temp_data_path", "election_data_path")
"""Arguments it once had: the released files hold them, and its loader removes them."""
_ADDED_BY_LIGHTNING: Final = ("_instantiator", "_class_path")

_UNUSED: Final[dict[str, Any]] = {
    "image_resolution": 224, "vision_layers": 0, "vision_width": 128, "vision_patch_size": 32, "in_channels": 13,
    "frequency_num": 32, "max_radius": 0.001, "min_radius": 1e-05, "legendre_polys": 10,
    "harmonics_calculation": "analytic", "sh_embedding_dims": 40, "learning_rate": 1e-4, "weight_decay": 0.01,
    "num_hidden_layers": 2, "capacity": 512, "eval_downstream": False, "air_temp_data_path": "",
    "election_data_path": "",
}  # fmt: skip
"""Values, as in the released files, of arguments that a model does not use; no layers where there is no image tower."""


def config_from_hyper_parameters(hyper_parameters: Mapping[str, Any]) -> SatCLIPConfig:
    """Settings of the two towers.

    Raises:
        CheckpointError: A key that is needed is missing, a key is unknown, or a value is none of the original's.
    """
    location = location_config_from_hyper_parameters(hyper_parameters)
    backbone = _guarded(_image_backbone, hyper_parameters)
    is_moco = isinstance(backbone, MoCoConfig)
    return SatCLIPConfig(
        location=location,
        image_backbone=backbone,
        image_head=ImageHeadConfig(kind="projection" if is_moco else "identity", hidden_dim=0),
        min_temperature=0.0,
    )


def location_config_from_hyper_parameters(hyper_parameters: Mapping[str, Any]) -> LocationEncoderConfig:
    """Settings of the location tower; keys of the image tower may be missing.

    Raises:
        CheckpointError: As for `config_from_hyper_parameters`.
    """
    _require_known(hyper_parameters)
    return _guarded(_location_config, hyper_parameters)


def hyper_parameters_from_config(config: SatCLIPConfig) -> dict[str, Any]:
    """The original's arguments of a model, former ones included; what the model does not use as in the released files.

    Raises:
        ValueError: The original has no such model; the message says what it lacks.
    """
    return location_hyper_parameters(config.location) | _vision_arguments(config.image_backbone)


def location_hyper_parameters(config: LocationEncoderConfig) -> dict[str, Any]:
    """As `hyper_parameters_from_config`, for a location tower alone.

    Raises:
        ValueError: The original has no such encoder.
    """
    arguments = {"embed_dim": config.embedding_dim}
    arguments |= _encoding_arguments(config.positional_encoding) | _network_arguments(config.network)
    return {name: arguments.get(name, _UNUSED.get(name)) for name in (*MODULE_ARGUMENTS, *FORMER_ARGUMENTS)}


def _location_config(given: Mapping[str, Any]) -> LocationEncoderConfig:
    return LocationEncoderConfig(
        positional_encoding=positional_encoding_config(given),
        network=network_config(given),
        embedding_dim=given["embed_dim"],
    )


def _require_known(hyper_parameters: Mapping[str, Any]) -> None:
    ignored = [name for name in (*FORMER_ARGUMENTS, *_ADDED_BY_LIGHTNING) if name in hyper_parameters]
    if ignored:
        logger.debug("hyper_parameters without effect on a model: %s", ", ".join(ignored))
    unknown = sorted(str(name) for name in hyper_parameters.keys() - {*MODULE_ARGUMENTS, *ignored})
    if unknown:
        raise CheckpointError(
            f"hyper_parameters hold {', '.join(unknown)}, which SatCLIP does not have; the checkpoint is of another "
            "model, or of a changed SatCLIP"
        )


def _guarded[T](read: Callable[[Mapping[str, Any]], T], given: Mapping[str, Any]) -> T:
    try:
        return read(given)
    except KeyError as error:
        raise CheckpointError(
            f"hyper_parameters lack {error}; found {', '.join(sorted(map(str, given))) or 'none'}; expected the "
            "arguments of SatCLIP's Lightning module"
        ) from error
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"hyper_parameters are none of SatCLIP's: {told(error)}") from error


def positional_encoding_config(given: Mapping[str, Any]) -> PositionalEncodingConfig:
    """Settings of the encoding that ``le_type`` names.

    Raises:
        KeyError: An argument that the encoding needs is missing.
        ValueError: A value is none of the original's.
    """
    kind = given["le_type"]
    if kind == "sphericalharmonics":
        convention = given["harmonics_calculation"]
        if convention == "orthonormal":
            raise ValueError("harmonics_calculation 'orthonormal', expected analytic, closed-form or discretized")
        return SphericalHarmonicsConfig(num_degrees=given["legendre_polys"], convention=convention)
    if kind in {"direct", "cartesian3d", "wrap"}:
        return CoordinatesConfig(kind=kind)
    if kind not in get_args(MultiScaleConfig.model_fields["kind"].annotation):
        raise ValueError(f"le_type {kind!r} is no positional encoding of the original")
    return MultiScaleConfig(
        kind=kind,
        num_frequencies=given["frequency_num"],
        min_radius=given["min_radius"],
        max_radius=given["max_radius"],
    )


def network_config(given: Mapping[str, Any]) -> LocationNetworkConfig:
    """Settings of the network that ``pe_type`` names.

    Raises:
        KeyError: An argument that the network needs is missing.
        ValueError: A value is none of the original's.
    """
    kind = given["pe_type"]
    if kind == "siren":
        return SirenConfig(
            hidden_dim=given["capacity"],
            num_hidden_layers=given["num_hidden_layers"],
            w0_initial=SIREN_W0,
            dropout=SIREN_DROPOUT,
        )
    if kind == "fcnet":
        return FCNetConfig(hidden_dim=given["capacity"])
    if kind == "mlp":
        return MLPConfig(
            hidden_dim=given["capacity"], num_hidden_layers=given["num_hidden_layers"], tie_hidden_layers=True
        )
    if kind == "linear":
        return LinearConfig()
    raise ValueError(f"pe_type {kind!r}, expected siren, fcnet, mlp or linear")


def _image_backbone(given: Mapping[str, Any]) -> ImageBackboneConfig:
    layers = given["vision_layers"]
    if isinstance(layers, str):
        return MoCoConfig.model_validate({"kind": layers, "in_channels": MOCO_CHANNELS})
    shared = {"in_channels": given["in_channels"], "image_size": given["image_resolution"]}
    shared |= {"width": given["vision_width"], "output_dim": given["embed_dim"]}
    if isinstance(layers, tuple | list):
        return ModifiedResNetConfig.model_validate({**shared, "num_blocks": tuple(layers)})
    return VisionTransformerConfig.model_validate(
        {**shared, "num_layers": layers, "patch_size": given["vision_patch_size"]}
    )


def _encoding_arguments(config: PositionalEncodingConfig) -> dict[str, Any]:
    if isinstance(config, SphericalHarmonicsConfig):
        if config.convention == "orthonormal":
            raise ValueError(
                "the original has no orthonormal harmonics; see to_analytic_harmonics for equal embeddings"
            )
        return {
            "le_type": "sphericalharmonics",
            "legendre_polys": config.num_degrees,
            "harmonics_calculation": config.convention,
        }
    if isinstance(config, CoordinatesConfig):
        return {"le_type": config.kind}
    return {
        "le_type": config.kind,
        "frequency_num": config.num_frequencies,
        "min_radius": config.min_radius,
        "max_radius": config.max_radius,
    }


def _network_arguments(config: LocationNetworkConfig) -> dict[str, Any]:
    if isinstance(config, LinearConfig):
        return {"pe_type": config.kind}
    if isinstance(config, FCNetConfig):
        return {"pe_type": config.kind, "capacity": config.hidden_dim}
    if isinstance(config, SirenConfig) and config.w0_initial != SIREN_W0:
        raise ValueError(f"the original's SIREN has w0_initial {SIREN_W0}; this one has {config.w0_initial}")
    if isinstance(config, MLPConfig) and config.num_hidden_layers > 1 and not config.tie_hidden_layers:
        raise ValueError(
            f"the hidden layers of the original's mlp share one matrix; this one has {config.num_hidden_layers} "
            "matrices; train one with tie_hidden_layers"
        )
    return {"pe_type": config.kind, "capacity": config.hidden_dim, "num_hidden_layers": config.num_hidden_layers}


def _vision_arguments(config: ImageBackboneConfig) -> dict[str, Any]:
    if isinstance(config, MoCoConfig):
        return {"vision_layers": config.kind}
    if isinstance(config, RandomFeaturesConfig):
        raise ValueError(
            f"the original has no image tower {config.kind!r}; write the location tower alone (location_only=True)"
        )
    shared = {"in_channels": config.in_channels, "image_resolution": config.image_size, "vision_width": config.width}
    if isinstance(config, ModifiedResNetConfig):
        return {**shared, "vision_layers": tuple(config.num_blocks)}
    return {**shared, "vision_layers": config.num_layers, "vision_patch_size": config.patch_size}
