"""The folder layout of published Satlas training data, as examples, and examples as that layout.

    labels/TASK/COL_ROW/gt.png or gt.json
    labels/TASK/COL_ROW/images/NAME-YYYY-MM/{tci,b05,b06,b07,b08,b11,b12}.png
    splits/TASK_train.json, splits/TASK_val.json

Source: allenai/satlas, DatasetSpec.md and satlas/model/dataset.py.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pipelines.atomic import replacing, write_json
from pipelines.errors import ArtefactError
from pipelines.provenance import content_hash
from pipelines.satlas.images import TileImage
from pipelines.satlas.training.examples import BoxTarget, Example, MaskTarget, Target, ValueTarget
from satclip_model.satlas.config import DetectionConfig, HeadConfig, RegressionConfig, SegmentationConfig

logger = logging.getLogger(__name__)

TCI: Final = "tci"
OTHER_FILES: Final = ("b05", "b06", "b07", "b08", "b11", "b12")
ANCHOR: Final = "anchor_"
"""Beginning of the name of an image that always belongs to a sample, as its last one."""
_NUM_COLORS: Final = 3


@dataclass
class DatasetSpecFolder:
    """Examples of a task and split.

    An image of the sample that is black everywhere has no value there; labels of 0 in a regression count for nothing.

    Attributes:
        root: Holds ``labels`` and ``splits``.
        task: Folder below ``labels``.
        split: ``train`` or ``val``; the file is ``splits/TASK_SPLIT.json``.
        head: What is to be predicted; its categories are those of the labels, in order.
        num_channels: 9, or 3 for the true-color image alone.
        skip_broken: Whether broken examples are left out, and said, instead of ending the reading.
        broken: Examples left out, and why.
    """

    root: Path
    task: str
    split: str
    head: HeadConfig
    num_channels: int = 9
    skip_broken: bool = False
    broken: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Finds the examples.

        Raises:
            ArtefactError: The split or the labels are not there, or the split names none of them.
        """
        self._folders = _example_folders(self.root, self.task, self.split)
        if self.skip_broken:
            kept = []
            for folder in self._folders:
                try:
                    self._read(folder)
                    kept.append(folder)
                except ArtefactError as error:
                    logger.warning("example left out: %s", error)
                    self.broken[folder.name] = str(error)
            self._folders = kept
            if not kept:
                raise ArtefactError(
                    f"{self.root}: all {len(self.broken)} examples of {self.task} {self.split} are broken"
                )

    def __len__(self) -> int:
        """How many there are."""
        return len(self._folders)

    def __getitem__(self, index: int) -> Example:
        """One of them, images by name and hence by time.

        Raises:
            ArtefactError: A file is missing, cannot be read, or does not fit the others.
        """
        return self._read(self._folders[index])

    @property
    def content_sha256(self) -> str:
        """Hash of the names and sizes of all files."""
        listed = [
            [path.relative_to(self.root).as_posix(), path.stat().st_size]
            for folder in self._folders
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        ]
        return content_hash(listed)

    def _read(self, folder: Path) -> Example:
        target, shape = read_target(folder, self.head)
        names = sorted(path for path in (folder / "images").glob("*") if path.is_dir())
        names.sort(key=lambda path: path.name.startswith(ANCHOR))
        if not names:
            raise ArtefactError(f"{folder / 'images'}: no image; expected a folder per date, such as fp03-2020-12")
        images = [read_image(path, shape, self.num_channels) for path in names]
        size = images[0].present.shape
        for path, image in zip(names, images, strict=True):
            if image.present.shape != size:
                raise ArtefactError(f"{path}: {image.present.shape} pixels, expected {size}, as {names[0].name}")
        return Example(folder.name, images, _require_inside(target, size, folder))


def _example_folders(root: Path, task: str, split: str) -> list[Path]:
    path, labels = root / "splits" / f"{task}_{split}.json", root / "labels" / task
    try:
        content = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ArtefactError(f"{path}: no split that can be read ({error}); expected a JSON list") from error
    if not isinstance(content, list) or not content:
        raise ArtefactError(
            f"{path}: holds {type(content).__name__}; expected a list of [column, row] or of folder names"
        )
    wanted = {each if isinstance(each, str) else "_".join(str(part) for part in each) for each in content}
    if not labels.is_dir():
        raise ArtefactError(f"{labels}: no labels there; expected a folder per example")
    found = [
        folder
        for folder in sorted(labels.iterdir())
        if folder.is_dir() and (folder.name in wanted or "_".join(folder.name.split("_")[:2]) in wanted)
    ]
    if not found:
        raise ArtefactError(
            f"{path}: none of its {len(wanted)} examples is in {labels}; unpack labels and splits together"
        )
    return found


def read_image(folder: Path, shape: tuple[int, int] | None, num_channels: int) -> TileImage:
    """The image of one date; bands of fewer pixels are replicated to those of the true-color image.

    Args:
        folder: Holds a PNG per band.
        shape: Rows and columns that it must have; None takes the file's.
        num_channels: 9 or 3.

    Raises:
        ArtefactError: A band is missing, cannot be read, or has another size.
    """
    colors = _read_png(folder / f"{TCI}.png")
    if colors.ndim != 3 or colors.shape[2] < _NUM_COLORS:
        raise ArtefactError(f"{folder / TCI}.png: shape {colors.shape}, expected three colors")
    size = (colors.shape[0], colors.shape[1])
    if shape is not None and size != shape:
        raise ArtefactError(f"{folder / TCI}.png: {size} pixels, expected {shape}, those of the labels")
    channels = [colors[..., band] for band in range(_NUM_COLORS)]
    if num_channels > _NUM_COLORS:
        channels += [_replicated(folder / f"{name}.png", size) for name in OTHER_FILES]
    stacked = np.stack(channels).astype(np.uint8)
    return TileImage(stacked, stacked.any(axis=0))


