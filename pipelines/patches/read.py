"""Exact windows of a scene's files, on the scene's own grid.

A failed read is either a verdict on the file (it is not there, or its bytes arrive and cannot be decoded) or a fault of
the moment (network, throttling, token). Only a verdict may send a place to its next candidate.
"""

import logging
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rasterio
import requests
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window

from pipelines.errors import SceneContentError, SceneReadError
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
"""Few requests per window, which benchmarks/reading.py counts, and no memory of failures."""

GONE_STATUS = (404, 410)
DENIED_STATUS = (401, 403)
PROBE_TIMEOUT_S = 20
FIRST_BYTES = 32_768
_SECRET = re.compile(r"\?[^\s'\"]*")


class _RedactSignature(logging.Filter):
    """Cuts query strings, which carry tokens, out of other libraries' log lines."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = _SECRET.sub("?...", record.getMessage()), None
        return True


_REDACT = _RedactSignature()
_LOGGERS_WITH_ADDRESSES = ("rasterio._env", "rasterio._err", "rasterio._io", "rasterio._base", "urllib3.connectionpool")


@dataclass(frozen=True)
class Grid:
    """The grid of a patch's 10 m bands: CRS, upper-left corner of the scene, size and resolution."""

    epsg: int
    x_ul_m: float
    y_ul_m: float
    width_px: int
    height_px: int
    resolution_m: float


@dataclass(frozen=True)
class PatchWindow:
    """A square of pixels on a scene's 10 m grid: upper-left row and column, side."""

    row_px: int
    col_px: int
    size_px: int


@dataclass
class WindowReader:
    """Reads windows through GDAL's range reads, signing each address just before it is used.

    Attributes:
        catalog: Resolves and signs addresses.
        max_attempts: Attempts at one file.
        backoff_s: Wait after the first failed attempt; doubles each time.
        num_reads: Files read so far.
        num_retries: Attempts that failed so far.
    """

    catalog: Catalog
    max_attempts: int = 5
    backoff_s: float = 0.5
    num_reads: int = 0
    num_retries: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        for name in _LOGGERS_WITH_ADDRESSES:
            if _REDACT not in logging.getLogger(name).filters:
                logging.getLogger(name).addFilter(_REDACT)

    def read_band(self, href: str, band: str, grid: Grid, window: PatchWindow) -> NDArray[Any]:
        """One band in the window, replicated to the 10 m grid where it is coarser.

        Args:
            href: Address relative to the catalog.
            band: Name for messages.
            grid: The scene's 10 m grid; the file must share its corner and cover it.
            window: Which pixels.

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
                with self._lock:
                    self.num_retries += 1
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
                cause = _SECRET.sub("?...", str(error))
                logger.info("%s: attempt %d of %d failed: %s (%s)", href, attempt, self.max_attempts, last, cause)
                if attempt < self.max_attempts:
                    time.sleep(self.backoff_s * 2 ** (attempt - 1))
            else:
                with self._lock:
                    self.num_reads += 1
                return values
        if not faults and self._arrives_whole(href, grid, window):
            raise SceneContentError(
                f"unreadable:{band}",
                f"{href}: its bytes arrive, but {self.max_attempts} attempts could not decode {band}; "
                "the file is truncated or damaged",
            )
        raise SceneReadError(
            f"{href}: {band} could not be read in {self.max_attempts} attempts ({last}), expected a window of "
            f"{window.size_px} px; run again when the server is well: finished shards are kept"
        )

    def _read_once(self, href: str, band: str, grid: Grid, window: PatchWindow) -> NDArray[Any]:
        address = self.catalog.absolute_href(href)
        signed = self.catalog.signer.sign(address) if address.startswith("http") else address
        with _gdal_settings(), rasterio.open(signed) as source:
            factor = _factor(source, href, band, grid)
            first_row, first_col = window.row_px // factor, window.col_px // factor
            last_row = -(-(window.row_px + window.size_px) // factor)
            last_col = -(-(window.col_px + window.size_px) // factor)
            values = source.read(1, window=Window(first_col, first_row, last_col - first_col, last_row - first_row))
        if factor > 1:
            values = values.repeat(factor, axis=0).repeat(factor, axis=1)
        row, col = window.row_px - first_row * factor, window.col_px - first_col * factor
        cut: NDArray[Any] = values[row : row + window.size_px, col : col + window.size_px]
        return cut

    def _arrives_whole(self, href: str, grid: Grid, window: PatchWindow) -> bool:
        """Whether the bytes that the window needs can be fetched, or are proven to lie beyond the file's end."""
        address = self.catalog.absolute_href(href)
        if not address.startswith("http"):
            return True
        ranges = self._needed_ranges(address, grid, window) or [(0, FIRST_BYTES)]
        try:
            for start, length in ranges:
                header = {"Range": f"bytes={start}-{start + length - 1}"}
                signed = self.catalog.signer.sign(address)
                with requests.get(signed, headers=header, timeout=PROBE_TIMEOUT_S) as response:
                    if response.status_code not in (200, 206, 416):
                        return False
        except requests.RequestException:
            return False
        return True

    def _needed_ranges(self, address: str, grid: Grid, window: PatchWindow) -> list[tuple[int, int]]:
        """Offset and length of every tile of the window, nothing where the directory cannot be read."""
        try:
            with _gdal_settings(), rasterio.open(self.catalog.signer.sign(address)) as source:
                factor = max(round(source.transform.a / grid.resolution_m), 1)
                height, width = source.block_shapes[0]
                rows, cols = (
                    range(first // factor // side, (first + window.size_px - 1) // factor // side + 1)
                    for first, side in ((window.row_px, height), (window.col_px, width))
                )
                tags = [
                    tuple(
                        source.get_tag_item(f"BLOCK_{what}_{col}_{row}", "TIFF", bidx=1) for what in ("OFFSET", "SIZE")
                    )
                    for row in rows
                    for col in cols
                ]
        except RasterioError:
            return []
        return [(int(offset), int(size)) for offset, size in tags if offset and size]

    def _probe(self, href: str) -> int | None:
        """HTTP status of one byte of the file; for a local file 200 or 404; None without an answer."""
        address = self.catalog.absolute_href(href)
        if "://" in address and not address.startswith(("http", "file://")):
            return None
        if not address.startswith("http"):
            return 200 if Path(address.removeprefix("file://")).is_file() else 404
        try:
            signed = self.catalog.signer.sign(address)
            with requests.get(signed, headers={"Range": "bytes=0-0"}, timeout=PROBE_TIMEOUT_S, stream=True) as response:
                return response.status_code
        except requests.RequestException:
            return None


def _factor(source: Any, href: str, band: str, grid: Grid) -> int:  # noqa: ANN401
    """Pixels of the 10 m grid per pixel of the file along one axis."""
    transform = source.transform
    factor: int = round(transform.a / grid.resolution_m)
    epsg = source.crs.to_epsg() if source.crs else None
    found = (epsg, transform.c, transform.f, source.width * factor, source.height * factor)
    expected = (grid.epsg, grid.x_ul_m, grid.y_ul_m, grid.width_px, grid.height_px)
    if factor < 1 or transform.a != factor * grid.resolution_m or transform.e != -transform.a or found != expected:
        raise SceneContentError(
            f"grid_mismatch:{band}",
            f"{href}: grid (EPSG, x, y, width, height at {grid.resolution_m:g} m) is {found} with pixels of "
            f"{transform.a:g} m, the item says {expected}; rewrite the item's proj fields to the file's",
        )
    return factor


@contextmanager
def _gdal_settings() -> Iterator[None]:
    with rasterio.Env(**GDAL_SETTINGS):
        yield
