"""Settings of the networks; importing them does not import PyTorch."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

NUM_BANDS = 12


class RandomFeaturesConfig(BaseModel):
    """Settings of the frozen random convolutional image backbone.

    Attributes:
        kind: Name of the family.
        seed: Seed of the filters.
        num_filters: Filters per scale.
        kernel_size: Side of a filter in pixels of its scale.
        pool_factors: Per scale the side, in pixels, of the cells averaged before filtering; patch sides must be
            divisible by each.
        full_resolution_stride: Step of the filters at the scale without pooling, in pixels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["random_convolutional"] = "random_convolutional"
    seed: int = Field(default=0, ge=0)
    num_filters: int = Field(default=64, ge=1, le=1024)
    kernel_size: int = Field(default=3, ge=1, le=15)
    pool_factors: tuple[int, ...] = Field(default=(1, 4, 16), min_length=1)
    full_resolution_stride: int = Field(default=4, ge=1, le=16)

    @property
    def feature_dim(self) -> int:
        """Length of a feature vector: two signs per filter and scale, and two statistics per band."""
        return 2 * self.num_filters * len(self.pool_factors) + 2 * NUM_BANDS


class LocationEncoderConfig(BaseModel):
    """Settings of a location encoder: spherical harmonics and a SIREN.

    Attributes:
        num_degrees: Degrees of the spherical harmonics, L; the basis has L*L functions.
        harmonics_convention: ``orthonormal``, or ``analytic`` for the basis of the released weights.
        embedding_dim: Length of an embedding.
        hidden_dim: Width of the hidden layers.
        num_hidden_layers: Sine layers.
        w0_initial: Frequency factor of the first sine layer.
        location_dropout: Probability of dropping a pre-activation of a sine layer in training.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_degrees: int = Field(default=40, ge=1, le=200)
    harmonics_convention: Literal["orthonormal", "analytic"] = "orthonormal"
    embedding_dim: int = Field(default=256, ge=1)
    hidden_dim: int = Field(default=512, ge=1)
    num_hidden_layers: int = Field(default=2, ge=1)
    w0_initial: float = Field(default=30.0, gt=0)
    location_dropout: float = Field(default=0.0, ge=0, lt=1)


class SatCLIPConfig(BaseModel):
    """Settings of the two towers.

    Attributes:
        location: The location tower.
        image_backbone: The frozen part of the image tower.
        image_hidden_dim: Width of the hidden layer of the image head; 0 makes the head linear.
        feature_dropout: Probability of dropping an image feature in training.
        image_dropout: Probability of dropping a hidden unit of the image head in training.
        min_temperature: Lower bound of the temperature of the contrastive loss.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    location: LocationEncoderConfig = LocationEncoderConfig()
    image_backbone: RandomFeaturesConfig = RandomFeaturesConfig()
    image_hidden_dim: int = Field(default=256, ge=0)
    feature_dropout: float = Field(default=0.0, ge=0, lt=1)
    image_dropout: float = Field(default=0.0, ge=0, lt=1)
    min_temperature: float = Field(default=0.01, gt=0, lt=1)

    @property
    def embedding_dim(self) -> int:
        """Length of an embedding of either tower."""
        return self.location.embedding_dim
