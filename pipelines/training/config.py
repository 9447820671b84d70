"""Settings of the training stage; importing them does not import PyTorch."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipelines.features.config import ImageBackboneSettings, ViewsConfig
from satclip_model.config import (
    ImageBackboneConfig,
    ImageHeadConfig,
    LocationEncoderConfig,
    SatCLIPConfig,
    SirenConfig,
    SphericalHarmonicsConfig,
)


class TrainingConfig(BaseModel):
    """How the two towers are trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(default=0, ge=0, description="Seed of initial weights, split, batch order, dropout and jitter.")
    num_degrees: int = Field(default=40, ge=1, le=200, description="Degrees of the spherical harmonics.")
    harmonics_convention: Literal["orthonormal", "analytic"] = Field(
        default="orthonormal", description="orthonormal, or analytic for the basis of the released weights."
    )
    embedding_dim: int = Field(default=256, ge=2, le=4096, description="Length of an embedding.")
    location_hidden_dim: int = Field(default=512, ge=1, le=8192, description="Width of the sine layers.")
    location_hidden_layers: int = Field(default=2, ge=1, le=16, description="Number of sine layers.")
    w0_initial: float = Field(default=30.0, gt=0, le=1000, description="Frequency factor of the first sine layer.")
    location_dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout in the sine layers.")
    image_hidden_dim: int = Field(
        default=256, ge=0, le=8192, description="Width of the image head's hidden layer; 0 makes the head linear."
    )
    image_dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout in the image head's hidden layer.")
    feature_dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout on the image features.")
    batch_size: int = Field(default=512, ge=2, description="Places per step, clipped to the number of training places.")
    epochs: int = Field(default=100, ge=1, description="Passes over the training places.")
    learning_rate: float = Field(default=1e-3, gt=0, le=10, description="Highest learning rate.")
    weight_decay: float = Field(default=0.01, ge=0, le=100, description="Decoupled weight decay of matrices.")
    warmup_fraction: float = Field(
        default=0.05, ge=0, lt=1, description="Share of all steps in which the learning rate rises."
    )
    min_temperature: float = Field(
        default=0.01, ge=0, lt=1, description="Lower bound of the temperature; 0 leaves it unbounded."
    )
    gradient_clip_norm: float = Field(default=1.0, ge=0, description="Highest norm of the gradient; 0 leaves it.")
    coordinate_jitter_m: float = Field(
        default=0.0,
        ge=0,
        le=1_000_000,
        description="Standard deviation, in metres along each axis, of the displacement of training coordinates.",
    )
    validation_fraction: float = Field(default=0.25, ge=0, lt=1, description="Share of places kept for validation.")
    validation_blocks_deg: float = Field(
        default=0.0,
        ge=0,
        le=180,
        description="Side, in degrees, of the blocks that validation takes whole; 0 takes single places.",
    )
    validation_interval_epochs: int = Field(
        default=5, ge=1, description="Epochs between two validations and two lines of the log."
    )
    early_stopping_patience: int = Field(
        default=0, ge=0, description="Validations in a row without a new best that end the training; 0 never does."
    )
    early_stopping_metric: Literal["val_loss", "val_recall_at_1"] = Field(
        default="val_loss", description="What early stopping watches, and chooses the weights by."
    )
    checkpoint_interval_steps: int = Field(
        default=0, ge=0, description="Steps between two checkpoints to go on from; 0 writes one only on cancellation."
    )
    tensorboard: bool = Field(default=False, description="Whether TensorBoard's files are written beside the CSV log.")
    accelerator: Literal["auto", "gpu", "cpu"] = Field(
        default="auto", description="gpu asks for one and fails without; auto takes one where it is."
    )
    precision: Literal["32-true", "bf16-mixed"] = Field(default="32-true", description="Of the networks.")
    encoding_dtype: Literal["float64", "float32"] = Field(
        default="float64", description="Type that training computes harmonics in; the trained model uses float64."
    )
    num_threads: int = Field(
        default=0, ge=0, le=1024, description="Threads of PyTorch on the CPU; 0 leaves PyTorch's own choice."
    )

    @model_validator(mode="after")
    def _early_stopping_has_validation(self) -> Self:
        if self.early_stopping_patience and not self.validation_fraction:
            raise ValueError(
                f"early_stopping_patience is {self.early_stopping_patience}, but validation_fraction is 0; keep places "
                "for validation or set the patience to 0"
            )
        return self

    def model_settings(self, image_backbone: ImageBackboneConfig) -> SatCLIPConfig:
        """The configuration of the two towers over a given image backbone."""
        return SatCLIPConfig(
            location=LocationEncoderConfig(
                positional_encoding=SphericalHarmonicsConfig(
                    num_degrees=self.num_degrees, convention=self.harmonics_convention
                ),
                network=SirenConfig(
                    hidden_dim=self.location_hidden_dim,
                    num_hidden_layers=self.location_hidden_layers,
                    w0_initial=self.w0_initial,
                    dropout=self.location_dropout,
                ),
                embedding_dim=self.embedding_dim,
            ),
            image_backbone=image_backbone,
            image_head=ImageHeadConfig(
                hidden_dim=self.image_hidden_dim, feature_dropout=self.feature_dropout, dropout=self.image_dropout
            ),
            min_temperature=self.min_temperature,
        )


class PixelLoaderConfig(BaseModel):
    """How patches come from the store when training reads pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_workers: int = Field(
        default=2, ge=0, le=256, description="Processes that read and decode; 0 decodes in the training process."
    )
    part_size: int = Field(
        default=32, ge=1, le=4096, description="Patches that a worker reads and hands over at a time."
    )
    prefetch_parts: int = Field(default=2, ge=1, le=64, description="Parts that each worker reads ahead.")
    window_shards: int = Field(
        default=0,
        ge=0,
        description="Shards whose places are mixed with each other, for storage that is slow at random reads; 0 mixes "
        "all places, which is a uniform order.",
    )


class PixelSettings(BaseModel):
    """What a training from pixels needs beside `TrainingConfig`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: ImageBackboneSettings = Field(
        default=ImageBackboneSettings(), description="The image backbone and its initial weights."
    )
    trainable_backbone: bool = Field(
        default=False, description="Whether the backbone's weights are trained too; from pixels only."
    )
    views: ViewsConfig = Field(
        default=ViewsConfig(),
        description="Views of every patch: in the bank num_views of them; from pixels another one in every epoch, and "
        "with num_views 1 the patch itself.",
    )
    loader: PixelLoaderConfig = Field(
        default=PixelLoaderConfig(), description="How patches come from the store; from pixels only."
    )

    @model_validator(mode="after")
    def _trainable_backbone_has_weights(self) -> Self:
        if self.trainable_backbone and self.backbone.kind == "random_convolutional":
            raise ValueError(
                "trainable_backbone is true, but the filters of random_convolutional follow from their seed and cannot "
                "be trained; choose a MoCo kind as backbone, or leave the backbone frozen"
            )
        return self
