"""Byte ranges of files, over HTTP and from disk, asynchronously.

Every answer is checked against what was asked: a wrong range, a cut body or a whole file instead of a part is a fault,
never silently other bytes. An address is signed just before it is used, and its query reaches no message.
"""

import asyncio
import logging
import os
import random
import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.request import getproxies

import aiohttp
from yarl import URL

from pipelines.errors import SceneContentError, SceneReadError
from pipelines.patches.together import all_or_none
from pipelines.patches.windows import ReadTally
from pipelines.redaction import redact_logs
from pipelines.sampling.catalog import NoSigner, Signer

logger = logging.getLogger(__name__)

GONE_STATUS = (404, 410)
DENIED_STATUS = (401, 403)
PAST_END_STATUS = 416
REDIRECT_STATUS = (301, 302, 303, 307, 308)
CONNECT_TIMEOUT_S = 10
MAX_WAIT_S = 120
"""No back-off and no Retry-After is waited for longer."""
MERGED_GAP_BYTES = 1_048_576
"""Bytes between two ranges of one file that cost less than another request: 30 ms at 35 MB/s."""
MAX_MERGED_BYTES = 16_777_216
MAX_CACHED_HEADER_BYTES = 65_536
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class DamagedFileError(Exception):
    """What arrived is proven not to be the window: the file ends early, changed meanwhile, or cannot be decoded."""