def _replicated(path: Path, size: tuple[int, int]) -> NDArray[Any]:
    band = _read_png(path)
    rows, columns = band.shape[:2]
    if band.ndim != 2 or size[0] % rows or size[1] % columns or size[0] // rows != size[1] // columns:
        raise ArtefactError(f"{path}: shape {band.shape}, expected one band whose pixels fit {size}")
    factor = size[0] // rows
    return band.repeat(factor, axis=0).repeat(factor, axis=1)


def _read_png(path: Path) -> NDArray[Any]:
    try:
        with Image.open(path) as image:
            return np.asarray(image)
    except FileNotFoundError as error:
        there = ", ".join(sorted(each.name for each in path.parent.glob("*"))) or "nothing"
        raise ArtefactError(f"{path}: missing; the folder has {there}. Download the example again") from error
    except (UnidentifiedImageError, OSError) as error:
        raise ArtefactError(f"{path}: not readable as PNG ({error}); download the example again") from error


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
            return _mask(values, head, folder), (values.shape[0], values.shape[1])
        case RegressionConfig():
            values = _labels_png(folder / "gt.png")
            return ValueTarget(values.astype(np.float32), values > 0), (values.shape[0], values.shape[1])
    raise ValueError(f"no labels of this layout for a head of kind {head.kind}")


def _labels_png(path: Path) -> NDArray[Any]:
    values = _read_png(path)
    if values.ndim != 2:
        raise ArtefactError(f"{path}: shape {values.shape}, expected one number per pixel")
    return values


def _mask(values: NDArray[Any], head: SegmentationConfig, folder: Path) -> MaskTarget:
    number = len(head.categories)
    if head.kind == "segmentation":
        if values.max(initial=0) >= number:
            raise ArtefactError(f"{folder / 'gt.png'}: class {values.max()}, expected 0 to {number - 1}")
        classes = np.stack([values == each for each in range(number)])
    else:
        if values.max(initial=0) >= 2**number:
            raise ArtefactError(f"{folder / 'gt.png'}: value {values.max()}, expected bits of {number} categories")
        classes = np.stack([(values >> each) & 1 for each in range(number)]).astype(np.bool_)
    return MaskTarget(classes.astype(np.uint8), np.ones(values.shape, dtype=np.bool_))


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
    return BoxTarget(boxes, labels, np.zeros(len(boxes), dtype=np.bool_))


def _require_inside(target: Target, size: tuple[int, int], folder: Path) -> Target:
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


def write_dataset_spec(
    root: Path, task: str, split: str, examples: Sequence[Example], head: HeadConfig, names: Sequence[str] | None = None
) -> None:
    """Writes examples in this layout, the split last.

    Args:
        root: Takes ``labels`` and ``splits``.
        task: Folder below ``labels``.
        split: Such as ``train``.
        examples: Of the head's kind; numbers of a regression are rounded, and those that do not count become 0.
        head: Names the categories.
        names: Folders of the examples; by default ``0_0``, ``1_0`` and so on.

    Raises:
        ValueError: A mask of a kind that the layout does not know.
    """
    folders = list(names) if names is not None else [f"{number}_0" for number in range(len(examples))]
    for name, example in zip(folders, examples, strict=True):
        folder = root / "labels" / task / name
        for number, image in enumerate(example.images):
            shown = np.where(image.present, image.channels, 0).astype(np.uint8)
            place = folder / "images" / f"image-{2000 + number // 12:04d}-{number % 12 + 1:02d}"
            _write_png(place / f"{TCI}.png", np.moveaxis(shown[:_NUM_COLORS], 0, -1))
            for band, values in zip(OTHER_FILES, shown[_NUM_COLORS:], strict=False):
                _write_png(place / f"{band}.png", values)
        _write_target(folder, example.target, head)
    write_json(root / "splits" / f"{task}_{split}.json", folders)


def _write_target(folder: Path, target: Target, head: HeadConfig) -> None:
    match target:
        case BoxTarget() if isinstance(head, DetectionConfig):
            rows = [
                [*box.tolist(), head.categories[int(label) - 1]]
                for box, label in zip(target.boxes, target.labels, strict=True)
            ]
            write_json(folder / "gt.json", rows)
        case MaskTarget() if isinstance(head, SegmentationConfig):
            number = len(target.classes)
            if head.kind == "segmentation":
                values = target.classes.argmax(axis=0)
            else:
                bits = np.left_shift(1, np.arange(number)).astype(np.int64)
                values = np.tensordot(bits, target.classes.astype(np.int64), axes=1)
            if np.max(values) > 255:
                raise ValueError(f"{number} categories do not fit the bits of a byte; expected at most 8")
            _write_png(folder / "gt.png", np.asarray(values, dtype=np.uint8))
        case ValueTarget():
            values = np.where(target.valid, np.maximum(np.round(target.values), 1), 0)
            _write_png(folder / "gt.png", values.astype(np.uint8))
        case _:
            raise ValueError(f"{type(target).__name__} does not fit a head of kind {head.kind}")


def _write_png(path: Path, values: NDArray[np.uint8]) -> None:
    with replacing(path) as partial, partial.open("wb") as handle:
        Image.fromarray(values).save(handle, format="PNG")
