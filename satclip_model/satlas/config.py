"""Settings of Satlas models; importing them does not import PyTorch."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

RGB_CHANNELS: Final = ("red", "green", "blue")
"""The three of the true-color image, 8 bit, divided by 255."""
MULTISPECTRAL_CHANNELS: Final = (*RGB_CHANNELS, "B05", "B06", "B07", "B08", "B11", "B12")
"""The true-color image, then bands as min(digital number / 32, 255), all divided by 255."""

BackboneKind = Literal["swin_v2_t", "swin_v2_b", "resnet18", "resnet34", "resnet50", "resnet152"]
Categories = Annotated[tuple[str, ...], Field(min_length=1, max_length=4096)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SegmentationConfig(_Settings):
    """A category, or the share of each, per pixel.

    Attributes:
        kind: ``segmentation``: exactly one category per pixel; ``binary_segmentation``: each category by itself.
        categories: Their names, in the order of the outputs.
    """

    kind: Literal["segmentation", "binary_segmentation"] = "binary_segmentation"
    categories: Categories


class RegressionConfig(_Settings):
    """A number per pixel, 0 to 255 as labels are stored.

    Attributes:
        kind: Name of the head.
        loss: Of the number divided by 255.
    """

    kind: Literal["regression"] = "regression"
    loss: Literal["squared", "absolute"] = "absolute"


class DetectionConfig(_Settings):
    """Boxes with a category and a score, by Faster R-CNN on the pyramid's four maps.

    Attributes:
        kind: Name of the head.
        categories: Names of the objects, without the background, whose label is 0.
        anchor_sizes_px: Side of the anchors on each map, from the finest to the coarsest.
        num_proposals: Most boxes that are proposed per map, and judged per image.
        num_sampled: Boxes per image that the judge learns from in a step.
        box_dim: Width of the judge's hidden layers.
    """

    kind: Literal["detection"] = "detection"
    categories: Categories
    anchor_sizes_px: tuple[int, int, int, int] = (32, 64, 128, 256)
    num_proposals: int = Field(default=2000, ge=1)
    num_sampled: int = Field(default=512, ge=1)
    box_dim: int = Field(default=1024, ge=8)


class ClassificationConfig(_Settings):
    """Categories of the whole image.

    Attributes:
        kind: ``classification``: exactly one; ``multilabel_classification``: each by itself.
        categories: Their names, in the order of the outputs.
    """

    kind: Literal["classification", "multilabel_classification"] = "classification"
    categories: Categories


HeadConfig = Annotated[
    SegmentationConfig | RegressionConfig | DetectionConfig | ClassificationConfig, Field(discriminator="kind")
]


class SatlasConfig(_Settings):
    """A model over one or several images of the same ground.

    Attributes:
        backbone: Network that each image passes through.
        num_channels: Channels of an image.
        num_images: Images of a sample; with 1 and not ``temporal`` there is no pooling over time.
        temporal: Whether parameters are named as in a model of several images, which is also right for one.
        pyramid_dim: Channels of the feature pyramid and of the upsampled map.
        heads: What is predicted; several heads share all before them.
    """

    backbone: BackboneKind = "swin_v2_b"
    num_channels: int = Field(default=len(MULTISPECTRAL_CHANNELS), ge=1, le=64)
    num_images: int = Field(default=4, ge=1, le=64)
    temporal: bool = True
    pyramid_dim: int = Field(default=128, ge=8, le=1024)
    heads: tuple[HeadConfig, ...] = Field(min_length=1, max_length=64)

    @model_validator(mode="after")
    def _several_images_are_pooled(self) -> Self:
        if self.num_images > 1 and not self.temporal:
            raise ValueError(f"num_images is {self.num_images} and temporal is false; set temporal to true")
        return self


EXPLORER_CONFIGS: Final[Mapping[str, SatlasConfig]] = MappingProxyType(
    {
        "solar_farm": SatlasConfig(heads=(SegmentationConfig(categories=("solar_farm",)),)),
        "wind_turbine": SatlasConfig(heads=(DetectionConfig(categories=("wind_turbine",)),)),
        "marine_infrastructure": SatlasConfig(
            num_channels=3, num_images=3, heads=(DetectionConfig(categories=("turbine", "platform", "vessel")),)
        ),
        "tree_cover": SatlasConfig(num_images=3, heads=(RegressionConfig(),)),
    }
)
"""The four models behind the published monthly data.

Source: allenai/satlas, configs/satlas_explorer_*.txt.
"""

PRETRAINED: Final[Mapping[str, tuple[BackboneKind, int, bool]]] = MappingProxyType(
    {
        "Sentinel2_SwinB_SI_RGB": ("swin_v2_b", 3, False),
        "Sentinel2_SwinB_MI_RGB": ("swin_v2_b", 3, True),
        "Sentinel2_SwinB_SI_MS": ("swin_v2_b", 9, False),
        "Sentinel2_SwinB_MI_MS": ("swin_v2_b", 9, True),
        "Sentinel2_SwinT_SI_RGB": ("swin_v2_t", 3, False),
        "Sentinel2_SwinT_SI_MS": ("swin_v2_t", 9, False),
        "Sentinel2_Resnet50_SI_RGB": ("resnet50", 3, False),
        "Sentinel2_Resnet50_SI_MS": ("resnet50", 9, False),
        "Sentinel2_Resnet50_MI_RGB": ("resnet50", 3, True),
        "Sentinel2_Resnet152_SI_RGB": ("resnet152", 3, False),
        "Sentinel2_Resnet152_SI_MS": ("resnet152", 9, False),
        "Sentinel2_Resnet152_MI_RGB": ("resnet152", 3, True),
    }
)
"""Backbone, channels and whether of several images, by the name of weights pre-trained on SatlasPretrain.

Source: allenai/satlaspretrain_models; files ``NAME.pth`` in lower case of allenai/satlas-pretrain on the Hub.
"""


def pretrained_config(name: str, heads: tuple[HeadConfig, ...], num_images: int | None = None) -> SatlasConfig:
    """The configuration of new heads over pre-trained weights.

    Raises:
        ValueError: There are no weights of that name, or they are of one image and several are wanted.
    """
    if name not in PRETRAINED:
        raise ValueError(f"no pre-trained weights are called {name!r}; expected one of {', '.join(PRETRAINED)}")
    backbone, num_channels, temporal = PRETRAINED[name]
    if num_images is None:
        num_images = 8 if temporal else 1
    return SatlasConfig(
        backbone=backbone, num_channels=num_channels, num_images=num_images, temporal=temporal, heads=heads
    )
