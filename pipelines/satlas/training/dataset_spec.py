"""The folder layout of published Satlas training data, as examples.

    labels/TASK/COL_ROW/gt.png or gt.json
    labels/TASK/COL_ROW/images/NAME-YYYY-MM/{tci,b05,b06,b07,b08,b11,b12}.png
    splits/TASK_train.json, splits/TASK_val.json

``valid.png`` and ``difficult.json`` beside the labels are ours, for what an example says beyond the layout
(`pipelines.satlas.training.dataset_spec_writer`); the original passes over them.

Source: allenai/satlas, DatasetSpec.md and satlas/model/dataset.py.
"""

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pipelines.errors import ArtefactError
from pipelines.provenance import content_hash
from pipelines.satlas.training.dataset_spec_example import read_image, read_target, require_inside
from pipelines.satlas.training.examples import Example
from satclip_model.satlas.config import HeadConfig

logger = logging.getLogger(__name__)

ANCHOR: Final = "anchor_"
"""Beginning of the name of an image that always belongs to a sample, as its last one."""
_NUM_NAMED: Final = 5


@dataclass
class DatasetSpecFolder:
    """Examples of a task and split.

    A pixel that is black in all channels has no value; labels of 0 in a regression count for nothing. As in the
    original, a split may name tiles without labels of the task, and an example may have fewer images than the model
    takes; both are logged, and kept in ``unlabeled`` and ``short``.

    Attributes:
        root: Holds ``labels`` and ``splits``.
        task: Folder below ``labels``.
        split: ``train`` or ``val``; the file is ``splits/TASK_SPLIT.json``.
        head: What is to be predicted; its categories are those of the labels, in order.
        num_channels: 9, or 3 for the true-color image alone.
        num_images: Images that the model takes; None asks for one.
        skip_broken: Whether broken examples are left out, and said, instead of ending the reading.
        broken: Examples left out, and why.
        unlabeled: What the split names and ``labels`` lacks.
        short: Images of examples that have fewer than the model takes, by name.
    """

    root: Path
    task: str
    split: str
    head: HeadConfig
    num_channels: int = 9
    num_images: int | None = None
    skip_broken: bool = False
    broken: dict[str, str] = field(default_factory=dict)
    unlabeled: list[str] = field(default_factory=list)
    short: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Finds the examples.

        Raises:
            ArtefactError: The split or the labels are not there, or the split names none of them.
        """
        self._folders, self.unlabeled = _example_folders(self.root, self.task, self.split)
        if self.unlabeled:
            logger.warning(
                "%s %s: %d of its examples have no labels, among them %s",
                self.task, self.split, len(self.unlabeled), ", ".join(self.unlabeled[:_NUM_NAMED]),
            )  # fmt: skip
        if self.skip_broken:
            self._leave_out_broken()
        counts = {folder.name: len(_image_folders(folder)) for folder in self._folders}
        self.short = {name: number for name, number in counts.items() if number < (self.num_images or 1)}
        if self.short:
            named = ", ".join(f"{name} ({number})" for name, number in list(self.short.items())[:_NUM_NAMED])
            logger.warning(
                "%s %s: %d examples have fewer than %s images, among them %s; what lacks counts as no image",
                self.task, self.split, len(self.short), self.num_images or 1, named,
            )  # fmt: skip

    def _leave_out_broken(self) -> None:
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
            first = next(iter(self.broken.values()))
            raise ArtefactError(
                f"{self.root}: all {len(self.broken)} examples of {self.task} {self.split} are broken; first: {first}"
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
        names = _image_folders(folder)
        if not names:
            raise ArtefactError(f"{folder / 'images'}: no image; expected a folder per date, such as fp03-2020-12")
        images = [read_image(path, shape, self.num_channels) for path in names]
        size = images[0].present.shape
        for path, image in zip(names, images, strict=True):
            if image.present.shape != size:
                raise ArtefactError(f"{path}: {image.present.shape} pixels, expected {size}, as {names[0].name}")
        return Example(folder.name, images, require_inside(target, size, folder))


def _image_folders(folder: Path) -> list[Path]:
    names = sorted(path for path in (folder / "images").glob("*") if path.is_dir())
    return sorted(names, key=lambda path: path.name.startswith(ANCHOR))


def _example_folders(root: Path, task: str, split: str) -> tuple[list[Path], list[str]]:
    """Folders of the split's examples, and names of those that are not there."""
    path, labels = root / "splits" / f"{task}_{split}.json", root / "labels" / task
    wanted = _split_names(path)
    if not labels.is_dir():
        raise ArtefactError(f"{labels}: no labels there; expected a folder per example")
    found = {
        folder: {folder.name, "_".join(folder.name.split("_")[:2])} & wanted
        for folder in sorted(labels.iterdir())
        if folder.is_dir()
    }
    folders = [folder for folder, names in found.items() if names]
    if not folders:
        raise ArtefactError(
            f"{path}: none of its {len(wanted)} examples is in {labels}; unpack labels and splits together"
        )
    return folders, sorted(wanted.difference(*found.values()))


def _split_names(path: Path) -> set[str]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{path}: no split that can be read ({error}); expected a JSON list") from error
    expected = "expected a list of [column, row] or of folder names"
    if not isinstance(content, list) or not content:
        found = "an empty list" if content == [] else type(content).__name__
        raise ArtefactError(f"{path}: holds {found}; {expected}")
    for number, each in enumerate(content):
        if not isinstance(each, str | list) or not each:
            raise ArtefactError(f"{path}: entry {number} is {each!r}; {expected}")
    return {each if isinstance(each, str) else "_".join(str(part) for part in each) for each in content}
