"""Fetching the published S2-100K from the Hugging Face Hub: pinned, resumable, hash-checked, only on request."""

import hashlib
import logging
import os
import random
import re
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Final

import requests
import urllib3
from filelock import FileLock, Timeout

from pipelines.atomic import write_json
from pipelines.errors import DatasetError
from pipelines.patches.s2_100k_hub import DownloadPlan, HubFile
from pipelines.progress import Progress

logger = logging.getLogger(__name__)

RECORD_NAME: Final = "download.json"
PIECE_BYTES: Final = 256 << 20
"""Bytes of one request: whole files of more than 50 GB are not served, and a signed address outlives one piece."""
_CHUNK_BYTES: Final = 1 << 20
_TIMEOUT_S: Final = (10.0, 60.0)
_RETRIED: Final = (408, 425, 429, 500, 502, 503, 504)
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


@dataclass(frozen=True)
class DownloadReport:
    """What a download did.

    Attributes:
        folder: Where the files are.
        num_files: Files that are there now, all checked.
        num_fetched: Files of which bytes were fetched now.
        num_bytes: Bytes fetched now.
    """

    folder: Path
    num_files: int
    num_fetched: int
    num_bytes: int


@dataclass(frozen=True)
class Patience:
    """How transient failures are met.

    Attributes:
        max_attempts: Requests without a single new byte before giving up.
        backoff_s: First pause; doubled each time, with jitter, unless the server names another.
        sleep: Waits that many seconds.
    """

    max_attempts: int = 6
    backoff_s: float = 1.0
    sleep: Callable[[float], None] = field(default=time.sleep, repr=False)

    def wait(self, attempt: int, retry_after: str | None = None) -> None:
        """Pauses before the next request."""
        pause_s = min(self.backoff_s * 2**attempt, 60.0) * random.uniform(0.5, 1.0)  # noqa: S311
        if retry_after is not None and retry_after.isdigit():
            pause_s = min(float(retry_after), 300.0)
        self.sleep(pause_s)


def download_s2_100k(
    plan: DownloadPlan, target: Path, *, num_workers: int = 4, patience: Patience | None = None
) -> DownloadReport:
    """Fetches the files of a plan; a file bears its name only when its hash is right.

    What a broken-off download left (``NAME.HASH.partial``) is gone on with, and files that are there are checked and
    kept. The token, where there is one, goes to the Hub alone.

    Args:
        plan: See `plan_download`; the caller has asked for consent.
        target: The folder; `import_s2_100k` takes it afterwards.
        num_workers: Files fetched at once.
        patience: How transient failures are met.

    Raises:
        DatasetError: too little disk space, a file that is refused, breaks off again and again or has another hash, or
            another process that downloads into the same folder.
    """
    target.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(target / ".download.lock", timeout=0):
            _validate_space(plan, target)
            return _download(plan, target, num_workers, patience or Patience())
    except Timeout as error:
        raise DatasetError(
            f"{target}: another process downloads into it; wait for it or name another folder"
        ) from error


