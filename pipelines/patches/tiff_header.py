"""What a TIFF's first bytes say of its full-resolution image.

async-tiff 0.7.2 ends the whole process on a directory that claims more memory than there is, so a damaged file could
kill a worker, and takes half a millisecond per file. So the directory is walked here first (TIFF 6.0, sections 2, 8 and
15; BigTIFF alike), and the library sees only files that it must decode.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.patches.ranges import DamagedFileError
from pipelines.patches.windows import FileGrid

MAX_HEADER_BYTES = 1_048_576
MAX_TILE_BYTES = 67_108_864
MAX_OVERHEAD_BYTES = 65_536
_VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_NUMBERS = {1: "u1", 2: "u1", 3: "u2", 4: "u4", 8: "i2", 9: "i4", 11: "f4", 12: "f8", 13: "u4", 16: "u8", 17: "i8"}
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_ORIENTATION, _SAMPLES_PER_PIXEL, _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT = 274, 277, 317, 322, 323
_TILE_OFFSETS, _TILE_SIZES, _SAMPLE_FORMAT = 324, 325, 339
_PIXEL_SCALE, _TIE_POINT, _TRANSFORMATION, _GEO_KEYS, _GDAL_NODATA = 33_550, 33_922, 34_264, 34_735, 42_113
_RASTER_TYPE, _PROJECTED_CRS = 1025, 3072
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
    """The directory of a file's full-resolution image.

    Attributes:
        end: Bytes from the file's start that hold the directory and its values.
        next_offset_at: Where it points to the next directory.
        next_offset_bytes: Size of that pointer.
        order: Byte order as in NumPy's types.
        tags: By tag: type, number of values, position of the first.
    """

    end: int
    next_offset_at: int
    next_offset_bytes: int
    order: str = "<"
    tags: Mapping[int, tuple[int, int, int]] = field(default_factory=dict)

    def alone(self, content: bytes) -> bytes:
        """The file's first bytes without any further directory: overviews are not read."""
        stop = self.next_offset_at + self.next_offset_bytes
        return content[: self.next_offset_at] + bytes(self.next_offset_bytes) + content[stop : self.end]

    def values(self, content: bytes, tag: int) -> NDArray[Any] | None:
        """The numbers of a tag, None where the directory lacks it; text is one number of bytes per letter."""
        kind, number, position = self.tags.get(tag, (0, 0, 0))
        if kind not in _NUMBERS:
            return None
        return np.frombuffer(content, self.order + _NUMBERS[kind], number, position)

    def value(self, content: bytes, tag: int, default: int = 0) -> int:
        """The first number of a tag."""
        values = self.values(content, tag)
        return default if values is None else int(values[0])


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
    tags: dict[int, tuple[int, int, int]] = {}
    if end <= len(content):
        for at in range(first, last, entry_bytes):
            tag, kind, number = struct.unpack_from(order + entry_format, content, at)
            size = number * _VALUE_BYTES.get(kind, 0)
            if size == 0:
                raise DamagedFileError(f"a tag of type {kind} with {number} values")
            position = at + entry_bytes - value_bytes
            if size > value_bytes:
                (position,) = struct.unpack_from(order + value_format, content, position)
                end = max(end, _bounded(position + size))
            tags[tag] = (kind, number, position)
    return FirstDirectory(end, last, value_bytes, order, tags)


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
    offsets: NDArray[Any]
    sizes: NDArray[Any]
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

    def byte_range(self, index: int) -> tuple[int, int]:
        """Offset and length of a tile's bytes.

        Raises:
            DamagedFileError: more bytes than any codec needs for a tile.
        """
        offset, size = int(self.offsets[index]), int(self.sizes[index])
        if size > 2 * self.tile_bytes + MAX_OVERHEAD_BYTES:
            raise DamagedFileError(f"tile {index} of {size} bytes, expected {self.tile_bytes} at most")
        return offset, size

    def blank(self, rows: int, cols: int) -> NDArray[Any]:
        """Pixels of which no tile holds anything."""
        return np.full((rows, cols), self.nodata, dtype=self.dtype)


