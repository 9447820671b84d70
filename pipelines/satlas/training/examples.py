"""What a model learns from: the images of a place, and what is there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipelines.satlas.images import TileImage


@dataclass(frozen=True)
class MaskTarget:
    """Categories per pixel.

    Attributes:
        classes: 0 or 1 per category and pixel, uint8, shape (category, rows, columns).
        valid: Pixels that count, shape (rows, columns).
    """

    classes: NDArray[np.uint8]
    valid: NDArray[np.bool_]


@dataclass(frozen=True)
class ValueTarget:
    """A number per pixel.

    Attributes:
        values: 0 to 255, float32, shape (rows, columns).
        valid: Pixels that count, of the same shape.
    """

    values: NDArray[np.float32]
    valid: NDArray[np.bool_]


@dataclass(frozen=True)
class BoxTarget:
    """Objects as boxes.

    Attributes:
        boxes: Left, top, right and bottom in pixels, float32, shape (n, 4).
        labels: Number of the category, the first is 1, int64, shape (n,).
        is_difficult: Objects of which the images do not tell whether they are there: neither learned nor counted.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    is_difficult: NDArray[np.bool_]


Target = MaskTarget | ValueTarget | BoxTarget


@dataclass(frozen=True)
class Example:
    """One place at one time.

    Attributes:
        name: Where it comes from, such as tile and month; errors name it.
        images: Of different dates on one grid, at least one.
        target: What is there.
    """

    name: str
    images: Sequence[TileImage]
    target: Target

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, columns = self.images[0].present.shape
        return rows, columns

    @property
    def seen(self) -> NDArray[np.bool_]:
        """Where any image has a value."""
        return np.stack([image.present for image in self.images]).any(axis=0)


class ExampleSource(Protocol):
    """Examples by number; reading one must not depend on what was read before."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


def objects_of(target: Target) -> NDArray[np.float64]:
    """Rows and columns of places that hold an object, shape (n, 2): middles of boxes, or pixels with a category."""
    match target:
        case BoxTarget():
            boxes = target.boxes[~target.is_difficult].astype(np.float64)
            return np.column_stack([(boxes[:, 1] + boxes[:, 3]) / 2, (boxes[:, 0] + boxes[:, 2]) / 2])
        case MaskTarget():
            return np.argwhere(target.classes.any(axis=0) & target.valid).astype(np.float64)
        case ValueTarget():
            return np.argwhere((target.values > 0) & target.valid).astype(np.float64)