def _download(plan: DownloadPlan, target: Path, num_workers: int, patience: Patience) -> DownloadReport:
    progress = Progress(logger, "fetching", total=plan.num_bytes, unit="bytes")
    fetches = [_Fetch(plan, file, target, patience, progress) for file in plan.files]
    with ThreadPoolExecutor(num_workers) as pool:
        futures = [pool.submit(fetch.run) for fetch in fetches]
        try:
            fetched = [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()
    files = {file.path: {"size_bytes": file.size_bytes, "hash": file.digest} for file in plan.files}
    write_json(target / RECORD_NAME, {"repo": plan.repo, "revision": plan.revision, "files": files})
    return DownloadReport(target, len(fetched), sum(count > 0 for count in fetched), sum(fetched))


def _validate_space(plan: DownloadPlan, target: Path) -> None:
    there = sum(max(_size_bytes(target / file.path), _size_bytes(_partial(target, file))) for file in plan.files)
    free, wanted = shutil.disk_usage(target).free, plan.num_bytes - there
    if free < wanted:
        raise DatasetError(
            f"{target}: {free / 1e9:.2f} GB free, {wanted / 1e9:.2f} GB are still to be fetched; make room, name "
            "another folder or take a part with --shards"
        )


def _size_bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _partial(target: Path, file: HubFile) -> Path:
    path = target / file.path
    return path.with_name(f"{path.name}.{file.digest[:12]}.partial")


class _Fetch:
    """Fetching one file."""

    def __init__(self, plan: DownloadPlan, file: HubFile, target: Path, patience: Patience, progress: Progress) -> None:
        self._plan, self._file, self._patience, self._progress = plan, file, patience, progress
        self._path = target / file.path
        self._partial = _partial(target, file)
        self._label = f"{plan.repo}@{plan.revision[:12]} {file.path}"

    def run(self) -> int:
        """Fetches what is missing and returns how many bytes that was."""
        if self._path.is_file() and self._path.stat().st_size == self._file.size_bytes and self._is_right(self._path):
            logger.info("%s: there already, hash right", self._label)
            self._progress.advance(self._file.size_bytes)
            return 0
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            begun = min(_size_bytes(self._partial), self._file.size_bytes)
            self._progress.advance(begun)
            self._fetch_pieces()
            self._finish()
        except OSError as error:
            raise DatasetError(f"{self._path}: cannot be written ({error.strerror}); see to the disk") from error
        return self._file.size_bytes - begun

    def _fetch_pieces(self) -> None:
        with requests.Session() as session, self._partial.open("ab", buffering=0) as handle:
            session.auth = _leave_alone
            if handle.tell() > self._file.size_bytes:
                handle.truncate(0)
            attempt = 0
            while (begin := handle.seek(0, os.SEEK_END)) < self._file.size_bytes:
                retry_after = None
                try:
                    retry_after = self._fetch_piece(session, handle, begin)
                except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                    logger.info("%s: %s at byte %d", self._label, type(error).__name__, begin)
                attempt = 0 if handle.seek(0, os.SEEK_END) > begin else attempt + 1
                if attempt >= self._patience.max_attempts:
                    problem = f"broke off {attempt} times at byte {begin} of {self._file.size_bytes}"
                    raise self._error(problem, "run the command again to go on")
                if attempt:
                    self._patience.wait(attempt - 1, retry_after)
            os.fsync(handle.fileno())

    def _fetch_piece(self, session: requests.Session, handle: FileIO, begin: int) -> str | None:
        """Appends the next piece; returns the pause that the server asks for, where it does."""
        end = min(begin + PIECE_BYTES, self._file.size_bytes)
        headers = {**self._plan.headers(), "Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity"}
        url = self._plan.url(self._file)
        with session.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S) as answer:
            if answer.status_code in _RETRIED:
                logger.info("%s: status %d at byte %d", self._label, answer.status_code, begin)
                return answer.headers.get("Retry-After", "")
            if answer.status_code not in (200, 206):
                raise self._error(f"status {answer.status_code}", "check the token, the revision and the network")
            left = end - begin
            if answer.status_code == 200 and begin:  # the range was ignored: all of it comes
                handle.truncate(0)
                left = self._file.size_bytes
            elif answer.status_code == 206:
                self._validate_range(answer.headers.get("Content-Range", ""), begin)
            while left and (chunk := answer.raw.read1(min(left, _CHUNK_BYTES))):  # what came is kept when it breaks off
                handle.write(chunk)
                self._progress.advance(len(chunk))
                left -= len(chunk)
        return None

    def _validate_range(self, text: str, begin: int) -> None:
        match = _CONTENT_RANGE.fullmatch(text)
        if match is None or int(match[1]) != begin or match[3] not in ("*", str(self._file.size_bytes)):
            found = f"answered the range {text!r} for byte {begin} of {self._file.size_bytes}"
            raise self._error(found, "the file on the server is not that of the listing; run the command again")

    def _finish(self) -> None:
        if not self._is_right(self._partial):
            self._partial.unlink()
            raise self._error(
                f"its hash is not {self._file.digest}", "it was removed; run the command again, or doubt the source"
            )
        self._partial.replace(self._path)

    def _is_right(self, path: Path) -> bool:
        return self._file.digest == hash_of(path, self._file.digest)

    def _error(self, problem: str, remedy: str) -> DatasetError:
        return DatasetError(f"{self._label}: {problem}; {remedy}")


def hash_of(path: Path, like: str) -> str:
    """The hash of a file of the kind of ``like``: SHA-256 (64 digits) or Git's blob id (40 digits), hex."""
    if len(like) == 64:
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as handle:
        while chunk := handle.read(8 * _CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _leave_alone(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Keeps requests from putting a password of ~/.netrc in the place of the Hub's token."""
    return request
