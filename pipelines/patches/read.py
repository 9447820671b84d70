"""Exact windows of a scene's files through GDAL: the second backend, and the one for JPEG 2000 and object stores.

A failed read is either a verdict on the file (it is not there, or its bytes arrive and cannot be decoded) or a fault of
the moment (network, throttling, token). Only a verdict may send a place to its next candidate.
"""

import asyncio
import logging
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import rasterio
import requests
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window

from pipelines.errors import SceneContentError, SceneReadError
from pipelines.patches.config import PatchConfig
from pipelines.patches.sparse_copy import NotArrivedError, SparseCopy
from pipelines.patches.together import read_together
from pipelines.patches.windows import FileGrid, FileWindow, Grid, PatchWindow, ReadTally
from pipelines.redaction import redact_logs, redacted
from pipelines.sampling.catalog import Catalog

logger = logging.getLogger(__name__)

GDAL_SETTINGS: dict[str, Any] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_INGESTED_BYTES_AT_OPEN": 32_768,
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": True,
    "GDAL_HTTP_TIMEOUT": 60,
    "GDAL_HTTP_CONNECTTIMEOUT": 10,
    "GDAL_CACHEMAX": 64,
    "VSI_CACHE": False,
    "CPL_VSIL_CURL_CACHE_SIZE": 16_777_216,
    "CPL_VSIL_CURL_NON_CACHED": "/vsicurl/",
}
"""Few requests per window, which benchmarks/patches.py counts, and no memory of failures."""

GONE_STATUS = (404, 410)
DENIED_STATUS = (401, 403)
PROBE_TIMEOUT_S = 20
FIRST_BYTES = 1 << 20


