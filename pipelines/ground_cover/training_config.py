"""Settings of the training of images and ground-cover classes; importing them does not import PyTorch."""

from collections.abc import Sequence
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipelines.features.config import ImageBackboneSettings, ViewsConfig
from pipelines.ground_cover.classes import LandCoverClass
from satclip_model.config import ImageBackboneConfig, ImageHeadConfig
from satclip_model.ground_cover.config import GroundCoverClass, GroundCoverConfig, TextEncoderConfig


class GroundCoverTrainingConfig(BaseModel):
    """How image tower and class tower are trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(default=0, ge=0, description="Seed of initial weights, split, batches, prompts and dropout.")
    embedding_dim: int = Field(default=128, ge=2, le=4096, description="Length of an embedding.")
    image_hidden_dim: int = Field(
        default=256, ge=0, le=8192, description="Width of the image head's hidden layer; 0 makes the head linear."
    )
    image_dropout: float = Field(default=0.3, ge=0, lt=1, description="Dropout in the image head's hidden layer.")
    feature_dropout: float = Field(default=0.1, ge=0, lt=1, description="Dropout on the image features.")
    targets: Literal["fractions", "dominant"] = Field(
        default="fractions", description="What an image is drawn to: its class fractions, or its dominant class alone."
    )
    class_balance: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="How often patches of rare classes are drawn: 0 as often as others, 1 every class equally often.",
    )
    text_encoder: str = Field(
        default="attribute_bag",
        min_length=1,
        description="Reads names and descriptions of classes: attribute_bag, or a model of the Hugging Face Hub.",
    )
    download: bool = Field(default=False, description="Whether a text encoder that is not cached may be fetched.")
    batch_size: int = Field(default=256, ge=2, description="Patches per step, clipped to the number of them.")
    epochs: int = Field(default=60, ge=1, description="Passes over as many patches as there are.")
    learning_rate: float = Field(default=1e-3, gt=0, le=10, description="Highest learning rate.")
    weight_decay: float = Field(default=0.05, ge=0, le=100, description="Decoupled weight decay of matrices.")
    warmup_fraction: float = Field(default=0.05, ge=0, lt=1, description="Share of steps in which the rate rises.")
    min_temperature: float = Field(default=0.05, gt=0, lt=1, description="Lower bound of the temperature.")
    gradient_clip_norm: float = Field(default=1.0, ge=0, description="Highest norm of the gradient; 0 leaves it.")
    validation_fraction: float = Field(default=0.2, ge=0, lt=1, description="Share of places kept for validation.")
    validation_blocks_deg: float = Field(
        default=10.0, ge=0, le=180, description="Side of the blocks that validation takes whole; 0 takes places."
    )
    validation_interval_epochs: int = Field(default=5, ge=1, description="Epochs between two validations.")
    checkpoint_interval_steps: int = Field(
        default=0, ge=0, description="Steps between two checkpoints to go on from; 0 writes one only on cancellation."
    )
    accelerator: Literal["auto", "gpu", "cpu"] = Field(
        default="auto", description="gpu asks for one and fails without; auto takes one where it is."
    )
    num_threads: int = Field(default=0, ge=0, le=1024, description="Threads of PyTorch; 0 leaves its own choice.")

    def model_settings(
        self, classes: Sequence[LandCoverClass], image_backbone: ImageBackboneConfig
    ) -> GroundCoverConfig:
        """The configuration of the towers over an image backbone."""
        is_bag = self.text_encoder == "attribute_bag"
        text = TextEncoderConfig() if is_bag else TextEncoderConfig(kind="hugging_face", name=self.text_encoder)
        head = ImageHeadConfig(
            hidden_dim=self.image_hidden_dim, feature_dropout=self.feature_dropout, dropout=self.image_dropout
        )
        return GroundCoverConfig(
            classes=model_classes(classes),
            image_backbone=image_backbone,
            image_head=head,
            text_encoder=text,
            embedding_dim=self.embedding_dim,
            min_temperature=self.min_temperature,
        )


class GroundCoverPixels(BaseModel):
    """A training from pixels: which backbone, whether it moves, and what it sees."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: ImageBackboneSettings = Field(default=ImageBackboneSettings(), description="The image backbone.")
    trainable_backbone: bool = Field(default=False, description="Whether its weights move.")
    views: ViewsConfig = Field(
        default=ViewsConfig(), description="Augmentations; with num_views above 1 every epoch has its own view."
    )

    @model_validator(mode="after")
    def _random_filters_do_not_move(self) -> Self:
        if self.trainable_backbone and self.backbone.kind == "random_convolutional":
            raise ValueError("trainable_backbone is set, but random_convolutional has no weights; choose a MoCo kind")
        return self


def model_classes(classes: Sequence[LandCoverClass]) -> tuple[GroundCoverClass, ...]:
    """Classes of a map as the model knows them, in the same order."""
    return tuple(
        GroundCoverClass(code=each.code, name=each.name, description=each.description, color=each.color)
        for each in classes
    )
