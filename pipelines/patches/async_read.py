"""Windows of tiled GeoTIFFs by asynchronous range reads: all bands of a window, and many windows, at the same time.

Requests are ours (`pipelines.patches.ranges`). Deflate is inflated in our threads, other codecs in those of async-tiff,
which sees only bytes that have arrived whole.
"""

import asyncio
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Self

import numpy as np
from async_tiff import TIFF, DecoderRegistry, ThreadPool
from numpy.typing import NDArray

from pipelines.errors import ConfigurationError, SceneContentError
from pipelines.patches.config import PatchConfig
from pipelines.patches.ranges import DamagedFileError, FileHeader, RangeFile, RangeSettings, RangeSource
from pipelines.patches.read import RasterioReader
from pipelines.patches.tiff_header import FirstDirectory, TiledImage, UnsupportedFileError, first_directory, tiled_image
from pipelines.patches.tiles import TileAt, inflate_into, paste, tiles_of
from pipelines.patches.together import read_together
from pipelines.patches.windows import FileWindow, Grid, PatchReader, PatchWindow, ReadTally
from pipelines.sampling.catalog import Catalog

logger = logging.getLogger(__name__)

JPEG2000_SUFFIXES = (".jp2", ".j2k")


def open_reader(catalog: Catalog, config: PatchConfig) -> PatchReader:
    """The reader that a configuration names."""
    if config.reader == "rasterio":
        return RasterioReader(catalog, config)
    return AsyncReader(catalog, config)


@dataclass
class _Arrived:
    """Bytes at hand, in the form of obspec's asynchronous ranges, through which async-tiff reads."""

    header: bytes
    blocks: dict[int, bytes] = field(default_factory=dict)

    async def get_range_async(
        self, path: str, *, start: int, end: int | None = None, length: int | None = None
    ) -> bytes:
        """Bytes of the header, or one tile."""
        del path
        if start in self.blocks:
            return self.blocks[start]
        stop = end if end is not None else start + (length or 0)
        if start >= len(self.header):
            raise OSError(f"bytes {start} to {stop} were not fetched")
        return self.header[start:stop]

    async def get_ranges_async(
        self, path: str, *, starts: Sequence[int], ends: Sequence[int] | None = None, lengths: object = None
    ) -> list[bytes]:
        """Several tiles."""
        del ends, lengths
        return [await self.get_range_async(path, start=start) for start in starts]


