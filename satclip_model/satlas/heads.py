"""What is predicted from a pyramid: maps, numbers, boxes or labels, each with its loss.

Parameters are named as in the public weights. Source of sizes and thresholds: allenai/satlas, satlas/model/model.py.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign

from satclip_model.satlas.config import (
    ClassificationConfig,
    DetectionConfig,
    HeadConfig,
    RegressionConfig,
    SegmentationConfig,
)

LABEL_RANGE = 255.0
"""Labels of a regression are stored as 0 to 255, and learned as 0 to 1."""
_ROI_SIZE = 7


class Head(Protocol):
    """A head; ``maps`` begin with the one at full resolution, ``images`` is any tensor of the images' size."""

    def __call__(self, images: Tensor, maps: list[Tensor]) -> Any: ...  # noqa: ANN401, D102

    def loss(self, images: Tensor, maps: list[Tensor], targets: Any) -> Tensor:  # noqa: ANN401
        """The loss of predictions, a number."""
        ...


class _ConvolutionalHead(nn.Module):
    def __init__(self, dim: int, num_outputs: int | None) -> None:
        super().__init__()
        hidden = nn.Sequential(nn.Conv2d(dim, dim, 3, padding=1), nn.ReLU(inplace=True))
        last = [] if num_outputs is None else [nn.Conv2d(dim, num_outputs, 3, padding=1)]
        self.layers = nn.Sequential(hidden, *last)


class SegmentationHead(_ConvolutionalHead):
    """Probabilities of categories per pixel."""

    def __init__(self, config: SegmentationConfig, dim: int) -> None:
        super().__init__(dim, len(config.categories))
        self.exclusive = config.kind == "segmentation"

    def forward(self, images: Tensor, maps: list[Tensor]) -> Float[Tensor, "batch category height width"]:
        """Probabilities; of exclusive categories they sum to 1 in each pixel."""
        del images
        logits = self.layers(maps[0])
        return _probabilities(logits, exclusive=self.exclusive)

    def loss(self, images: Tensor, maps: list[Tensor], targets: dict[str, Tensor]) -> Tensor:
        """Cross entropy over pixels that are ``valid``.

        Args:
            images: Not used.
            maps: The pyramid.
            targets: ``classes``, (batch, height, width) int64, or, of categories by themselves, (batch, category,
                height, width) of 0 and 1; ``valid``, (batch, height, width) bool, all pixels if absent.
        """
        del images
        logits, classes = self.layers(maps[0]), targets["classes"]
        if self.exclusive:
            losses = functional.cross_entropy(logits, classes, reduction="none")
        else:
            losses = functional.binary_cross_entropy_with_logits(logits, classes.float(), reduction="none").mean(1)
        return _mean_of_valid(losses, targets.get("valid"))


class RegressionHead(_ConvolutionalHead):
    """A number per pixel, in the labels' range of 0 to 255."""

    def __init__(self, config: RegressionConfig, dim: int) -> None:
        super().__init__(dim, 1)
        self.squared = config.loss == "squared"

    def forward(self, images: Tensor, maps: list[Tensor]) -> Float[Tensor, "batch height width"]:
        """Numbers, not clipped to the range of the labels."""
        del images
        numbers: Tensor = self.layers(maps[0])[:, 0]
        return LABEL_RANGE * numbers

    def loss(self, images: Tensor, maps: list[Tensor], targets: dict[str, Tensor]) -> Tensor:
        """Mean error of numbers over pixels that are ``valid``, both divided by 255.

        Args:
            images: Not used.
            maps: The pyramid.
            targets: ``values``, (batch, height, width), 0 to 255; ``valid``, of the same shape, all pixels if absent.
        """
        del images
        errors = self.layers(maps[0])[:, 0] - targets["values"].float() / LABEL_RANGE
        return _mean_of_valid(errors.square() if self.squared else errors.abs(), targets.get("valid"))