def tiled_image(directory: FirstDirectory, content: bytes) -> TiledImage:
    """What a directory says of its pixels.

    Args:
        directory: From `first_directory`.
        content: The file's first bytes, ``directory.end`` of them at least.

    Raises:
        UnsupportedFileError: strips, several bands, another compression, or a grid that is not north-up in UTM.
        DamagedFileError: tile tables that do not fit the size.
    """
    read = partial(directory.value, content)
    width, height, tile_width, tile_height = (read(tag) for tag in (_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT))
    offsets, sizes = directory.values(content, _TILE_OFFSETS), directory.values(content, _TILE_SIZES)
    if not tile_width or not tile_height or offsets is None or sizes is None:
        raise UnsupportedFileError("strips instead of tiles")
    if read(_SAMPLES_PER_PIXEL, 1) != 1 or read(_PHOTOMETRIC, 1) not in (0, 1) or read(_FILL_ORDER, 1) != 1:
        raise UnsupportedFileError("more than one band, or a palette")
    compression, predictor = read(_COMPRESSION, 1), read(_PREDICTOR, _NO_PREDICTOR)
    if compression not in _COMPRESSIONS or predictor not in (1, 2, 3):
        raise UnsupportedFileError(f"compression {compression} with predictor {predictor}")
    kind, bits = _KINDS.get(read(_SAMPLE_FORMAT, 1)), read(_BITS, 1)
    if kind is None or bits not in (8, 16, 32, 64) or (kind == "f" and bits < 32):
        raise UnsupportedFileError(f"samples of {bits} bits")
    dtype = np.dtype(f"{kind}{bits // 8}")
    num_tiles = -(-width // tile_width) * -(-height // tile_height)
    too_large = tile_width * tile_height * dtype.itemsize > MAX_TILE_BYTES
    if too_large or not num_tiles or len(offsets) != num_tiles or len(sizes) != num_tiles:
        raise DamagedFileError(
            f"{len(offsets)} tiles of {tile_width} x {tile_height}, expected {num_tiles} for {width} x {height} pixels"
        )
    return TiledImage(
        grid=_file_grid(directory, content, width, height),
        dtype=dtype,
        tile_width_px=tile_width,
        tile_height_px=tile_height,
        offsets=offsets,
        sizes=sizes,
        nodata=_nodata(directory, content, dtype),
        is_deflated=compression in _DEFLATE and predictor in (_NO_PREDICTOR, _DIFFERENCING),
        is_differenced=predictor == _DIFFERENCING,
        is_big_endian=directory.order == ">",
    )


def _nodata(directory: FirstDirectory, content: bytes, dtype: np.dtype[Any]) -> float:
    letters = directory.values(content, _GDAL_NODATA)
    if letters is None:
        return 0.0
    nodata = float(letters.tobytes().strip(b"\x00 "))
    if not np.can_cast(np.min_scalar_type(int(nodata) if nodata.is_integer() else nodata), dtype):
        raise UnsupportedFileError(f"nodata {nodata} in {dtype}")
    return nodata


def _file_grid(directory: FirstDirectory, content: bytes, width: int, height: int) -> FileGrid:
    keys, scale, tie = (directory.values(content, tag) for tag in (_GEO_KEYS, _PIXEL_SCALE, _TIE_POINT))
    if directory.value(content, _ORIENTATION, 1) != 1 or _TRANSFORMATION in directory.tags:
        raise UnsupportedFileError("a grid that is not north-up")
    if keys is None or scale is None or tie is None or len(tie) != 6 or len(scale) < 2:
        raise UnsupportedFileError("no grid in UTM")
    # Four numbers per key (GeoTIFF 1.1, section 7.1): id, location (0: the value itself), count, value.
    entries = {
        int(key): int(value) for key, where, _, value in keys[4 : len(keys) // 4 * 4].reshape(-1, 4) if not where
    }
    epsg = entries.get(_PROJECTED_CRS)
    if epsg not in _UTM_NORTH and epsg not in _UTM_SOUTH:
        raise UnsupportedFileError("no grid in UTM")
    scale_x, scale_y = float(scale[0]), float(scale[1])
    x_m, y_m = float(tie[3]) - float(tie[0]) * scale_x, float(tie[4]) + float(tie[1]) * scale_y
    if entries.get(_RASTER_TYPE) == _PIXEL_IS_POINT:
        x_m, y_m = x_m - scale_x / 2, y_m + scale_y / 2
    return FileGrid(epsg, x_m, y_m, scale_x, scale_y, width, height)