class _DeniedError(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(str(status))
        self.status = status


class _FaultError(Exception):
    """A fault of the moment; ``retry_after_s`` is what the server asked for."""

    def __init__(self, what: str, retry_after_s: float = 0.0) -> None:
        super().__init__(what)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class RangeSettings:
    """How persistent and how greedy range reads are; units in the names."""

    max_attempts: int = 5
    backoff_s: float = 0.5
    max_connections: int = 96
    timeout_s: float = 60.0
    header_bytes: int = 16_384
    header_cache_files: int = 1024


@dataclass
class RangeFile:
    """One file as one window reads it.

    Attributes:
        href: Address without a token, for messages.
        address: What is signed and read: http(s), ``file://`` or a path.
        band: Name for messages.
        tally: Grows by what reading takes.
        size_bytes: The file's size, once an answer has told it.
    """

    href: str
    address: str
    band: str
    tally: ReadTally
    size_bytes: int | None = None


@dataclass(frozen=True)
class FileHeader:
    """The first bytes of a file, and its size where the server tells it."""

    content: bytes
    size_bytes: int | None


class RangeSource:
    """Reads byte ranges within bounds of connections and of memory; belongs to the event loop that entered it.

    Args:
        signer: Makes an address readable; may block, so it runs in a thread, one call at a time.
        settings: Attempts, waits and bounds.
    """

    def __init__(self, signer: Signer, settings: RangeSettings) -> None:
        redact_logs()
        self.settings = settings
        self._signer = signer
        self._headers: OrderedDict[str, FileHeader] = OrderedDict()
        self._num_renewals = 0

    async def __aenter__(self) -> Self:
        """Opens the pool of connections."""
        settings = self.settings
        self._slots = asyncio.Semaphore(settings.max_connections)
        self._signing = asyncio.Lock()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=settings.max_connections, limit_per_host=settings.max_connections, ttl_dns_cache=300
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(
                total=2 * settings.timeout_s, sock_connect=CONNECT_TIMEOUT_S, sock_read=settings.timeout_s
            ),
            headers={"Accept-Encoding": "identity"},
            auto_decompress=False,
            read_bufsize=1_048_576,
            trust_env=bool(getproxies()),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes every connection."""
        await self._session.close()
        for _ in range(2):  # connections that were broken off are closed by the loop's next turns
            await asyncio.sleep(0)

    async def read_header(self, file: RangeFile) -> FileHeader:
        """The file's first bytes, from memory where they were read before.

        Raises:
            SceneContentError: missing_file.
            SceneReadError: they cannot be read now.
        """
        known = self._headers.get(file.address)
        if known is None:
            content = await self.read(file, 0, self.settings.header_bytes)
            known = FileHeader(content, file.size_bytes)
            self.keep_header(file, known)
        else:
            self._headers.move_to_end(file.address)
        return known

    def keep_header(self, file: RangeFile, header: FileHeader) -> None:
        """Keeps a header for the windows to come, unless it is long; the least recently used give way."""
        if len(header.content) > MAX_CACHED_HEADER_BYTES:
            return
        self._headers[file.address] = header
        while len(self._headers) > self.settings.header_cache_files:
            self._headers.popitem(last=False)

    def forget_header(self, file: RangeFile) -> None:
        """Reads the header anew next time."""
        self._headers.pop(file.address, None)

    async def read_ranges(self, file: RangeFile, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Several ranges of a file, in few requests: near ranges are read as one.

        Args:
            file: Where.
            ranges: Offset and length of each.

        Returns:
            The bytes of each range, in the order of ``ranges`` and of exactly its length.

        Raises:
            DamagedFileError: the file ends before.
            SceneContentError: missing_file.
            SceneReadError: they cannot be read now.
        """
        spans = merged_ranges(ranges)
        blocks = await all_or_none([self._read_whole(file, start, length) for start, length in spans])
        found = []
        for start, length in ranges:
            index = next(
                i for i, (first, size) in enumerate(spans) if first <= start and start + length <= first + size
            )
            offset = start - spans[index][0]
            block = blocks[index]
            found.append(block if len(block) == length else block[offset : offset + length])
        return found

    async def _read_whole(self, file: RangeFile, start: int, length: int) -> bytes:
        content = await self.read(file, start, length)
        if len(content) != length:
            raise DamagedFileError(f"the file has {file.size_bytes} bytes, expected {start + length} at least")
        return content

    async def read(self, file: RangeFile, start: int, length: int) -> bytes:
        """One range; shorter only where the file ends.

        Raises:
            DamagedFileError: the file ends before the range begins.
            SceneContentError: missing_file.
            SceneReadError: it cannot be read now.
        """
        read_once = self._request if file.address.startswith("http") else self._read_local
        renewed, attempt = False, 0
        last = _FaultError("")
        while attempt < self.settings.max_attempts:
            attempt += 1
            renewals = self._num_renewals
            try:
                return await read_once(file, start, length)
            except _DeniedError as denied:
                file.tally.num_retries += 1
                if renewed:
                    raise SceneReadError(
                        f"{file.href}: access denied ({denied.status}) with a fresh token, expected to read "
                        f"{file.band}; check the signing setting and the subscription key"
                    ) from None
                renewed = True
                attempt -= 1
                await self._renew(renewals)
                continue
            except _FaultError as fault:
                file.tally.num_retries += 1
                last = fault
            logger.info("%s: attempt %d of %d failed: %s", file.href, attempt, self.settings.max_attempts, last)
            if attempt < self.settings.max_attempts:
                await asyncio.sleep(self.wait_s(attempt, last.retry_after_s))
        raise SceneReadError(
            f"{file.href}: {file.band} could not be read in {self.settings.max_attempts} attempts ({last}), expected "
            f"{length} bytes from {start}; run again when the server is well: finished shards are kept"
        )

    def wait_s(self, attempt: int, retry_after_s: float = 0.0) -> float:
        """Seconds before the next attempt: doubled each time, spread by half, at least what the server asked for."""
        spread = random.uniform(0.5, 1.5)  # noqa: S311
        backoff_s = self.settings.backoff_s * 2.0 ** (attempt - 1)
        return min(max(backoff_s * spread, retry_after_s), MAX_WAIT_S)

    async def _renew(self, renewals: int) -> None:
        """Forgets the token, unless another request has done so since."""
        async with self._signing:
            if self._num_renewals == renewals:
                await asyncio.to_thread(self._signer.renew)
                self._num_renewals += 1

    async def _sign(self, address: str) -> str:
        if isinstance(self._signer, NoSigner):
            return address
        async with self._signing:
            return await asyncio.to_thread(self._signer.sign, address)

    async def _request(self, file: RangeFile, start: int, length: int) -> bytes:
        async with self._slots:
            signed = await self._sign(file.address)
            file.tally.num_requests += 1
            failure = ""
            try:
                url = URL(signed, encoded=True)
                header = {"Range": f"bytes={start}-{start + length - 1}"}
                async with self._session.get(url, headers=header, allow_redirects=False) as response:
                    if response.status in (200, 206):
                        _check_range(response, file, start, length)
                        content = await response.read()
                        file.tally.num_bytes += len(content)
                        return _checked(content, file, start, length)
                    _raise_for(response, file, start)
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                failure = type(error).__name__
        # Raised here, so that the library's error, which holds the address, is no context of ours.
        raise _FaultError(f"no whole answer from the server: {failure}")

    async def _read_local(self, file: RangeFile, start: int, length: int) -> bytes:
        path = Path(file.address.removeprefix("file://"))
        try:
            content, file.size_bytes = await asyncio.to_thread(_read_path, path, start, length)
        except FileNotFoundError:
            raise SceneContentError(
                f"missing_file:{file.band}", f"{file.href}: no such file, expected the file of {file.band}"
            ) from None
        except OSError as error:
            raise _FaultError(f"{type(error).__name__}: {error.strerror}") from None
        file.tally.num_bytes += len(content)
        if not content:
            raise DamagedFileError(f"the file has {file.size_bytes} bytes, expected more than {start}")
        return content


def _read_path(path: Path, start: int, length: int) -> tuple[bytes, int]:
    with path.open("rb") as source:
        size = os.fstat(source.fileno()).st_size
        return os.pread(source.fileno(), length, start), size


def _check_range(response: aiohttp.ClientResponse, file: RangeFile, start: int, length: int) -> None:
    """Refuses an answer that is not the range that was asked for, before its body is read."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise _FaultError("server encodes the bytes of a range")
    if response.status == 200:
        size = response.content_length
        if start or size is None or size > length:
            raise _FaultError("server status 200: the whole file instead of a range")
        _remember_size(file, size)
        return
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if match is None:
        raise _FaultError("server status 206 without the range that it answers")
    first, last = int(match[1]), int(match[2])
    if match[3] != "*":
        _remember_size(file, int(match[3]))
    end = start + length if file.size_bytes is None or match[3] == "*" else min(start + length, file.size_bytes)
    if (first, last + 1) != (start, end):
        raise _FaultError(f"server answers bytes {first} to {last}, expected {start} to {end - 1}")


def _checked(content: bytes, file: RangeFile, start: int, length: int) -> bytes:
    end = start + length if file.size_bytes is None else min(start + length, file.size_bytes)
    if len(content) != end - start:
        raise _FaultError(f"server sends {len(content)} bytes, expected {end - start}")
    return content


def _remember_size(file: RangeFile, size: int) -> None:
    if file.size_bytes not in (None, size):
        known, file.size_bytes = file.size_bytes, None
        raise DamagedFileError(f"the file's size changed from {known} to {size} bytes while it was read")
    file.size_bytes = size


def _raise_for(response: aiohttp.ClientResponse, file: RangeFile, start: int) -> None:
    status = response.status
    if status in GONE_STATUS:
        raise SceneContentError(
            f"missing_file:{file.band}", f"{file.href}: the server says {status}, expected the file of {file.band}"
        )
    if status in DENIED_STATUS:
        raise _DeniedError(status)
    if status in REDIRECT_STATUS:
        raise _FaultError(f"server status {status}: it sends elsewhere, and no other host is asked")
    if status == PAST_END_STATUS:
        raise DamagedFileError(f"the file ends before byte {start}")
    raise _FaultError(f"server status {status}", _retry_after_s(response.headers.get("Retry-After", "")))


def _retry_after_s(value: str) -> float:
    """Seconds of a Retry-After header, which holds seconds or a date."""
    if value.strip().isdigit():
        return float(value)
    try:
        return max((parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds(), 0.0)
    except (TypeError, ValueError):
        return 0.0


def merged_ranges(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Offset and length of the spans to ask for, in order: ranges with small gaps become one."""
    spans: list[tuple[int, int]] = []
    for start, length in sorted(ranges):
        if spans:
            first, size = spans[-1]
            end = max(first + size, start + length)
            if start - (first + size) <= MERGED_GAP_BYTES and end - first <= MAX_MERGED_BYTES:
                spans[-1] = (first, end - first)
                continue
        spans.append((start, length))
    return spans
