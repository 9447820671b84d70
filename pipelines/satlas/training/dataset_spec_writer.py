"""Examples as the folder layout of published Satlas training data, which `DatasetSpecFolder` reads back."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.atomic import replacing, write_json
from pipelines.errors import ArtefactError
from pipelines.satlas.training.dataset_spec_example import DIFFICULT_FILE, NUM_COLORS, OTHER_FILES, TCI, VALID_FILE
from pipelines.satlas.training.examples import BoxTarget, Example, MaskTarget, Target, ValueTarget
from satclip_model.satlas.config import DetectionConfig, HeadConfig, SegmentationConfig


def write_dataset_spec(
    root: Path, task: str, split: str, examples: Sequence[Example], head: HeadConfig, names: Sequence[str] | None = None
) -> None:
    """Writes examples in this layout, the split last.

    Examples have no dates: months in the names of images only number them.

    Args:
        root: Takes ``labels`` and ``splits``.
        task: Folder below ``labels``.
        split: Such as ``train``.
        examples: Of the head's kind; numbers of a regression are rounded to 1 to 255,
            and those that do not count become 0.
        head: Names the categories.
        names: Folders of the examples; by default ``0_0``, ``1_0`` and so on. Splits of a task need names of their own.

    Raises:
        ArtefactError: A folder is already there; nothing is written then.
        ValueError: A target of a kind that the layout does not know, or names that are too few or twice there.
    """
    folders = list(names) if names is not None else [f"{number}_0" for number in range(len(examples))]
    if len(set(folders)) != len(examples) or len(folders) != len(examples):
        raise ValueError(f"{len(set(folders))} different names for {len(examples)} examples; expected one for each")
    there = [name for name in folders if (root / "labels" / task / name).exists()]
    if there:
        raise ArtefactError(
            f"{root / 'labels' / task / there[0]}: already there, of this or another split, as {len(there)} of the "
            f"{len(folders)}; give other names, or remove what an interrupted export left"
        )
    for name, example in zip(folders, examples, strict=True):
        folder = root / "labels" / task / name
        for number, image in enumerate(example.images):
            shown = np.where(image.present, image.channels, 0).astype(np.uint8)
            place = folder / "images" / f"image-{2000 + number // 12:04d}-{number % 12 + 1:02d}"
            _write_png(place / f"{TCI}.png", np.moveaxis(shown[:NUM_COLORS], 0, -1))
            for band, values in zip(OTHER_FILES, shown[NUM_COLORS:], strict=False):
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
            if target.is_difficult.any():
                write_json(folder / DIFFICULT_FILE, np.flatnonzero(target.is_difficult).tolist())
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
            if not target.valid.all():
                _write_png(folder / VALID_FILE, target.valid.astype(np.uint8) * np.uint8(255))
        case ValueTarget():
            values = np.where(target.valid, np.clip(np.round(target.values), 1, 255), 0)
            _write_png(folder / "gt.png", values.astype(np.uint8))
        case _:
            raise ValueError(f"{type(target).__name__} does not fit a head of kind {head.kind}")


def _write_png(path: Path, values: NDArray[np.uint8]) -> None:
    with replacing(path) as partial, partial.open("wb") as handle:
        Image.fromarray(values).save(handle, format="PNG")