@dataclass
class WindowReader:
    """Reads windows through GDAL's range reads, signing each address just before it is used.

    Attributes:
        catalog: Resolves and signs addresses.
        max_attempts: Attempts at one file.
        backoff_s: Wait after the first failed attempt; doubles each time.
        tally: What all reads took so far.
        stopping: Once set, no further attempt is begun.
    """

    catalog: Catalog
    max_attempts: int = 5
    backoff_s: float = 0.5
    tally: ReadTally = field(default_factory=ReadTally)
    stopping: threading.Event = field(default_factory=threading.Event, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        redact_logs()

    def read_band(
        self, href: str, band: str, grid: Grid, window: PatchWindow, tally: ReadTally | None = None
    ) -> NDArray[Any]:
        """One band in the window, replicated to the 10 m grid where it is coarser.

        Args:
            href: Address relative to the catalog.
            band: Name for messages.
            grid: The scene's 10 m grid; the file must share its corner and cover it.
            window: Which pixels.
            tally: Grows with the reader's own.

        Returns:
            Values as delivered, shape (size_px, size_px).

        Raises:
            SceneContentError: missing_file, unreadable or grid_mismatch.
            SceneReadError: the file cannot be read now.
        """
        renewed = False
        faults = 0
        last = ""
        attempt = 0
        while attempt < self.max_attempts:
            attempt += 1
            try:
                values = self._read_once(href, band, grid, window)
            except RasterioError as error:
                status = self._probe(href)
                self._count(tally, ReadTally(num_retries=1))
                if status in GONE_STATUS:
                    raise SceneContentError(
                        f"missing_file:{band}", f"{href}: the server says {status}, expected the file of {band}"
                    ) from None
                if status in DENIED_STATUS:
                    if renewed:
                        raise SceneReadError(
                            f"{href}: access denied ({status}) with a fresh token, expected to read {band}; "
                            "check the signing setting and the subscription key"
                        ) from None
                    renewed = True
                    self.catalog.signer.renew()
                    attempt -= 1
                    continue
                faults += status not in (200, 206)
                last = f"server status {status}" if status else "no answer from the server"
                logger.info(
                    "%s: attempt %d of %d failed: %s (%s)", href, attempt, self.max_attempts, last, redacted(error)
                )
                if attempt < self.max_attempts and self.stopping.wait(self.backoff_s * 2 ** (attempt - 1)):
                    raise SceneReadError(f"{href}: reading {band} was broken off, expected another attempt") from None
            else:
                self._count(tally, ReadTally(num_reads=1))
                return values
        if not faults:
            try:
                values = self._read_proven(href, band, grid, window)
            except NotArrivedError as error:
                last = str(error)
            else:
                self._count(tally, ReadTally(num_reads=1))
                return values
        raise SceneReadError(
            f"{href}: {band} could not be read in {self.max_attempts} attempts ({last}), expected a window of "
            f"{window.size_px} px; run again when the server is well: finished shards are kept"
        )

    def _count(self, tally: ReadTally | None, more: ReadTally) -> None:
        with self._lock:
            self.tally.add(more)
            if tally is not None:
                tally.add(more)

    def _read_once(self, href: str, band: str, grid: Grid, window: PatchWindow) -> NDArray[Any]:
        return self._read_file(self.catalog.absolute_href(href), href, band, grid, window)

    def _read_file(self, address: str, href: str, band: str, grid: Grid, window: PatchWindow) -> NDArray[Any]:
        with self._open(address) as source:
            part = FileWindow.of(window, _file_grid(source).factor(href, band, grid))
            rows, cols = part.last_row - part.first_row, part.last_col - part.first_col
            values = source.read(1, window=Window(part.first_col, part.first_row, cols, rows))
        return part.replicate(values, window)

    @contextmanager
    def _open(self, address: str) -> Iterator[Any]:
        """The file, opened as what it must be: other formats of GDAL may name other files."""
        signer = self.catalog.signer
        signed = signer.sign(address) if "://" in address and not address.startswith("file://") else address
        with (
            rasterio.Env(**{**GDAL_SETTINGS, **signer.gdal_settings}),
            rasterio.open(signed, driver=_driver(address)) as source,
        ):
            yield source

    def _read_proven(self, href: str, band: str, grid: Grid, window: PatchWindow) -> NDArray[Any]:
        """The window from bytes that are known to have arrived, so that only the file itself can be to blame.

        Raises:
            NotArrivedError: the server does not send them.
            SceneContentError: unreadable: these very bytes cannot be decoded.
        """
        address = self.catalog.absolute_href(href)
        with TemporaryDirectory(prefix="satclip-") as folder:
            path = address.removeprefix("file://")
            if address.startswith("http"):
                path = str(Path(folder) / f"copy{Path(urlsplit(address).path).suffix}")
                copy = SparseCopy(Path(path), lambda: self.catalog.signer.sign(address))
                copy.fetch(0, FIRST_BYTES)
                ranges = self._tile_ranges(path, grid, window)
                if ranges is None:
                    copy.fetch_whole()
                for start, length in ranges or ():
                    copy.fetch(start, length)
            try:
                return self._read_file(path, href, band, grid, window)
            except RasterioError as error:
                raise SceneContentError(
                    f"unreadable:{band}",
                    f"{href}: its bytes arrive, but {band} cannot be decoded ({redacted(error)}); "
                    "the file is truncated or damaged",
                ) from None

    def _tile_ranges(self, path: str, grid: Grid, window: PatchWindow) -> list[tuple[int, int]] | None:
        """Offset and length of every tile of the window; None where the copy's directory does not tell all of them."""
        try:
            with self._open(path) as source:
                factor = max(round(source.transform.a / grid.resolution_m), 1)
                height, width = source.block_shapes[0]
                rows, cols = (
                    range(first // factor // side, (first + window.size_px - 1) // factor // side + 1)
                    for first, side in ((window.row_px, height), (window.col_px, width))
                )
                tags = [
                    [source.get_tag_item(f"BLOCK_{what}_{col}_{row}", "TIFF", bidx=1) for what in ("OFFSET", "SIZE")]
                    for row in rows
                    for col in cols
                ]
        except RasterioError:
            return None
        ranges = [(int(offset or 0), int(size or 0)) for offset, size in tags]
        return ranges if all(offset and size for offset, size in ranges) else None

    def _probe(self, href: str) -> int | None:
        """HTTP status of one byte of the file; for a local file 200 or 404; None without an answer."""
        address = self.catalog.absolute_href(href)
        if "://" in address and not address.startswith(("http", "file://")):
            return None
        if not address.startswith("http"):
            return 200 if Path(address.removeprefix("file://")).is_file() else 404
        try:
            signed = self.catalog.signer.sign(address)
            with requests.get(
                signed, headers={"Range": "bytes=0-0"}, timeout=PROBE_TIMEOUT_S, stream=True, allow_redirects=False
            ) as response:
                return response.status_code
        except requests.RequestException:
            return None


class RasterioReader:
    """Reads windows with a `WindowReader` in threads: ``band_workers`` for each of the ``num_workers`` places.

    Args:
        catalog: Resolves and signs addresses.
        config: Bounds and persistence.
    """

    def __init__(self, catalog: Catalog, config: PatchConfig) -> None:
        self._reader = WindowReader(catalog, max_attempts=config.max_attempts, backoff_s=config.backoff_s)
        self._num_threads = config.num_workers * config.band_workers

    async def __aenter__(self) -> Self:
        """Prepares the threads; each starts with its first read."""
        self._pool = ThreadPoolExecutor(self._num_threads, thread_name_prefix="rasterio")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits for the reads that GDAL is in; begins no other."""
        self._reader.stopping.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._pool.shutdown)

    async def read_bands(
        self, hrefs: Mapping[str, str], grid: Grid, window: PatchWindow, tally: ReadTally
    ) -> dict[str, NDArray[Any]]:
        """See `PatchReader.read_bands`."""
        return await read_together({band: self.read_band(hrefs[band], band, grid, window, tally) for band in hrefs})

    async def read_band(self, href: str, band: str, grid: Grid, window: PatchWindow, tally: ReadTally) -> NDArray[Any]:
        """One band in the window; see `WindowReader.read_band`."""
        own = ReadTally()
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._pool, self._reader.read_band, href, band, grid, window, own)
        finally:
            tally.add(own)


def _driver(address: str) -> str:
    return "JP2OpenJPEG" if address.lower().endswith(".jp2") else "GTiff"


def _file_grid(source: Any) -> FileGrid:  # noqa: ANN401
    transform = source.transform
    return FileGrid(
        epsg=source.crs.to_epsg() if source.crs else None,
        x_ul_m=transform.c,
        y_ul_m=transform.f,
        pixel_width_m=transform.a,
        pixel_height_m=-transform.e,
        width_px=source.width,
        height_px=source.height,
    )
