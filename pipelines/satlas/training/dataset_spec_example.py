"""Labels and images of one example in the folder layout of published Satlas training data."""

import json
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.errors import ArtefactError
from pipelines.satlas.images import TileImage
from pipelines.satlas.training.examples import BoxTarget, MaskTarget, Target, ValueTarget
from satclip_model.satlas.config import DetectionConfig, HeadConfig, RegressionConfig, SegmentationConfig

TCI: Final = "tci"
OTHER_FILES: Final = ("b05", "b06", "b07", "b08", "b11", "b12")
NUM_COLORS: Final = 3
VALID_FILE: Final = "valid.png"
"""255 where a pixel counts, 0 where not; without the file all of them do."""
DIFFICULT_FILE: Final = "difficult.json"
"""Numbers of the boxes in ``gt.json``, from 0, of which it is not known whether they are there."""


def read_image(folder: Path, shape: tuple[int, int] | None, num_channels: int) -> TileImage:
    """The image of one date; bands of fewer pixels are replicated to those of the true-color image.

    Args:
        folder: Holds a PNG per band, or a JPEG.
        shape: Rows and columns that it must have; None takes the file's.
        num_channels: 9 or 3.

    Raises:
        ArtefactError: A band is missing, cannot be read, or has another size.
    """
    path = _band_file(folder, TCI)
    colors = _read_png(path)
    if colors.ndim != 3 or colors.shape[2] < NUM_COLORS:
        raise ArtefactError(f"{path}: shape {colors.shape}, expected three colors")
    size = (colors.shape[0], colors.shape[1])
    if shape is not None and size != shape:
        raise ArtefactError(f"{path}: {size} pixels, expected {shape}, those of the labels")
    channels = [colors[..., band] for band in range(NUM_COLORS)]
    if num_channels > NUM_COLORS:
        channels += [_replicated(_band_file(folder, name), size) for name in OTHER_FILES]
    stacked = np.stack(channels)
    return TileImage(stacked, stacked.any(axis=0))


def _band_file(folder: Path, name: str) -> Path:
    """The band's PNG, unless only a JPEG is there."""
    path, other = folder / f"{name}.png", folder / f"{name}.jpg"
    return other if other.exists() and not path.exists() else path


