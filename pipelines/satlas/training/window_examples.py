"""Examples from the windows of a workspace and what is known of their tiles."""

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import ArtefactError
from pipelines.provenance import content_hash, file_sha256
from pipelines.satlas.predictions import TileGrid
from pipelines.satlas.training.examples import Example, Target, ValueTarget
from pipelines.satlas.training.known_objects import BOX_SIZE_PX, read_known_objects, standing, target_of
from pipelines.satlas.windows import Windows, list_windows, read_windows, read_windows_record, windows_sha256
from satclip_model.satlas.config import DetectionConfig, HeadConfig, RegressionConfig, SegmentationConfig

if TYPE_CHECKING:
    import geopandas

logger = logging.getLogger(__name__)

_MAX_BYTES: Final = 3 << 30
_LABEL_RANGE: Final = 255.0


@dataclass(frozen=True)
class RasterLabels:
    """A number per pixel of some tiles: GeoTIFFs ``FOLDER/YYYY-MM/TILE.tif`` on the tiles' grids.

    Attributes:
        folder: Where they lie.
    """

    folder: Path

    def target(self, windows: Windows) -> ValueTarget:
        """The numbers of a tile in 0 to 255; nodata does not count.

        Raises:
            ArtefactError: There is no such file, or it lies on another grid or holds other numbers.
        """
        import rasterio
        from rasterio.errors import RasterioError

        path = self.folder / windows.month / f"{windows.tile}.tif"
        try:
            with rasterio.open(path) as source:
                values = source.read(1, masked=True)
                found = TileGrid(
                    source.crs.to_epsg() if source.crs else 0, source.transform.c, source.transform.f,
                    source.transform.a, source.height, source.width,
                )  # fmt: skip
        except RasterioError as error:
            raise ArtefactError(f"{path}: no labels that can be read ({error}); expected a GeoTIFF per tile") from error
        if found != windows.grid:
            raise ArtefactError(f"{path}: lies on {found}, but the tile on {windows.grid}; warp the labels to it")
        valid = ~np.ma.getmaskarray(values)
        numbers = np.where(valid, values.filled(0), 0).astype(np.float32)
        if not np.isfinite(numbers).all() or numbers.min() < 0 or numbers.max() > _LABEL_RANGE:
            raise ArtefactError(f"{path}: values from {numbers.min()} to {numbers.max()}; expected 0 to 255")
        return ValueTarget(numbers, valid)


class WindowExamples:
    """Windows of some tiles and months, with targets from known objects or from rasters.

    Tiles are learned from without their margins, which are other tiles. Those read last are kept, up to 3 GiB.

    Args:
        folders: Of finished windows with at least one image.
        labels: Known objects of the head's categories, see `read_known_objects`; or rasters, for numbers.
        head: What is to be predicted.
        box_size_px: Side of the box around a point.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        labels: "geopandas.GeoDataFrame | RasterLabels",
        head: HeadConfig,
        box_size_px: int = BOX_SIZE_PX,
    ) -> None:
        self.folders = tuple(folders)
        self._labels, self._head, self._box_size_px = labels, head, box_size_px
        self._kept: OrderedDict[int, Example] = OrderedDict()
        self._num_bytes = 0

    def __len__(self) -> int:
        """How many there are."""
        return len(self.folders)

    def __getitem__(self, index: int) -> Example:
        """One of them.

        Raises:
            ArtefactError: A file of the window or of the labels is missing or damaged.
        """
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        windows = read_windows(self.folders[index]).without_margin()
        example = Example(f"{windows.tile} {windows.month}", windows.images, self._target(windows))
        self._kept[index] = example
        self._num_bytes += _num_bytes(example)
        while self._num_bytes > _MAX_BYTES and len(self._kept) > 1:
            self._num_bytes -= _num_bytes(self._kept.popitem(last=False)[1])
        return example

    @property
    def content_sha256(self) -> str:
        """Hash of the images and tiles."""
        return content_hash([windows_sha256(read_windows_record(folder)) for folder in self.folders])

    def _target(self, windows: Windows) -> Target:
        if isinstance(self._labels, RasterLabels):
            return self._labels.target(windows)
        shown: NDArray[np.int8] = standing(self._labels, windows.shown)
        return target_of(self._labels, shown, windows.grid, self._head, self._box_size_px)


def open_window_examples(
    root: Path, months: Sequence[str], labels: Path, head: HeadConfig, validation_share: float, seed: int = 0
) -> tuple[WindowExamples, WindowExamples, dict[str, object]]:
    """Windows of some months, whole tiles of them kept for validation, and what they are made of.

    Args:
        root: The workspace.
        months: ``YYYY-MM``.
        labels: A file of known objects, or of a regression a folder of `RasterLabels`.
        head: What is to be predicted.
        validation_share: Share of the tiles, each with all its months.
        seed: Decides which tiles.

    Raises:
        ArtefactError: There are no windows with an image, or the labels cannot be read or are of another kind.
    """
    known: geopandas.GeoDataFrame | RasterLabels
    if isinstance(head, RegressionConfig):
        if not labels.is_dir():
            raise ArtefactError(f"{labels}: no folder; expected YYYY-MM/TILE.tif with a number from 0 to 255 per pixel")
        known, described = RasterLabels(labels), content_hash(_files(labels))
    elif isinstance(head, DetectionConfig | SegmentationConfig):
        known, described = read_known_objects(labels, head.categories), file_sha256(labels)
    else:
        raise ArtefactError(f"a head of kind {head.kind} cannot be trained on windows")
    folders = [folder for month in months for folder in list_windows(root, month) if _has_image(folder)]
    if not folders:
        raise ArtefactError(f"{root}: no windows with an image of {', '.join(months)}; run satclip satlas windows")
    held_out = [is_validation_tile(folder.name, validation_share, seed) for folder in folders]
    training, validation = (
        WindowExamples([folder for folder, out in zip(folders, held_out, strict=True) if out == wanted], known, head)
        for wanted in (False, True)
    )
    logger.info("satlas examples: %d to train on, %d to validate on", len(training), len(validation))
    parents = {
        "training_sha256": training.content_sha256,
        "validation_sha256": validation.content_sha256,
        "labels_sha256": described,
        "months": list(months),
        "validation_share": validation_share,
        "split_seed": seed,
    }
    return training, validation, parents


def is_validation_tile(tile: str, share: float, seed: int) -> bool:
    """Whether a tile is kept for validation, by its name and the seed alone."""
    digest = hashlib.sha256(f"{seed}:{tile}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64 < share


def _has_image(folder: Path) -> bool:
    return any("file" in entry for entry in read_windows_record(folder)["periods"])


def _files(folder: Path) -> list[list[str]]:
    paths = sorted(path for path in folder.rglob("*.tif") if path.is_file())
    return [[str(path.relative_to(folder)), file_sha256(path)] for path in paths]


def _num_bytes(example: Example) -> int:
    return sum(image.channels.nbytes + image.present.nbytes for image in example.images)
