"""Random pieces of examples, turned and mirrored, and batches of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipelines.satlas.images import TileImage
from pipelines.satlas.training.examples import BoxTarget, Example, MaskTarget, Target, ValueTarget, objects_of

_TRIES = 20


@dataclass(frozen=True)
class Batch:
    """Samples as a model takes them.

    Attributes:
        images: Channels from 0 to 1, float32, shape (sample, image, channel, size, size).
        present: Which images are there, shape (sample, image).
        target: What the loss of the model's one head takes.
    """

    images: Tensor
    present: Tensor
    target: Any


def random_crop(
    example: Example, size_px: int, is_centered: bool, min_present: float, rng: np.random.Generator
) -> Example | None:
    """A square of an example, anywhere or around an object, turned and mirrored at random.

    Images that cover less than ``min_present`` of it are left out; None where after some tries no image is left.

    Args:
        example: At least as large as the square, or it is filled up with nothing below and to the right.
        size_px: Side of the square.
        is_centered: Whether it holds a chosen object, if there is one.
        min_present: Share of the square that an image must cover.
        rng: What decides.
    """
    rows, columns = example.shape
    objects = objects_of(example.target) if is_centered else np.zeros((0, 2))
    for _ in range(_TRIES):
        if len(objects):
            middle = objects[rng.integers(len(objects))] + rng.uniform(-0.4, 0.4, 2) * size_px
            corner = np.round(middle - size_px / 2).astype(int)
        else:
            corner = rng.integers(0, [max(rows - size_px, 0) + 1, max(columns - size_px, 0) + 1])
        row, column = np.clip(corner, 0, [max(rows - size_px, 0), max(columns - size_px, 0)])
        found = cut(example, int(row), int(column), size_px)
        kept = [image for image in found.images if image.present.mean() >= min_present]
        if kept:
            order = rng.permutation(len(kept))
            shuffled = Example(found.name, [kept[index] for index in order], found.target)
            return turn(shuffled, int(rng.integers(4)), mirrored=bool(rng.integers(2)))
    return None


def cut(example: Example, row: int, column: int, size_px: int) -> Example:
    """A square of an example; beyond its edges there is nothing, and no pixel counts.

    Boxes belong to the square that holds their middle, and end with it.
    """
    images = [TileImage(_part(each.channels, row, column, size_px), _part(each.present, row, column, size_px))
              for each in example.images]  # fmt: skip
    return Example(example.name, images, _cut_target(example.target, row, column, size_px))


def _part(array: NDArray[Any], row: int, column: int, size_px: int) -> NDArray[Any]:
    part = array[..., row : row + size_px, column : column + size_px]
    missing = [(0, size_px - part.shape[-2]), (0, size_px - part.shape[-1])]
    return np.pad(part, [(0, 0)] * (array.ndim - 2) + missing) if any(m[1] for m in missing) else part


def _cut_target(target: Target, row: int, column: int, size_px: int) -> Target:
    match target:
        case MaskTarget():
            return MaskTarget(_part(target.classes, row, column, size_px), _part(target.valid, row, column, size_px))
        case ValueTarget():
            return ValueTarget(_part(target.values, row, column, size_px), _part(target.valid, row, column, size_px))
        case BoxTarget():
            boxes = target.boxes - np.array([column, row, column, row], dtype=np.float32)
            middle_x, middle_y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
            inside = (middle_x >= 0) & (middle_x < size_px) & (middle_y >= 0) & (middle_y < size_px)
            clipped = np.clip(boxes[inside], 0, size_px)
            return BoxTarget(clipped, target.labels[inside], target.is_difficult[inside])


def turn(example: Example, quarters: int, *, mirrored: bool) -> Example:
    """A square example mirrored left to right, then turned counter-clockwise by quarters."""
    images = [TileImage(_turned(each.channels, quarters, mirrored), _turned(each.present, quarters, mirrored))
              for each in example.images]  # fmt: skip
    target: Target
    match example.target:
        case MaskTarget(classes, valid):
            target = MaskTarget(_turned(classes, quarters, mirrored), _turned(valid, quarters, mirrored))
        case ValueTarget(values, valid):
            target = ValueTarget(_turned(values, quarters, mirrored), _turned(valid, quarters, mirrored))
        case BoxTarget(boxes, labels, is_difficult):
            target = BoxTarget(_turned_boxes(boxes, example.shape[1], quarters, mirrored), labels, is_difficult)
    return Example(example.name, images, target)


def vary(example: Example, spread: float, rng: np.random.Generator) -> Example:
    """An example in other light: channels times random factors, some for all of its images and one for each.

    Args:
        example: What is varied.
        spread: Standard deviation of the logarithm of a channel's factor; of an image's factor it is half of that.
        rng: What decides.
    """
    of_channels = np.exp(rng.normal(0.0, spread, len(example.images[0].channels)))
    images = []
    for image in example.images:
        factors = of_channels * np.exp(rng.normal(0.0, spread / 2))
        channels = np.clip(np.round(image.channels * factors[:, None, None]), 0, 255).astype(np.uint8)
        images.append(TileImage(channels, image.present))
    return Example(example.name, images, example.target)


def _turned(array: NDArray[Any], quarters: int, mirrored: bool) -> NDArray[Any]:
    flipped = array[..., ::-1] if mirrored else array
    return np.rot90(flipped, quarters, axes=(-2, -1))


def _turned_boxes(boxes: NDArray[np.float32], size_px: int, quarters: int, mirrored: bool) -> NDArray[np.float32]:
    left, top, right, bottom = boxes.T
    if mirrored:
        left, right = size_px - right, size_px - left
    for _ in range(quarters % 4):
        left, top, right, bottom = top, size_px - right, bottom, size_px - left
    return np.stack([left, top, right, bottom], axis=1)


def collate(samples: Sequence[Example], num_images: int, num_channels: int) -> Batch:
    """Samples of one size and kind as a batch; places of images that a sample lacks are zero and not present."""
    size = samples[0].shape
    images = np.zeros((len(samples), num_images, num_channels, *size), dtype=np.uint8)
    present = np.zeros((len(samples), num_images), dtype=np.bool_)
    for row, sample in enumerate(samples):
        for column, image in enumerate(sample.images[:num_images]):
            images[row, column] = image.channels[:num_channels]
            present[row, column] = True
    return Batch(torch.from_numpy(images).float() / 255.0, torch.from_numpy(present), _targets(samples))


def _targets(samples: Sequence[Example]) -> Any:  # noqa: ANN401
    targets = [sample.target for sample in samples]
    seen = [sample.seen for sample in samples]
    first = targets[0]
    if isinstance(first, BoxTarget):
        return [
            _boxes(target, where) for target, where in zip(targets, seen, strict=True) if isinstance(target, BoxTarget)
        ]
    valid = np.stack([target.valid & where for target, where in zip(targets, seen, strict=True)])  # type: ignore[union-attr]
    if isinstance(first, MaskTarget):
        classes = np.stack([target.classes for target in targets])  # type: ignore[union-attr]
        return {"classes": torch.from_numpy(classes.copy()), "valid": torch.from_numpy(valid)}
    values = np.stack([target.values for target in targets])  # type: ignore[union-attr]
    return {"values": torch.from_numpy(values.copy()), "valid": torch.from_numpy(valid)}


def _boxes(target: BoxTarget, seen: NDArray[np.bool_]) -> dict[str, Tensor]:
    """Boxes to learn: those whose middle an image shows."""
    rows, columns = seen.shape
    middle_x = np.clip((target.boxes[:, 0] + target.boxes[:, 2]) / 2, 0, columns - 1).astype(int)
    middle_y = np.clip((target.boxes[:, 1] + target.boxes[:, 3]) / 2, 0, rows - 1).astype(int)
    kept = seen[middle_y, middle_x] & ~target.is_difficult
    kept &= (target.boxes[:, 2] - target.boxes[:, 0] >= 1) & (target.boxes[:, 3] - target.boxes[:, 1] >= 1)
    return {
        "boxes": torch.from_numpy(np.ascontiguousarray(target.boxes[kept])).reshape(-1, 4),
        "labels": torch.from_numpy(np.ascontiguousarray(target.labels[kept])),
    }