def _replicated(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    band = _read_png(path)
    rows, columns = band.shape[:2]
    if band.ndim != 2 or size[0] % rows or size[1] % columns or size[0] // rows != size[1] // columns:
        raise ArtefactError(f"{path}: shape {band.shape}, expected one band whose pixels fit {size}")
    factor = size[0] // rows
    return band.repeat(factor, axis=0).repeat(factor, axis=1)


def _read_png(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            values = np.asarray(image)
    except FileNotFoundError as error:
        there = ", ".join(sorted(each.name for each in path.parent.glob("*"))) or "nothing"
        raise ArtefactError(f"{path}: missing; the folder has {there}. Download the example again") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ArtefactError(f"{path}: not readable as PNG ({error}); download the example again") from error
    if values.dtype not in (np.uint8, np.bool_):
        raise ArtefactError(f"{path}: values of type {values.dtype}, expected 8 bits: bands are min(number / 32, 255)")
    return values.astype(np.uint8)


def read_target(folder: Path, head: HeadConfig) -> tuple[Target, tuple[int, int] | None]:
    """The labels of an example, and the rows and columns that they have of their own.

    Raises:
        ArtefactError: They are missing, cannot be read, or name what the head does not know.
        ValueError: A head without labels in this layout.
    """
    match head:
        case DetectionConfig():
            return _read_boxes(folder / "gt.json", head.categories), None
        case SegmentationConfig():
            values = _labels_png(folder / "gt.png")
            return MaskTarget(_classes(values, head, folder), _valid(folder, values.shape)), (
                values.shape[0],
                values.shape[1],
            )
        case RegressionConfig():
            values = _labels_png(folder / "gt.png")
            valid = (values > 0) & _valid(folder, values.shape)
            return ValueTarget(values.astype(np.float32), valid), (values.shape[0], values.shape[1])
    raise ValueError(f"no labels of this layout for a head of kind {head.kind}")


def _labels_png(path: Path) -> NDArray[np.uint8]:
    values = _read_png(path)
    if values.ndim != 2:
        raise ArtefactError(f"{path}: shape {values.shape}, expected one number per pixel")
    return values


def _valid(folder: Path, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    path = folder / VALID_FILE
    if not path.exists():
        return np.ones(shape, dtype=np.bool_)
    values = _read_png(path)
    if values.shape != shape:
        raise ArtefactError(f"{path}: shape {values.shape}, expected {shape}, that of the labels")
    return values > 0


def _classes(values: NDArray[np.uint8], head: SegmentationConfig, folder: Path) -> NDArray[np.uint8]:
    number = len(head.categories)
    if head.kind == "segmentation":
        if values.max(initial=0) >= number:
            raise ArtefactError(f"{folder / 'gt.png'}: class {values.max()}, expected 0 to {number - 1}")
        classes = np.stack([values == each for each in range(number)])
    else:
        if values.max(initial=0) >= 2**number:
            raise ArtefactError(f"{folder / 'gt.png'}: value {values.max()}, expected bits of {number} categories")
        classes = np.stack([(values >> each) & 1 for each in range(number)]).astype(np.bool_)
    return classes.astype(np.uint8)


def _read_boxes(path: Path, categories: tuple[str, ...]) -> BoxTarget:
    try:
        rows = json.loads(path.read_text())
        boxes = np.array([row[:4] for row in rows], dtype=np.float32).reshape(-1, 4)
        names = [str(row[4]) for row in rows]
    except (OSError, json.JSONDecodeError, ValueError, TypeError, IndexError, KeyError) as error:
        raise ArtefactError(
            f"{path}: no boxes that can be read ({error}); expected a list of [left, top, right, bottom, category]"
        ) from error
    unknown = sorted(set(names) - set(categories))
    if unknown:
        raise ArtefactError(f"{path}: categories {', '.join(unknown)}; expected {', '.join(categories)}")
    turned = np.flatnonzero(
        (boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1]) | ~np.isfinite(boxes).all(axis=1)
    )
    if len(turned):
        raise ArtefactError(
            f"{path}: box {turned[0]} is {boxes[turned[0]].tolist()}; expected left < right, top < bottom"
        )
    labels = np.array([categories.index(name) + 1 for name in names], dtype=np.int64)
    return BoxTarget(boxes, labels, _difficult(path.with_name(DIFFICULT_FILE), len(boxes)))


def _difficult(path: Path, number: int) -> NDArray[np.bool_]:
    if not path.exists():
        return np.zeros(number, dtype=np.bool_)
    try:
        return np.isin(np.arange(number), [range(number).index(each) for each in json.loads(path.read_text())])
    except (OSError, ValueError, TypeError) as error:
        raise ArtefactError(f"{path}: {error}; expected a list of numbers of boxes, 0 to {number - 1}") from error


def require_inside(target: Target, size: tuple[int, int], folder: Path) -> Target:
    """The target as it is.

    Raises:
        ArtefactError: The middle of a box lies outside the image of ``size`` rows and columns.
    """
    if isinstance(target, BoxTarget):
        rows, columns = size
        middle_x, middle_y = (
            (target.boxes[:, 0] + target.boxes[:, 2]) / 2,
            (target.boxes[:, 1] + target.boxes[:, 3]) / 2,
        )
        outside = np.flatnonzero((middle_x < 0) | (middle_x > columns) | (middle_y < 0) | (middle_y > rows))
        if len(outside):
            raise ArtefactError(
                f"{folder / 'gt.json'}: the middle of box {outside[0]}, {target.boxes[outside[0]].tolist()}, lies "
                f"outside the image of {rows} x {columns} pixels"
            )
    return target
