"""Files fetched on request: whole, and of the content that was declared."""

import hashlib
import logging
from pathlib import Path

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from pipelines.atomic import replacing
from pipelines.errors import MissingTableError, TableError

logger = logging.getLogger(__name__)

TIMEOUT_S = (10.0, 120.0)
TRANSIENT_STATUS = (429, 500, 502, 503, 504)
NUM_RETRIES = 3
BLOCK_BYTES = 1 << 20


def download_file(url: str, path: Path, sha256: str | None = None) -> str:
    """Fetches an address to a path, which appears whole or not at all; returns the SHA-256 (hex) of the content.

    Args:
        url: Address, http or https.
        path: Where the file goes; folders are made, an older file is replaced.
        sha256: The content that is expected; None takes any, and the log says which it was.

    Raises:
        MissingTableError: The server has no such file.
        TableError: The file cannot be fetched, or is of another content than expected.
    """
    digest = hashlib.sha256()
    with requests.Session() as session, replacing(path) as partial:
        retry = Retry(total=NUM_RETRIES, backoff_factor=0.3, status_forcelist=TRANSIENT_STATUS, raise_on_status=False)
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=retry))
        try:
            with session.get(url, timeout=TIMEOUT_S, stream=True) as response, partial.open("wb") as handle:
                _require_ok(response, url)
                for block in response.iter_content(BLOCK_BYTES):
                    digest.update(block)
                    handle.write(block)
        except requests.RequestException as error:
            reason = type(error).__name__
            raise TableError(f"{url}: cannot be fetched ({reason}); check the address and the server") from error
        found = digest.hexdigest()
        if sha256 is not None and found != sha256:
            raise TableError(
                f"{url}: the file has SHA-256 {found}, expected {sha256}; it has changed since it was declared: check "
                f"it by hand and put it at {path}"
            )
    logger.info("fetched %s, SHA-256 %s (%s)", path, found, "as declared" if sha256 else "none declared")
    return found


def _require_ok(response: requests.Response, url: str) -> None:
    if response.status_code == requests.codes.ok:
        return
    kind = MissingTableError if response.status_code in (requests.codes.not_found, requests.codes.gone) else TableError
    raise kind(
        f"{url}: the server answered HTTP {response.status_code} {response.reason}; check the address, and that the "
        "file may be read without signing in"
    )
