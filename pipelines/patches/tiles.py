"""From the bytes of tiles to the pixels of a window.

Deflate, which every Sentinel-2 COG uses, is inflated here: ISA-L, where it is installed, takes half the time of the
decoder in async-tiff, and both it and zlib let other threads run meanwhile and check the stream's checksum.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.patches.ranges import DamagedFileError
from pipelines.patches.tiff_header import TiledImage
from pipelines.patches.windows import FileWindow


def _fastest_zlib() -> Any:  # noqa: ANN401
    try:
        return importlib.import_module("isal.isal_zlib")
    except ImportError:
        return importlib.import_module("zlib")


_zlib = _fastest_zlib()


@dataclass(frozen=True)
class TileAt:
    """A tile by its place: index in the file's tables, row and column of tiles."""

    index: int
    row: int
    col: int


def tiles_of(image: TiledImage, part: FileWindow) -> list[TileAt]:
    """The tiles that hold a window, row after row."""
    rows = range(part.first_row // image.tile_height_px, (part.last_row - 1) // image.tile_height_px + 1)
    cols = range(part.first_col // image.tile_width_px, (part.last_col - 1) // image.tile_width_px + 1)
    return [TileAt(row * image.num_tile_cols + col, row, col) for row in rows for col in cols]


def inflate_into(
    values: NDArray[Any], blocks: Sequence[bytes], tiles: Sequence[TileAt], image: TiledImage, part: FileWindow
) -> None:
    """Inflates tiles and copies what they hold of the window; made for a thread.

    Raises:
        DamagedFileError: a tile is no whole Deflate stream of a tile's size.
    """
    for tile, block in zip(tiles, blocks, strict=True):
        failure = ""
        try:
            content = _zlib.decompress(block, bufsize=image.tile_bytes)
        except _zlib.error as error:
            failure = str(error)
        if failure or len(content) != image.tile_bytes:
            raise DamagedFileError(f"tile {tile.index} cannot be inflated: {failure or 'of another size'}")
        pixels = np.frombuffer(content, image.stored_dtype).reshape(image.tile_height_px, image.tile_width_px, 1)
        paste(values, pixels, tile, image, part)


def paste(values: NDArray[Any], pixels: NDArray[Any], tile: TileAt, image: TiledImage, part: FileWindow) -> None:
    """Copies what a tile holds of the window.

    Raises:
        DamagedFileError: the tile has another shape or type than the file says.
    """
    shape = (image.tile_height_px, image.tile_width_px, 1)
    if pixels.shape != shape or pixels.dtype.newbyteorder("=") != image.dtype:
        raise DamagedFileError(f"a tile of {pixels.shape} {pixels.dtype}, expected {shape} {image.dtype}")
    tile_row, tile_col = tile.row * image.tile_height_px, tile.col * image.tile_width_px
    first_row, first_col = max(part.first_row, tile_row), max(part.first_col, tile_col)
    last_row = min(part.last_row, tile_row + image.tile_height_px)
    last_col = min(part.last_col, tile_col + image.tile_width_px)
    rows, cols = slice(first_row - tile_row, last_row - tile_row), slice(first_col - tile_col, last_col - tile_col)
    target = values[
        first_row - part.first_row : last_row - part.first_row, first_col - part.first_col : last_col - part.first_col
    ]
    if image.is_deflated and image.is_differenced:
        # Horizontal differencing (TIFF 6.0, section 14): sums from the tile's left edge, modulo the type.
        sums = np.cumsum(pixels[rows, : cols.stop, 0], axis=1, dtype=image.dtype)
        target[:] = sums[:, cols]
    else:
        target[:] = pixels[rows, cols, 0]
