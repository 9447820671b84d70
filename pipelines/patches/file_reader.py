"""Reads of a file through GDAL that tell a verdict from a fault.

A failed read is either a verdict on the file (it is not there, or its bytes arrive and cannot be decoded) or a fault of
the moment (network, throttling, token). Only a verdict may send a place to its next candidate.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol
from urllib.parse import urlsplit

import rasterio
import requests
from rasterio.errors import RasterioError

from pipelines.errors import SceneContentError, SceneReadError
from pipelines.patches.sparse_copy import NotArrivedError, SparseCopy
from pipelines.patches.windows import ReadTally
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


class FileRead[Values](Protocol):
    """What is read of an open file."""

    @property
    def told(self) -> str:
        """What is expected of the file, for messages."""
        ...

    def read(self, source: Any) -> Values:  # noqa: ANN401
        """The values, of a dataset that rasterio has opened."""
        ...

    def pixels(self, source: Any) -> tuple[range, range]:  # noqa: ANN401
        """The rows and the columns of the file that reading takes."""
        ...


@dataclass
class FileReader:
    """Reads files through GDAL's range reads, signing each address just before it is used.

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

    def read_file[Values](
        self, href: str, band: str, wanted: FileRead[Values], tally: ReadTally | None = None
    ) -> Values:
        """What is wanted of one file.

        Args:
            href: Address relative to the catalog.
            band: Name for messages and verdicts.
            wanted: What to read.
            tally: Grows with the reader's own.

        Raises:
            SceneContentError: missing_file, unreadable, or what ``wanted`` raises.
            SceneReadError: the file cannot be read now.
        """
        renewed = False
        faults = 0
        last = ""
        attempt = 0
        while attempt < self.max_attempts:
            attempt += 1
            try:
                values = self._read_once(self.catalog.absolute_href(href), wanted)
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
                values = self._read_proven(href, band, wanted)
            except NotArrivedError as error:
                last = str(error)
            else:
                self._count(tally, ReadTally(num_reads=1))
                return values
        raise SceneReadError(
            f"{href}: {band} could not be read in {self.max_attempts} attempts ({last}), expected {wanted.told}; run "
            "again when the server is well: finished shards are kept"
        )

    def _count(self, tally: ReadTally | None, more: ReadTally) -> None:
        with self._lock:
            self.tally.add(more)
            if tally is not None:
                tally.add(more)

    def _read_once[Values](self, address: str, wanted: FileRead[Values]) -> Values:
        with self._open(address) as source:
            return wanted.read(source)

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

    def _read_proven[Values](self, href: str, band: str, wanted: FileRead[Values]) -> Values:
        """The values from bytes that are known to have arrived, so that only the file itself can be to blame.

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
                ranges = self._tile_ranges(path, wanted)
                if ranges is None:
                    copy.fetch_whole()
                for start, length in ranges or ():
                    copy.fetch(start, length)
            try:
                return self._read_once(path, wanted)
            except RasterioError as error:
                raise SceneContentError(
                    f"unreadable:{band}",
                    f"{href}: its bytes arrive, but {band} cannot be decoded ({redacted(error)}); "
                    "the file is truncated or damaged",
                ) from None

    def _tile_ranges(self, path: str, wanted: FileRead[Any]) -> list[tuple[int, int]] | None:
        """Offset and length of every tile that is read; None where the copy's directory does not tell all of them."""
        try:
            with self._open(path) as source:
                rows, cols = (
                    range(pixels.start // side, (pixels.stop - 1) // side + 1)
                    for pixels, side in zip(wanted.pixels(source), source.block_shapes[0], strict=True)
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


def _driver(address: str) -> str:
    return "JP2OpenJPEG" if address.lower().endswith(".jp2") else "GTiff"
