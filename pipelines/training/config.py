"""Settings of the training stage; importing them does not import PyTorch."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from satclip_model.config import LocationEncoderConfig, RandomFeaturesConfig, SatCLIPConfig


class TrainingConfig(BaseModel):
    """How the two towers are trained.

    Attributes:
        seed: Seed of initial weights, split, batch order, dropout and jitter.
        num_degrees: Degrees of the spherical harmonics.
        harmonics_convention: ``orthonormal``, or ``analytic`` for the basis of the released weights.
        embedding_dim: Length of an embedding.
        location_hidden_dim: Width of the sine layers.
        location_hidden_layers: Number of sine layers.
        w0_initial: Frequency factor of the first sine layer.
        location_dropout: Dropout in the sine layers.
        image_hidden_dim: Width of the image head's hidden layer; 0 makes the head linear.
        image_dropout: Dropout in the image head's hidden layer.
        feature_dropout: Dropout on the image features.
        batch_size: Places per step, clipped to the number of training places.
        epochs: Passes over the training places.
        learning_rate: Highest learning rate.
        weight_decay: Decoupled weight decay of matrices.
        warmup_fraction: Share of all steps in which the learning rate rises.
        gradient_clip_norm: Highest norm of the gradient; 0 leaves it.
        coordinate_jitter_m: Standard deviation, in metres along each axis, of the displacement of training coordinates.
        validation_fraction: Share of places kept for validation.
        validation_interval_epochs: Epochs between two validations and two lines of the log.
        accelerator: ``gpu`` asks for one and fails without; ``auto`` takes one where it is.
        precision: Of the networks; harmonics are computed in float64.
        num_threads: Threads of PyTorch on the CPU; 0 leaves PyTorch's own choice.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(default=0, ge=0)
    num_degrees: int = Field(default=40, ge=1, le=200)
    harmonics_convention: Literal["orthonormal", "analytic"] = "orthonormal"
    embedding_dim: int = Field(default=256, ge=2, le=4096)
    location_hidden_dim: int = Field(default=512, ge=1, le=8192)
    location_hidden_layers: int = Field(default=2, ge=1, le=16)
    w0_initial: float = Field(default=30.0, gt=0, le=1000)
    location_dropout: float = Field(default=0.0, ge=0, lt=1)
    image_hidden_dim: int = Field(default=256, ge=0, le=8192)
    image_dropout: float = Field(default=0.0, ge=0, lt=1)
    feature_dropout: float = Field(default=0.0, ge=0, lt=1)
    batch_size: int = Field(default=512, ge=2)
    epochs: int = Field(default=100, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0, le=10)
    weight_decay: float = Field(default=0.01, ge=0, le=100)
    warmup_fraction: float = Field(default=0.05, ge=0, lt=1)
    gradient_clip_norm: float = Field(default=1.0, ge=0)
    coordinate_jitter_m: float = Field(default=0.0, ge=0, le=1_000_000)
    validation_fraction: float = Field(default=0.25, ge=0, lt=1)
    validation_interval_epochs: int = Field(default=5, ge=1)
    accelerator: Literal["auto", "gpu", "cpu"] = "auto"
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    num_threads: int = Field(default=0, ge=0, le=1024)

    def model_settings(self, image_backbone: RandomFeaturesConfig) -> SatCLIPConfig:
        """The configuration of the two towers over a given image backbone."""
        return SatCLIPConfig(
            location=LocationEncoderConfig(
                num_degrees=self.num_degrees,
                harmonics_convention=self.harmonics_convention,
                embedding_dim=self.embedding_dim,
                hidden_dim=self.location_hidden_dim,
                num_hidden_layers=self.location_hidden_layers,
                w0_initial=self.w0_initial,
                location_dropout=self.location_dropout,
            ),
            image_backbone=image_backbone,
            image_hidden_dim=self.image_hidden_dim,
            feature_dropout=self.feature_dropout,
            image_dropout=self.image_dropout,
        )