class ClassificationHead(_ConvolutionalHead):
    """Probabilities of categories of the image, from the largest value of each channel."""

    def __init__(self, config: ClassificationConfig, dim: int) -> None:
        super().__init__(dim, None)
        self.extra = nn.Linear(dim, len(config.categories))
        self.exclusive = config.kind == "classification"

    def _logits(self, maps: list[Tensor]) -> Tensor:
        logits: Tensor = self.extra(self.layers(maps[0]).amax((2, 3)))  # noqa: S610
        return logits

    def forward(self, images: Tensor, maps: list[Tensor]) -> Float[Tensor, "batch category"]:
        """Probabilities; of exclusive categories they sum to 1."""
        del images
        return _probabilities(self._logits(maps), exclusive=self.exclusive)

    def loss(self, images: Tensor, maps: list[Tensor], targets: dict[str, Tensor]) -> Tensor:
        """Cross entropy of ``classes``, (batch,) int64, or, of categories by themselves, (batch, category) of 0, 1."""
        del images
        logits, classes = self._logits(maps), targets["classes"]
        if self.exclusive:
            return functional.cross_entropy(logits, classes)
        return functional.binary_cross_entropy_with_logits(logits, classes.float())


class DetectionHead(nn.Module):
    """Faster R-CNN (Ren et al. 2015) on the four maps of the pyramid, at most 100 boxes above a score of 0.05."""

    def __init__(self, config: DetectionConfig, dim: int) -> None:
        super().__init__()
        names = [str(index) for index in range(len(config.anchor_sizes_px))]
        anchors = AnchorGenerator(
            tuple((size,) for size in config.anchor_sizes_px), ((0.5, 1.0, 2.0),) * len(config.anchor_sizes_px)
        )
        kept = {"training": config.num_proposals, "testing": config.num_proposals}
        self.rpn = RegionProposalNetwork(
            anchors, RPNHead(dim, anchors.num_anchors_per_location()[0]), 0.7, 0.3, 256, 0.5, kept, kept, 0.7
        )
        pooling = MultiScaleRoIAlign(names, output_size=_ROI_SIZE, sampling_ratio=2)
        box_head = TwoMLPHead(dim * _ROI_SIZE**2, config.box_dim)
        predictor = FastRCNNPredictor(config.box_dim, len(config.categories) + 1)
        self.roi_heads = RoIHeads(
            pooling, box_head, predictor, 0.5, 0.5, config.num_sampled, 0.25, None, 0.05, 0.5, 100
        )

    def forward(self, images: Tensor, maps: list[Tensor]) -> list[dict[str, Tensor]]:
        """Per sample ``boxes`` (n, 4) as left, top, right, bottom in pixels, ``labels`` from 1, ``scores``."""
        listed, named = self._inputs(images, maps)
        proposals, _ = self.rpn(listed, named)
        detections: list[dict[str, Tensor]] = self.roi_heads(named, proposals, listed.image_sizes)[0]
        return detections

    def loss(self, images: Tensor, maps: list[Tensor], targets: Sequence[dict[str, Tensor]]) -> Tensor:
        """Sum of the four losses of proposals and boxes; the module must be training.

        Args:
            images: Images of any channels.
            maps: The pyramid.
            targets: Per sample ``boxes`` (n, 4) in pixels, float32, and ``labels`` (n,) from 1, int64.
        """
        listed, named = self._inputs(images, maps)
        proposals, proposing = self.rpn(listed, named, list(targets))
        _, placing = self.roi_heads(named, proposals, listed.image_sizes, list(targets))
        return torch.stack([*proposing.values(), *placing.values()]).sum()

    def _inputs(self, images: Tensor, maps: list[Tensor]) -> tuple[ImageList, "OrderedDict[str, Tensor]"]:
        size = (images.shape[-2], images.shape[-1])
        return ImageList(images, [size] * len(images)), OrderedDict(
            (str(index), each) for index, each in enumerate(maps[1:])
        )


def build_head(config: HeadConfig, dim: int) -> nn.Module:
    """The head of a configuration, with random weights."""
    match config:
        case SegmentationConfig():
            return SegmentationHead(config, dim)
        case RegressionConfig():
            return RegressionHead(config, dim)
        case DetectionConfig():
            return DetectionHead(config, dim)
        case ClassificationConfig():
            return ClassificationHead(config, dim)


def _probabilities(logits: Tensor, *, exclusive: bool) -> Tensor:
    return logits.softmax(1) if exclusive else logits.sigmoid()


def _mean_of_valid(losses: Tensor, valid: Tensor | None) -> Tensor:
    return losses.mean() if valid is None else (losses * valid).sum() / valid.sum().clamp(min=1)
