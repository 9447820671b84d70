"""The towers that a training begins with, over an image backbone."""

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from pipelines.errors import ArtefactError
from pipelines.features.backbones import open_backbone
from pipelines.features.config import ImageBackboneSettings
from pipelines.features.view_bank import ImageFeatures
from pipelines.training.config import TrainingConfig
from pipelines.training.coordinate_jitter import jitter_lonlat
from pipelines.training.datamodule import PlaceTensors
from satclip_model.config import ImageBackboneConfig
from satclip_model.image_encoder import ImageBackbone, ImageProjection, build_image_backbone
from satclip_model.lightning_module import OptimizationSettings, SatCLIPLightningModule
from satclip_model.satclip import SatCLIP, build_satclip


def build_towers(
    image_features: ImageFeatures, config: TrainingConfig, training: PlaceTensors, backbone: nn.Module | None
) -> SatCLIP:
    """Untrained towers with the frozen weights of the backbone, and a head that standardises by training places.

    Args:
        image_features: The features; their record names the backbone.
        config: All settings.
        training: Places whose plain views give mean and deviation of the features.
        backbone: The backbone that made the features; None opens it by its settings.

    Raises:
        ArtefactError: The features were made by another backbone.
        CheckpointError: The weights of the backbone are no longer there.
    """
    record = image_features.record
    encoder: ImageBackboneConfig = TypeAdapter(ImageBackboneConfig).validate_python(record["encoder"])
    if backbone is None:
        settings = record.get("backbone")
        backbone = open_backbone(ImageBackboneSettings(**settings)) if settings else build_image_backbone(encoder)
    if backbone.fingerprint != record["backbone_fingerprint"]:
        raise ArtefactError(
            f"image features are of encoder {record['backbone_fingerprint']}, but the one at hand is "
            f"{backbone.fingerprint}; materialize image_features again, or give the encoder that made them"
        )
    towers = _assemble(backbone, encoder, config)
    towers.image_backbone.requires_grad_(False)
    if isinstance(towers.image_projection, ImageProjection):
        towers.image_projection.fit_standardisation(training.plain)
    return towers


def build_towers_over(backbone: ImageBackbone, config: TrainingConfig) -> SatCLIP:
    """Untrained towers with the weights of a backbone, frozen or not, and a head that does not standardise yet."""
    assert isinstance(backbone, nn.Module)
    return _assemble(backbone, backbone.config, config)


def _assemble(backbone: nn.Module, encoder: ImageBackboneConfig, config: TrainingConfig) -> SatCLIP:
    towers = build_satclip(config.model_settings(encoder), config.seed)
    towers.image_backbone.load_state_dict(backbone.state_dict())
    return towers


def build_module(
    towers: SatCLIP, config: TrainingConfig, num_steps: int, jitter: torch.Generator
) -> SatCLIPLightningModule:
    """The towers with their optimiser, schedule and jitter.

    Args:
        towers: Changed in place by training.
        config: All settings.
        num_steps: Steps of the whole training.
        jitter: Generator of the displacements of coordinates.
    """
    settings = OptimizationSettings(
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        warmup_steps=round(config.warmup_fraction * num_steps),
        total_steps=num_steps,
    )

    def augment(lonlat_deg: Tensor) -> Tensor:
        return jitter_lonlat(lonlat_deg, config.coordinate_jitter_m, jitter)

    jittered = augment if config.coordinate_jitter_m > 0 else None
    return SatCLIPLightningModule(towers, settings, jittered, logs_steps=False)