class AsyncReader:
    """Reads windows of tiled GeoTIFFs without waiting for one band before the next.

    A file that the library does not read (JPEG 2000, ``s3://``, strips, grids outside UTM), or whose whole bytes it
    cannot decode in ``max_attempts`` attempts, is left to rasterio, which has the last word on a file's content. With
    ``reader`` set to ``async`` there is no such second reader.

    Args:
        catalog: Resolves and signs addresses.
        config: Bounds and persistence.
    """

    def __init__(self, catalog: Catalog, config: PatchConfig) -> None:
        self._catalog, self._config = catalog, config
        settings = RangeSettings(
            max_attempts=config.max_attempts,
            backoff_s=config.backoff_s,
            max_connections=config.max_connections,
            timeout_s=config.timeout_s,
            header_cache_files=config.header_cache_files,
        )
        self._ranges = RangeSource(catalog.signer, settings)
        self._decoders = DecoderRegistry()
        self._num_threads = config.decode_threads or os.cpu_count() or 1
        self._threads = ThreadPool(self._num_threads)
        self._fallback = RasterioReader(catalog, config) if config.reader == "auto" else None

    async def __aenter__(self) -> Self:
        """Opens the pool of connections."""
        await self._ranges.__aenter__()
        self._inflating = ThreadPoolExecutor(self._num_threads, thread_name_prefix="inflate")
        if self._fallback:
            await self._fallback.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes every connection, ends every thread."""
        await asyncio.to_thread(self._inflating.shutdown, cancel_futures=True)
        if self._fallback:
            await self._fallback.__aexit__(kind, error, trace)
        await self._ranges.__aexit__(kind, error, trace)

    async def read_bands(
        self, hrefs: Mapping[str, str], grid: Grid, window: PatchWindow, tally: ReadTally
    ) -> dict[str, NDArray[Any]]:
        """See `PatchReader.read_bands`."""
        return await read_together({band: self._read_band(hrefs[band], band, grid, window, tally) for band in hrefs})

    async def _read_band(self, href: str, band: str, grid: Grid, window: PatchWindow, tally: ReadTally) -> NDArray[Any]:
        address = self._catalog.absolute_href(href)
        try:
            _refuse_address(address)
            values = await self._read_persistently(href, address, band, grid, window, tally)
        except UnsupportedFileError as error:
            if self._fallback is None:
                raise ConfigurationError(
                    f"{href}: {error}, expected a tiled GeoTIFF in UTM for {band}; set reader to auto or rasterio"
                ) from None
            logger.debug("%s: %s: left to rasterio", href, error)
        except DamagedFileError as error:
            if self._fallback is None:
                raise SceneContentError(
                    f"unreadable:{band}",
                    f"{href}: its bytes arrive, but {self._config.max_attempts} attempts could not decode {band} "
                    f"({error}); the file is truncated or damaged",
                ) from None
            logger.debug("%s: %s: rasterio decides", href, error)
        else:
            tally.num_reads += 1
            return values
        return await self._fallback.read_band(href, band, grid, window, tally)

    async def _read_persistently(
        self, href: str, address: str, band: str, grid: Grid, window: PatchWindow, tally: ReadTally
    ) -> NDArray[Any]:
        for attempt in range(1, self._config.max_attempts + 1):
            file = RangeFile(href, address, band, tally)
            try:
                return await self._read_once(file, grid, window)
            except DamagedFileError as error:
                self._ranges.forget_header(file)
                tally.num_retries += 1
                last = error
            logger.info("%s: attempt %d of %d failed: %s", href, attempt, self._config.max_attempts, last)
            if attempt < self._config.max_attempts:
                await asyncio.sleep(self._ranges.wait_s(attempt))
        raise last

    async def _read_once(self, file: RangeFile, grid: Grid, window: PatchWindow) -> NDArray[Any]:
        content, directory = await self._directory(file)
        with _as_damage("directory"):
            image = tiled_image(directory, content)
        part = FileWindow.of(window, image.grid.factor(file.href, file.band, grid))
        tiles = [tile for tile in tiles_of(image, part) if image.sizes[tile.index]]
        ranges = [image.byte_range(tile.index) for tile in tiles]
        blocks = await self._ranges.read_ranges(file, ranges)
        values = image.blank(part.last_row - part.first_row, part.last_col - part.first_col)
        if image.is_deflated:
            work = partial(_inflate, values, blocks, tiles, image, part, window)
            return await asyncio.get_running_loop().run_in_executor(self._inflating, work)
        if tiles:
            arrived = {start: block for (start, _), block in zip(ranges, blocks, strict=True)}
            with _as_damage("tile"):
                decoded = await self._decode(_Arrived(directory.alone(content), arrived), tiles)
                for tile, pixels in zip(tiles, decoded, strict=True):
                    paste(values, pixels, tile, image, part)
        return part.replicate(values, window)

    async def _decode(self, arrived: _Arrived, tiles: Sequence[TileAt]) -> list[NDArray[Any]]:
        """What the library makes of tiles."""
        tiff = await TIFF.open("file", store=arrived, prefetch=len(arrived.header))
        fetched = await tiff.ifd(0).fetch_tiles([(tile.col, tile.row) for tile in tiles])
        decoded = [each.decode(decoder_registry=self._decoders, pool=self._threads) for each in fetched]
        found = await asyncio.gather(*decoded, return_exceptions=True)
        for each in found:
            if isinstance(each, BaseException):
                raise each
        return [np.asarray(pixels) for pixels in found]

    async def _directory(self, file: RangeFile) -> tuple[bytes, FirstDirectory]:
        """The file's beginning with the whole directory of its full-resolution image."""
        header = await self._ranges.read_header(file)
        file.size_bytes = header.size_bytes
        while (directory := first_directory(header.content)).end > len(header.content):
            known = len(header.content)
            (rest,) = await self._ranges.read_ranges(file, [(known, directory.end - known)])
            header = FileHeader(header.content + rest, file.size_bytes)
            self._ranges.keep_header(file, header)
        return header.content, directory


def _inflate(
    values: NDArray[Any],
    blocks: Sequence[bytes],
    tiles: Sequence[TileAt],
    image: TiledImage,
    part: FileWindow,
    window: PatchWindow,
) -> NDArray[Any]:
    inflate_into(values, blocks, tiles, image, part)
    return part.replicate(values, window)


def _refuse_address(address: str) -> None:
    """Leaves other schemes and JPEG 2000 to the other reader, before any request."""
    if "://" in address and not address.startswith(("http://", "https://", "file://")):
        raise UnsupportedFileError(f"an address of {address.partition('://')[0]}")
    if address.lower().endswith(JPEG2000_SUFFIXES):
        raise UnsupportedFileError("JPEG 2000")


@contextmanager
def _as_damage(what: str) -> Iterator[None]:
    """Turns what the library raises over whole bytes into a statement on them."""
    try:
        yield
    except (UnsupportedFileError, DamagedFileError):
        raise
    except Exception as error:  # noqa: BLE001 - panics of the library arrive as a type that cannot be imported
        damage = DamagedFileError(f"{what} cannot be decoded: {type(error).__name__}: {str(error)[:100]}")
    else:
        return
    raise damage
