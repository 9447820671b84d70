"""What a TIFF's first bytes say, before and after the library has read them.

async-tiff 0.7.2 ends the whole process on a directory that claims more memory than there is, so a damaged file could
kill a worker. `first_directory` walks the directory first (TIFF 6.0, section 2; BigTIFF alike).
"""

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.patches.ranges import DamagedFileError
from pipelines.patches.windows import FileGrid

MAX_HEADER_BYTES = 1_048_576
MAX_TILE_BYTES = 67_108_864
_VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_DEFLATE = (8, 0x80B2)
_NO_PREDICTOR, _DIFFERENCING = 1, 2
_COMPRESSIONS = (1, 5, *_DEFLATE, 50_000)
"""None, LZW, Deflate (new and old code), ZSTD."""
_UTM_NORTH, _UTM_SOUTH = range(32_601, 32_661), range(32_701, 32_761)
_PIXEL_IS_POINT = 2
_KINDS = {1: "u", 2: "i", 3: "f"}


class UnsupportedFileError(Exception):
    """No damage, but nothing that the asynchronous reader reads exactly."""


@dataclass(frozen=True)
class FirstDirectory:
    """Where the first directory of a file and its values end, and where it points to the next one."""

    end: int
    next_offset_at: int
    next_offset_bytes: int

    def alone(self, content: bytes) -> bytes:
        """The file's first bytes without any further directory: overviews are not read."""
        stop = self.next_offset_at + self.next_offset_bytes
        return content[: self.next_offset_at] + bytes(self.next_offset_bytes) + content[stop : self.end]


def first_directory(content: bytes) -> FirstDirectory:
    """Walks the directory of the full-resolution image, as far as ``content`` reaches.

    Where ``end`` is greater than the length of ``content``, ask again with that many bytes.

    Raises:
        UnsupportedFileError: no TIFF, or its directory lies far behind its beginning.
        DamagedFileError: a directory that no file can have.
    """
    order = {b"II": "<", b"MM": ">"}.get(content[:2])
    magic = struct.unpack_from(f"{order}H", content, 2)[0] if order and len(content) >= 16 else 0
    if order is None or magic not in (42, 43):
        raise UnsupportedFileError("no TIFF")
    big = magic == 43
    count_format, entry_format, value_format = ("Q", "HHQ", "Q") if big else ("H", "HHI", "I")
    count_bytes, entry_bytes, value_bytes = (8, 20, 8) if big else (2, 12, 4)
    (offset,) = struct.unpack_from(order + value_format, content, 8 if big else 4)
    first = _bounded(offset + count_bytes)
    if first > len(content):
        return FirstDirectory(first, offset, value_bytes)
    (count,) = struct.unpack_from(order + count_format, content, offset)
    last = first + count * entry_bytes
    end = _bounded(last + value_bytes)
    if end <= len(content):
        for position in range(first, last, entry_bytes):
            _, kind, number = struct.unpack_from(order + entry_format, content, position)
            size = number * _VALUE_BYTES.get(kind, 0)
            if size == 0:
                raise DamagedFileError(f"a tag of type {kind} with {number} values")
            if size > value_bytes:
                (value,) = struct.unpack_from(order + value_format, content, position + entry_bytes - value_bytes)
                end = max(end, _bounded(value + size))
    return FirstDirectory(end, last, value_bytes)


def _bounded(end: int) -> int:
    if end > MAX_HEADER_BYTES:
        raise UnsupportedFileError(f"directories beyond the first {MAX_HEADER_BYTES} bytes")
    return end


