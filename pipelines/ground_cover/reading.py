"""A patch's classes from the files of a land-cover map, on the patch's own grid, nearest neighbour."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import SceneContentError
from pipelines.ground_cover.classes import MAX_CODE, NODATA, UNKNOWN, LandCoverClasses
from pipelines.ground_cover.grids import PatchGrid, pixels_at
from pipelines.ground_cover.map_items import MapItem
from pipelines.patches.file_reader import FileReader

MAP_ASSET: Final = "map"
"""Name of the map's file in messages and verdicts."""


@dataclass(frozen=True)
class MapPixels:
    """Pixels of one file on a patch's grid.

    Attributes:
        codes: Values of the file, (size_px, size_px); 0 where it has none.
        covered: Where the file has a value that is not its nodata value.
    """

    codes: NDArray[np.uint16]
    covered: NDArray[np.bool_]


@dataclass(frozen=True)
class _OnGrid:
    """Reads the pixels of an open file at the middles of a grid's pixels."""

    grid: PatchGrid
    href: str

    @property
    def told(self) -> str:
        return f"the pixels of a patch of {self.grid.size_px} px"

    def pixels(self, source: Any) -> tuple[range, range]:  # noqa: ANN401
        return pixels_at(self.grid, source).window

    def read(self, source: Any) -> MapPixels:  # noqa: ANN401
        at = pixels_at(self.grid, source)
        rows, cols = at.window
        codes = np.zeros((self.grid.size_px,) * 2, dtype=np.uint16)
        if not len(rows):
            return MapPixels(codes, at.inside)
        values = _window(source, rows, cols)
        if values.dtype.kind not in "iu":
            raise SceneContentError(
                f"wrong_type:{MAP_ASSET}", f"{self.href}: the map holds {values.dtype}, expected whole numbers"
            )
        found = values[at.rows[at.inside] - rows.start, at.cols[at.inside] - cols.start].astype(np.int64)
        covered = at.inside.copy()
        nodata = source.nodata
        covered[at.inside] = (found >= 0) & ((found != nodata) if nodata is not None else True)
        if found[covered[at.inside]].max(initial=0) > MAX_CODE:
            raise SceneContentError(
                f"wrong_type:{MAP_ASSET}", f"{self.href}: codes up to {found.max()}, expected at most {MAX_CODE}"
            )
        codes[covered] = found[covered[at.inside]]
        return MapPixels(codes, covered)


def _window(source: Any, rows: range, cols: range) -> NDArray[Any]:  # noqa: ANN401
    import rioxarray
    import xarray as xr

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of attributes that the map's publisher wrote
        raster = rioxarray.open_rasterio(source, cache=False, lock=False, parse_coordinates=False)
        assert isinstance(raster, xr.DataArray)
        window = raster.isel(band=0, y=slice(rows.start, rows.stop), x=slice(cols.start, cols.stop))
        return np.asarray(window.values)


@dataclass(frozen=True)
class ClassMap:
    """The classes of a patch's pixels, of one or several files of one year.

    Attributes:
        codes: Values of the map, (size_px, size_px); the classes' first nodata code where there is none.
        positions: Positions among the classes; ``NODATA`` or ``UNKNOWN`` where there is none.
        item_ids: Items that gave a pixel, in their order.
        failures: Verdicts on files, by item.
    """

    codes: NDArray[np.uint16]
    positions: NDArray[np.int16]
    item_ids: tuple[str, ...]
    failures: dict[str, str] = field(default_factory=dict)

    def counts(self, num_classes: int) -> NDArray[np.int64]:
        """Pixels of each class, (C,)."""
        return np.bincount(self.positions[self.positions >= 0], minlength=num_classes).astype(np.int64)

    @property
    def unknown_codes(self) -> dict[int, int]:
        """Pixels of codes that the classes do not name, by code."""
        codes, counts = np.unique(self.codes[self.positions == UNKNOWN], return_counts=True)
        return dict(zip(codes.tolist(), counts.tolist(), strict=True))


def read_class_map(
    reader: FileReader, grid: PatchGrid, items: Sequence[MapItem], classes: LandCoverClasses
) -> ClassMap:
    """The classes at the middles of a patch's pixels; where files overlap, the first that has a class there.

    A file that is missing or damaged leaves its pixels to the others, and is named among the failures.

    Raises:
        SceneReadError: a file cannot be read now.
    """
    table = classes.positions()
    codes = np.full((grid.size_px,) * 2, classes.nodata_code, dtype=np.uint16)
    positions = np.full(codes.shape, NODATA, dtype=np.int16)
    used, failures = [], {}
    for item in items:
        empty = positions == NODATA
        if not empty.any():
            break
        try:
            read = reader.read_file(item.href, MAP_ASSET, _OnGrid(grid, item.href))
        except SceneContentError as error:
            failures[item.item_id] = error.reason
            continue
        new = empty & read.covered
        codes[new], positions[new] = read.codes[new], table[read.codes[new]]
        if new.any():
            used.append(item.item_id)
    return ClassMap(codes, positions, tuple(used), failures)
