"""Settings of the networks; importing them does not import PyTorch."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

NUM_BANDS = 12
_MAX_DIM = 1 << 16
_MAX_LAYERS = 1024

HarmonicsConvention = Literal["orthonormal", "analytic", "closed-form", "discretized"]


def told(error: Exception) -> str:
    """What refused settings say of themselves, in one line."""
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, each['loc'])) or 'settings'}: {each['msg']}" for each in error.errors())
    return str(error)


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SphericalHarmonicsConfig(_Settings):
    """Real spherical harmonics; see `satclip_model.positional_encoding.spherical_harmonics`.

    Attributes:
        kind: Name of the family.
        num_degrees: Degrees L; the basis has L*L functions, of degree 0 to L - 1.
        convention: ``orthonormal`` for new models; ``analytic`` is the basis of the released weights,
            ``closed-form`` and ``discretized`` are the original's other two.
    """

    kind: Literal["spherical_harmonics"] = "spherical_harmonics"
    num_degrees: int = Field(default=40, ge=1, le=200)
    convention: HarmonicsConvention = "orthonormal"

    @property
    def encoding_dim(self) -> int:
        """Number of functions."""
        return self.num_degrees**2


class CoordinatesConfig(_Settings):
    """Encodings without parameters: radians less pi, the unit vector, or sines and cosines of both coordinates.

    Attributes:
        kind: Name of the encoding.
    """

    kind: Literal["direct", "cartesian3d", "wrap"]

    @property
    def encoding_dim(self) -> int:
        """Length of an encoded place."""
        return {"direct": 2, "cartesian3d": 3, "wrap": 4}[self.kind]


class MultiScaleConfig(_Settings):
    """Sines and cosines of the coordinates at geometrically spaced wavelengths.

    Attributes:
        kind: Name of the encoding.
        num_frequencies: Frequencies from ``1 / min_radius`` down to ``1 / max_radius``.
        min_radius: Divisor of the degrees at the highest frequency.
        max_radius: Divisor of the degrees at the lowest frequency.
    """

    kind: Literal["theory", "grid", "spherec", "spherecplus", "spherem", "spheremplus"]
    num_frequencies: int = Field(default=16, ge=2, le=1024)
    min_radius: float = Field(default=1.0, gt=0)
    max_radius: float = Field(default=360.0, gt=0)

    @model_validator(mode="after")
    def _radii_ascend(self) -> "MultiScaleConfig":
        if self.min_radius >= self.max_radius:
            raise ValueError(f"min_radius {self.min_radius} must be below max_radius {self.max_radius}")
        return self

    @property
    def encoding_dim(self) -> int:
        """Length of an encoded place."""
        per_frequency = {"theory": 6, "grid": 4, "spherec": 6, "spherecplus": 12, "spherem": 10, "spheremplus": 16}
        return per_frequency[self.kind] * self.num_frequencies


PositionalEncodingConfig = Annotated[
    SphericalHarmonicsConfig | CoordinatesConfig | MultiScaleConfig, Field(discriminator="kind")
]


class SirenConfig(_Settings):
    """Sine layers and a linear output layer.

    Attributes:
        kind: Name of the network.
        hidden_dim: Width of the sine layers.
        num_hidden_layers: Sine layers.
        w0_initial: Frequency factor of the first sine layer.
        dropout: Probability of dropping a pre-activation of a sine layer in training.
    """

    kind: Literal["siren"] = "siren"
    hidden_dim: int = Field(default=512, ge=1, le=_MAX_DIM)
    num_hidden_layers: int = Field(default=2, ge=1, le=_MAX_LAYERS)
    w0_initial: float = Field(default=30.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)


class FCNetConfig(_Settings):
    """A linear layer with ReLU, four residual layers, and a linear output layer without bias.

    Attributes:
        kind: Name of the network.
        hidden_dim: Width.
        dropout: Probability of dropping a unit inside a residual layer in training.
    """

    kind: Literal["fcnet"] = "fcnet"
    hidden_dim: int = Field(default=256, ge=1, le=_MAX_DIM)
    dropout: float = Field(default=0.5, ge=0, lt=1)


class MLPConfig(_Settings):
    """Linear layers with ReLU and a linear output layer.

    Attributes:
        kind: Name of the network.
        hidden_dim: Width.
        num_hidden_layers: Hidden layers after the input layer.
        tie_hidden_layers: Whether they share one weight matrix, as in the original.
    """

    kind: Literal["mlp"] = "mlp"
    hidden_dim: int = Field(default=256, ge=1, le=_MAX_DIM)
    num_hidden_layers: int = Field(default=2, ge=0, le=_MAX_LAYERS)
    tie_hidden_layers: bool = False


class LinearConfig(_Settings):
    """One linear layer.

    Attributes:
        kind: Name of the network.
    """

    kind: Literal["linear"] = "linear"


LocationNetworkConfig = Annotated[SirenConfig | FCNetConfig | MLPConfig | LinearConfig, Field(discriminator="kind")]


class LocationEncoderConfig(_Settings):
    """Settings of a location encoder.

    Attributes:
        positional_encoding: From degrees to features.
        network: From features to an embedding.
        embedding_dim: Length of an embedding.
    """

    positional_encoding: PositionalEncodingConfig = SphericalHarmonicsConfig()
    network: LocationNetworkConfig = SirenConfig()
    embedding_dim: int = Field(default=256, ge=1, le=_MAX_DIM)


class RandomFeaturesConfig(_Settings):
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

    kind: Literal["random_convolutional"] = "random_convolutional"
    seed: int = Field(default=0, ge=0)
    num_filters: int = Field(default=64, ge=1, le=1024)
    kernel_size: int = Field(default=3, ge=1, le=15)
    pool_factors: tuple[Annotated[int, Field(ge=1, le=1024)], ...] = Field(
        default=(1, 4, 16), min_length=1, max_length=16
    )
    full_resolution_stride: int = Field(default=4, ge=1, le=16)

    @property
    def feature_dim(self) -> int:
        """Length of a feature vector: two signs per filter and scale, and two statistics per band."""
        return 2 * self.num_filters * len(self.pool_factors) + 2 * NUM_BANDS


class MoCoConfig(_Settings):
    """A backbone of the shape of the MoCo networks pre-trained on SSL4EO-S12.

    Attributes:
        kind: Name of the network.
        in_channels: Channels of the first layer: 13 with the cirrus band B10, which is inserted as zeros, or 12.
        trainable: Whether its weights move in training; False also keeps its normalisation statistics.
    """

    kind: Literal["moco_resnet18", "moco_resnet50", "moco_vit16"]
    in_channels: Literal[12, 13] = 13
    trainable: bool = False

    @property
    def feature_dim(self) -> int:
        """Length of a feature vector."""
        return {"moco_resnet18": 512, "moco_resnet50": 2048, "moco_vit16": 384}[self.kind]


class VisionTransformerConfig(_Settings):
    """The vision transformer of CLIP, trained with the location tower.

    Attributes:
        kind: Name of the network.
        in_channels: Channels of the first layer; 13 inserts the cirrus band B10 as zeros.
        image_size: Side of an image in pixels.
        patch_size: Side of a token in pixels.
        width: Length of a token; it has ``width // 64`` attention heads, which must divide it.
        num_layers: Transformer blocks.
        output_dim: Length of a feature vector.
        trainable: Whether its weights move in training.
    """

    kind: Literal["clip_vit"] = "clip_vit"
    in_channels: int = Field(default=13, ge=1, le=1024)
    image_size: int = Field(default=256, ge=1, le=_MAX_DIM)
    patch_size: int = Field(default=32, ge=1, le=4096)
    width: int = Field(default=768, ge=64, le=_MAX_DIM)
    num_layers: int = Field(default=12, ge=1, le=_MAX_LAYERS)
    output_dim: int = Field(default=256, ge=1, le=_MAX_DIM)
    trainable: bool = True

    @model_validator(mode="after")
    def _image_holds_a_token(self) -> "VisionTransformerConfig":
        if self.image_size < self.patch_size:
            raise ValueError(f"image_size {self.image_size} must be at least patch_size {self.patch_size}")
        return self

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "VisionTransformerConfig":
        if self.width % (self.width // 64):
            raise ValueError(f"width {self.width} is not divisible by its {self.width // 64} attention heads")
        return self

    @property
    def feature_dim(self) -> int:
        """Length of a feature vector."""
        return self.output_dim


_NumBlocks = Annotated[int, Field(ge=1, le=256)]


class ModifiedResNetConfig(_Settings):
    """The modified ResNet of CLIP, trained with the location tower.

    Attributes:
        kind: Name of the network.
        in_channels: Channels of the first layer; 13 inserts the cirrus band B10 as zeros.
        image_size: Side of an image in pixels, 32 or more; not one less than a multiple of 32.
        width: Channels after the stem; the attention pooling has ``width // 2`` heads, which must divide 32 ``width``.
        num_blocks: Bottleneck blocks in each of the four stages.
        output_dim: Length of a feature vector.
        trainable: Whether its weights move in training; False also keeps its normalisation statistics.
    """

    kind: Literal["clip_resnet"] = "clip_resnet"
    in_channels: int = Field(default=13, ge=1, le=1024)
    image_size: int = Field(default=256, ge=32, le=_MAX_DIM)
    width: int = Field(default=64, ge=2, le=_MAX_DIM)
    num_blocks: tuple[_NumBlocks, _NumBlocks, _NumBlocks, _NumBlocks] = (3, 4, 6, 3)
    output_dim: int = Field(default=256, ge=1, le=_MAX_DIM)
    trainable: bool = True

    @model_validator(mode="after")
    def _sizes_fit(self) -> "ModifiedResNetConfig":
        if self.image_size % 32 == 31:
            raise ValueError(f"image_size {self.image_size} is one less than a multiple of 32; crop a pixel")
        if 32 * self.width % (self.width // 2):
            raise ValueError(f"32 width is {32 * self.width}, not divisible by {self.width // 2} attention heads")
        return self

    @property
    def feature_dim(self) -> int:
        """Length of a feature vector."""
        return self.output_dim


ImageBackboneConfig = Annotated[
    RandomFeaturesConfig | MoCoConfig | VisionTransformerConfig | ModifiedResNetConfig, Field(discriminator="kind")
]


class ImageHeadConfig(_Settings):
    """Settings of the trainable head over the features of the image backbone.

    Attributes:
        kind: ``projection``: standardised features, and one or two linear layers. ``identity``: the features are the
            embedding.
        hidden_dim: Width of the hidden layer; 0 makes the head linear.
        feature_dropout: Probability of dropping an image feature in training.
        dropout: Probability of dropping a hidden unit in training.
    """

    kind: Literal["projection", "identity"] = "projection"
    hidden_dim: int = Field(default=256, ge=0, le=_MAX_DIM)
    feature_dropout: float = Field(default=0.0, ge=0, lt=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)


class SatCLIPConfig(_Settings):
    """Settings of the two towers.

    Attributes:
        location: The location tower.
        image_backbone: The image tower without its head.
        image_head: The head of the image tower.
        min_temperature: Lower bound of the temperature of the contrastive loss; 0 leaves it unbounded.
    """

    location: LocationEncoderConfig = LocationEncoderConfig()
    image_backbone: ImageBackboneConfig = RandomFeaturesConfig()
    image_head: ImageHeadConfig = ImageHeadConfig()
    min_temperature: float = Field(default=0.01, ge=0, lt=1)

    @model_validator(mode="after")
    def _identity_head_fits(self) -> "SatCLIPConfig":
        if self.image_head.kind == "identity" and self.image_backbone.feature_dim != self.location.embedding_dim:
            raise ValueError(
                f"image_head is the identity, but the image backbone gives {self.image_backbone.feature_dim} features "
                f"and location embeddings have {self.location.embedding_dim}; use a projection or equal lengths"
            )
        return self

    @property
    def embedding_dim(self) -> int:
        """Length of an embedding of either tower."""
        return self.location.embedding_dim
