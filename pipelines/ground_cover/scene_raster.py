"""A scene on disk as twelve bands on one grid: a GeoTIFF of all bands, or a folder with a file per band."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window

from pipelines.errors import ConfigurationError, SceneContentError
from pipelines.sentinel2 import BANDS, NODATA_DN

_SUFFIXES: Final = (".tif", ".tiff", ".jp2")
_BAND_NAME: Final = re.compile(r"(?<![A-Za-z0-9])(B\d\d|B8A)(?![A-Za-z0-9])")
_SAME_CORNER: Final = 1e-3
"""Corners of the files of a scene agree within this part of a pixel."""


@dataclass(frozen=True)
class _Band:
    dataset: Any
    index: int
    row_at: NDArray[np.intp]
    column_at: NDArray[np.intp]


class SceneRaster:
    """Twelve bands on the grid of the finest, read by rows; coarser bands are repeated, never interpolated.

    Attributes:
        height: Rows.
        width: Columns.
        crs: Coordinate reference system.
        transform: From (column, row) to coordinates.
    """

    def __init__(self, bands: list[tuple[Any, int]], source: str) -> None:
        finest, _ = min(bands, key=lambda each: abs(each[0].transform.a))
        self.height, self.width = finest.shape
        self.crs, self.transform = finest.crs, finest.transform
        for dataset, _ in bands:
            _require_same_extent(dataset, finest, source)
        self._bands = [
            _Band(dataset, index, _nearest(self.height, dataset.height), _nearest(self.width, dataset.width))
            for dataset, index in bands
        ]

    def read_rows(self, rows: NDArray[np.intp]) -> NDArray[np.uint16]:
        """Digital numbers of rows in the order asked for, shape (12, rows, width).

        Raises:
            SceneContentError: A file is damaged.
        """
        out = np.empty((len(self._bands), len(rows), self.width), dtype=np.uint16)
        for position, band in enumerate(self._bands):
            wanted = band.row_at[rows]
            first, last = int(wanted.min()), int(wanted.max())
            try:
                found = band.dataset.read(band.index, window=Window(0, first, band.dataset.width, last - first + 1))
            except RasterioError as error:
                raise SceneContentError("unreadable", f"{band.dataset.name}: {error}; copy the file again") from error
            out[position] = found[wanted - first][:, band.column_at]
        return out


@contextmanager
def open_scene(path: Path) -> Iterator[SceneRaster]:
    """Opens a scene.

    Args:
        path: A GeoTIFF of 12 bands, in S2-100K's order or with their names as descriptions; or a folder that holds one
            file per band, whose name says which.

    Raises:
        ConfigurationError: Nothing there, bands missing, or files that are not of one scene.
    """
    if path.is_dir():
        files = _files_by_band(path)
        chosen = [(files[band], 1) for band in BANDS]
    elif path.is_file():
        chosen = [(path, index) for index in _band_indices(path)]
    else:
        raise ConfigurationError(f"{path}: no such scene; expected a GeoTIFF of 12 bands or a folder with one per band")
    opened: dict[Path, Any] = {}
    try:
        for file, _ in chosen:
            if file not in opened:
                opened[file] = _open(file)
        yield SceneRaster([(opened[file], index) for file, index in chosen], str(path))
    finally:
        for dataset in opened.values():
            dataset.close()


def is_valid(dn: NDArray[np.uint16]) -> NDArray[np.bool_]:
    """Which pixels have a value in every band, shape (rows, columns)."""
    return np.asarray((dn != NODATA_DN).all(axis=0))


def _open(path: Path) -> Any:  # noqa: ANN401
    try:
        return rasterio.open(path)
    except RasterioError as error:
        raise ConfigurationError(f"{path}: no raster that GDAL opens ({error}); name a GeoTIFF") from error


def _files_by_band(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        match = _BAND_NAME.search(path.stem.replace("_", " "))
        if path.suffix.lower() in _SUFFIXES and match is not None:
            if match[1] in found:
                raise ConfigurationError(
                    f"{folder}: {found[match[1]].name} and {path.name} are both {match[1]}; leave one file per band"
                )
            found[match[1]] = path
    missing = [band for band in BANDS if band not in found]
    if missing:
        raise ConfigurationError(
            f"{folder}: no file for bands {', '.join(missing)}; expected one each, such as B02.tif"
        )
    return found


def _band_indices(path: Path) -> list[int]:
    """Numbers of the twelve bands in a file, by their descriptions or their order."""
    with _open(path) as dataset:
        descriptions = [str(each or "") for each in dataset.descriptions]
        count = dataset.count
    names = {match[1]: number for number, text in enumerate(descriptions, 1) if (match := _BAND_NAME.search(text))}
    if all(band in names for band in BANDS):
        return [names[band] for band in BANDS]
    if count != len(BANDS) or names:
        named = f", named {', '.join(descriptions)}" if any(descriptions) else ""
        raise ConfigurationError(
            f"{path}: {count} bands{named}; expected {len(BANDS)} in the order {', '.join(BANDS)}, or these names as "
            "descriptions of the bands"
        )
    return list(range(1, count + 1))


def _nearest(fine: int, coarse: int) -> NDArray[np.intp]:
    """Which coarse cell holds the middle of each fine one."""
    return ((np.arange(fine) * 2 + 1) * coarse // (2 * fine)).astype(np.intp)


def _require_same_extent(dataset: Any, finest: Any, source: str) -> None:  # noqa: ANN401
    tolerance = _SAME_CORNER * abs(finest.transform.a)
    same = np.allclose(dataset.bounds, finest.bounds, rtol=0.0, atol=tolerance)
    if dataset.crs != finest.crs or not same:
        raise ConfigurationError(
            f"{source}: {Path(dataset.name).name} covers {tuple(dataset.bounds)} in {dataset.crs}, but "
            f"{Path(finest.name).name} {tuple(finest.bounds)} in {finest.crs}; expected the bands of one scene"
        )
