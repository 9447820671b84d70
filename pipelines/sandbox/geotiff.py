"""Cloud-optimised GeoTIFFs that do not exist: header by arithmetic, pixels by rendering the tiles a range touches."""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

TIFF_TILE_SIZE: Final = 256
MIN_OVERVIEW_SIZE: Final = 512
DATA_ALIGNMENT: Final = 65_536
"""Pixels begin at a multiple of this, so that fetching the head of the file in one go renders no tile."""
_SHORT, _LONG, _DOUBLE, _ASCII = 3, 4, 12, 2
_FORMATS: Final = {_SHORT: "H", _LONG: "I", _DOUBLE: "d", _ASCII: "B"}
_GHOST_CONTENT: Final = b"LAYOUT=IFDS_BEFORE_DATA\nBLOCK_ORDER=ROW_MAJOR\nKNOWN_INCOMPATIBLE_EDITION=NO\n "
"""GDAL's declaration of a COG's layout; the trailing blank leaves room for YES."""
_GHOST: Final = b"GDAL_STRUCTURAL_METADATA_SIZE=%06d bytes\n" % len(_GHOST_CONTENT) + _GHOST_CONTENT


@dataclass(frozen=True)
class Level:
    """One resolution of the image: 0 is the full one.

    Attributes:
        factor: Full-resolution pixels per pixel: 1, 2, 4, ...
        width: Pixels per side; images are square.
        data_offset: Position of the first tile's bytes in the file.
    """

    factor: int
    width: int
    data_offset: int

    @property
    def tiles_across(self) -> int:
        """Tiles per row and per column."""
        return -(-self.width // TIFF_TILE_SIZE)

    @property
    def num_tiles(self) -> int:
        """Tiles of the level."""
        return self.tiles_across**2


TileRenderer = Callable[[Level, int, int], bytes]
"""Renders the tile at (level, tile row, tile column) as the bytes of the file."""


@dataclass(frozen=True)
class GeoTiffLayout:
    """Structure of one virtual file: classic TIFF, 256-pixel tiles, uncompressed, overviews by halves.

    Directories come first, the full image's before those of the overviews; pixels follow, smallest overview first.

    Attributes:
        width: Pixels per side.
        resolution_m: Pixel size.
        dtype: ``uint8`` or ``uint16``.
        num_samples: 1, or 3 for an RGB image.
        epsg: Code of the projected reference system.
        x_ul_m: Easting of the upper left corner.
        y_ul_m: Northing of the same.
    """

    width: int
    resolution_m: float
    dtype: str
    num_samples: int
    epsg: int
    x_ul_m: float
    y_ul_m: float

    @property
    def tile_bytes(self) -> int:
        """Size of every tile, also of those cut by the edge."""
        return TIFF_TILE_SIZE**2 * self.num_samples * np.dtype(self.dtype).itemsize

    @cached_property
    def _factors_and_widths(self) -> list[tuple[int, int]]:
        sizes = [(1, self.width)]
        while sizes[-1][1] > MIN_OVERVIEW_SIZE:
            factor = sizes[-1][0] * 2
            sizes.append((factor, -(-self.width // factor)))
        return sizes

    @cached_property
    def levels(self) -> list[Level]:
        """The full image and its overviews, largest first, each with the position of its pixels."""
        position = self.header_size
        found = []
        for factor, width in reversed(self._factors_and_widths):
            level = Level(factor, width, position)
            position += level.num_tiles * self.tile_bytes
            found.append(level)
        return found[::-1]

    @property
    def size(self) -> int:
        """Length of the file in bytes."""
        full = self.levels[0]
        return full.data_offset + full.num_tiles * self.tile_bytes

    @cached_property
    def header_size(self) -> int:
        """Bytes before the first pixel."""
        used = len(self._build_header([Level(f, w, 0) for f, w in self._factors_and_widths]))
        return -(-used // DATA_ALIGNMENT) * DATA_ALIGNMENT

    @cached_property
    def header(self) -> bytes:
        """Everything before the first pixel."""
        return self._build_header(self.levels).ljust(self.header_size, b"\0")

    def _build_header(self, levels: list[Level]) -> bytes:
        start = 8 + len(_GHOST) + len(_GHOST) % 2
        parts = [struct.pack("<2sHI", b"II", 42, start), _GHOST, b"\0" * (len(_GHOST) % 2)]
        for index, level in enumerate(levels):
            block = self._directory(level, start, is_last=index == len(levels) - 1)
            parts.append(block)
            start += len(block)
        return b"".join(parts)

    def _directory(self, level: Level, start: int, *, is_last: bool) -> bytes:
        size = self.tile_bytes
        offsets = list(range(level.data_offset, level.data_offset + level.num_tiles * size, size))
        bits = np.dtype(self.dtype).itemsize * 8
        entries: list[tuple[int, int, list[int] | list[float]]] = [
            (256, _LONG, [level.width]),
            (257, _LONG, [level.width]),
            (258, _SHORT, [bits] * self.num_samples),
            (259, _SHORT, [1]),
            (262, _SHORT, [2 if self.num_samples == 3 else 1]),
            (277, _SHORT, [self.num_samples]),
            (284, _SHORT, [1]),
            (322, _SHORT, [TIFF_TILE_SIZE]),
            (323, _SHORT, [TIFF_TILE_SIZE]),
            (324, _LONG, offsets),
            (325, _LONG, [size] * level.num_tiles),
            (339, _SHORT, [1] * self.num_samples),
        ]
        if level.factor == 1:
            entries += [
                (33550, _DOUBLE, [self.resolution_m, self.resolution_m, 0.0]),
                (33922, _DOUBLE, [0.0, 0.0, 0.0, self.x_ul_m, self.y_ul_m, 0.0]),
                (34735, _SHORT, [1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, self.epsg]),
            ]
        else:
            entries.insert(0, (254, _LONG, [1]))
        entries.append((42113, _ASCII, list(b"0\0")))
        body, values = [struct.pack("<H", len(entries))], b""
        values_start = start + 2 + 12 * len(entries) + 4
        for tag, kind, numbers in entries:
            packed = struct.pack(f"<{len(numbers)}{_FORMATS[kind]}", *numbers)
            if len(packed) <= 4:
                field = packed.ljust(4, b"\0")
            else:
                field = struct.pack("<I", values_start + len(values))
                values += packed + b"\0" * (len(packed) % 2)
            body.append(struct.pack("<HHI", tag, kind, len(numbers)) + field)
        body.append(struct.pack("<I", 0 if is_last else values_start + len(values)))
        return b"".join(body) + values

    def read_range(self, start: int, stop: int, render: TileRenderer) -> Iterator[bytes]:
        """Bytes ``start`` (inclusive) to ``stop`` (exclusive) of the file, in pieces of at most one tile.

        Raises:
            ValueError: The range is empty or reaches beyond the file.
        """
        if not 0 <= start < stop <= self.size:
            raise ValueError(f"bytes {start} to {stop} of a file of {self.size} bytes")
        if start < self.header_size:
            yield self.header[start:stop]
        for level in reversed(self.levels):
            level_stop = level.data_offset + level.num_tiles * self.tile_bytes
            first, last = max(start, level.data_offset), min(stop, level_stop)
            while first < last:
                index, skip = divmod(first - level.data_offset, self.tile_bytes)
                piece = min(last - first, self.tile_bytes - skip)
                tile = render(level, index // level.tiles_across, index % level.tiles_across)
                yield tile if piece == self.tile_bytes else tile[skip : skip + piece]
                first += piece