@dataclass(frozen=True)
class TiledImage:
    """The full-resolution image of a file, one band in tiles.

    Attributes:
        offsets: Of each tile, row after row.
        sizes: Bytes of each tile; 0 for one that holds nothing but nodata.
        is_deflated: Compressed by Deflate, whole numbers or floats without prediction or whole numbers differenced.
        is_differenced: Each pixel is stored as the difference from its left neighbour.
    """

    grid: FileGrid
    dtype: np.dtype[Any]
    tile_width_px: int
    tile_height_px: int
    offsets: list[int]
    sizes: list[int]
    nodata: float
    is_deflated: bool
    is_differenced: bool
    is_big_endian: bool

    @property
    def num_tile_cols(self) -> int:
        """Tiles in a row of tiles."""
        return -(-self.grid.width_px // self.tile_width_px)

    @property
    def tile_bytes(self) -> int:
        """Bytes of a tile's pixels."""
        return self.tile_width_px * self.tile_height_px * self.dtype.itemsize

    @property
    def stored_dtype(self) -> np.dtype[Any]:
        """The type in the file's byte order."""
        return self.dtype.newbyteorder(">" if self.is_big_endian else "<")

    def blank(self, rows: int, cols: int) -> NDArray[Any]:
        """Pixels of which no tile holds anything."""
        return np.full((rows, cols), self.nodata, dtype=self.dtype)


def tiled_image(directory: Any, *, is_big_endian: bool) -> TiledImage:  # noqa: ANN401
    """The first directory of a file that async-tiff has opened.

    Raises:
        UnsupportedFileError: strips, several bands, another compression, or a grid that is not north-up in UTM.
        DamagedFileError: tile tables that do not fit the size.
    """
    width, height = directory.image_width, directory.image_height
    tile_width, tile_height = directory.tile_width, directory.tile_height
    if not tile_width or not tile_height or directory.tile_offsets is None:
        raise UnsupportedFileError("strips instead of tiles")
    if directory.samples_per_pixel != 1 or int(directory.photometric_interpretation) not in (0, 1):
        raise UnsupportedFileError("more than one band, or a palette")
    if int(directory.compression) not in _COMPRESSIONS:
        raise UnsupportedFileError(f"compression {int(directory.compression)}")
    kind, bits = _KINDS.get(int(directory.sample_format[0])), directory.bits_per_sample[0]
    if kind is None or bits not in (8, 16, 32, 64) or (kind == "f" and bits < 32):
        raise UnsupportedFileError(f"samples of {bits} bits")
    dtype = np.dtype(f"{kind}{bits // 8}")
    predictor = int(directory.predictor or _NO_PREDICTOR)
    offsets, sizes = directory.tile_offsets, directory.tile_byte_counts or []
    num_tiles = -(-width // tile_width) * -(-height // tile_height)
    too_large = tile_width * tile_height * dtype.itemsize > MAX_TILE_BYTES
    if too_large or len(offsets) != num_tiles or len(sizes) != num_tiles:
        raise DamagedFileError(
            f"{len(offsets)} tiles of {tile_width} x {tile_height}, expected {num_tiles} for {width} x {height} pixels"
        )
    nodata = float(directory.gdal_nodata.strip("\x00 ")) if directory.gdal_nodata else 0.0
    if not np.can_cast(np.min_scalar_type(int(nodata) if nodata.is_integer() else nodata), dtype):
        raise UnsupportedFileError(f"nodata {nodata} in {dtype}")
    return TiledImage(
        grid=_file_grid(directory, width, height),
        dtype=dtype,
        tile_width_px=tile_width,
        tile_height_px=tile_height,
        offsets=offsets,
        sizes=sizes,
        nodata=nodata,
        is_deflated=int(directory.compression) in _DEFLATE and predictor in (_NO_PREDICTOR, _DIFFERENCING),
        is_differenced=predictor == _DIFFERENCING,
        is_big_endian=is_big_endian,
    )


def _file_grid(directory: Any, width: int, height: int) -> FileGrid:  # noqa: ANN401
    keys, scale, tie = directory.geo_key_directory, directory.model_pixel_scale, directory.model_tiepoint
    epsg = keys.projected_type if keys is not None else None
    if directory.orientation not in (None, 1) or directory.model_transformation is not None:
        raise UnsupportedFileError("a grid that is not north-up")
    if scale is None or tie is None or len(tie) != 6 or (epsg not in _UTM_NORTH and epsg not in _UTM_SOUTH):
        raise UnsupportedFileError("no grid in UTM")
    x_m, y_m = tie[3] - tie[0] * scale[0], tie[4] + tie[1] * scale[1]
    if keys.raster_type == _PIXEL_IS_POINT:
        x_m, y_m = x_m - scale[0] / 2, y_m + scale[1] / 2
    return FileGrid(epsg, x_m, y_m, scale[0], scale[1], width, height)
