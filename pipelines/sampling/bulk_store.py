"""The parts of a table of items, wherever they lie: Azure Blob Storage, a web server, a folder."""

import io
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
from obstore.store import AzureStore, HTTPStore, LocalStore, ObjectStore

from pipelines.errors import CatalogError

BLOB_SCHEMES = ("abfs", "abfss", "az")
_PERIOD = re.compile(r"_(\d{4}-\d\d-\d\dT[^_/]+)_(\d{4}-\d\d-\d\dT[^_/]+)\.parquet$")
_BLOB_HOST = re.compile(r"([a-z0-9]+)\.(?:blob|dfs)\.core\.windows\.net$")


@dataclass(frozen=True)
class Part:
    """One Parquet file of a table of items.

    Attributes:
        path: Within the store.
        first: Begin of its period as its name says, None where it does not.
        last: End of the same.
    """

    store: ObjectStore
    path: str
    first: datetime | None = None
    last: datetime | None = None

    def overlaps(self, start: datetime, end: datetime) -> bool:
        """Whether it can hold items of a period; a name without dates can."""
        return self.first is None or self.last is None or (self.first <= end and self.last >= start)

    def open(self) -> pq.ParquetFile:
        """Reads the footer; columns follow on request, each run of bytes in one request."""
        size = int(obstore.head(self.store, self.path)["size"])
        return pq.ParquetFile(pa.PythonFile(_ObjectFile(self.store, self.path, size), mode="r"), pre_buffer=True)


def list_parts(href: str, storage_options: dict[str, Any]) -> list[Part]:
    """The Parquet files of a table, by name.

    Args:
        href: ``abfs://CONTAINER/PATH``, ``http(s)://...`` of one file, ``file://...`` or a path; a folder or one file.
        storage_options: The collection's ``table:storage_options``; ``account_name`` names the account of an abfs
            address. Tokens come from the Planetary Computer's token endpoint (``PC_SDK_SAS_URL``).

    Raises:
        CatalogError: nothing there.
    """
    store, path = open_store(href, storage_options)
    if isinstance(store, HTTPStore):
        return [_part(store, path)]
    found = sorted(str(each["path"]) for batch in store.list(path or None) for each in batch)
    parts = [_part(store, name) for name in found if name.endswith(".parquet")]
    if parts:
        return parts
    if path.endswith(".parquet"):
        obstore.head(store, path)
        return [_part(store, path)]
    raise CatalogError(f"{href}: no Parquet file there, expected a table of items in one or more parts")


def open_store(href: str, storage_options: dict[str, Any]) -> tuple[ObjectStore, str]:
    """The store of an address, and the path within it.

    Raises:
        CatalogError: an address of another kind, or an abfs address without an account.
    """
    parts = urlsplit(href)
    if parts.scheme in ("http", "https"):
        folder, _, name = parts.path.rpartition("/")
        base = f"{parts.scheme}://{parts.netloc}{folder}/"
        return HTTPStore(base, client_options={"allow_http": parts.scheme == "http"}), name
    if parts.scheme in BLOB_SCHEMES:
        container, _, host = parts.netloc.partition("@")
        named = _BLOB_HOST.match(host)
        account = named[1] if named else storage_options.get("account_name")
        if not account:
            raise CatalogError(f"{href}: no account_name in the collection's table:storage_options")
        return _azure_store(str(account), container), parts.path.strip("/")
    if parts.scheme in ("", "file"):
        local = Path(parts.path if parts.scheme else href).resolve()
        if not local.exists():
            raise CatalogError(f"{local}: no such file or folder, expected a table of items")
        return (LocalStore(local), "") if local.is_dir() else (LocalStore(local.parent), local.name)
    raise CatalogError(f"{href}: expected an address with abfs, https, http or file, or a path")


def _azure_store(account: str, container: str) -> AzureStore:
    from obstore.auth.planetary_computer import PlanetaryComputerCredentialProvider

    return AzureStore(
        container,
        account_name=account,
        credential_provider=PlanetaryComputerCredentialProvider(account_name=account, container_name=container),
    )


def _part(store: ObjectStore, path: str) -> Part:
    named = _PERIOD.search(path)
    if named is None:
        return Part(store, path)
    try:
        first, last = (datetime.fromisoformat(text) for text in named.groups())
    except ValueError:
        return Part(store, path)
    return Part(store, path, *(each if each.tzinfo else each.replace(tzinfo=UTC) for each in (first, last)))


class _ObjectFile(io.RawIOBase):
    """An object as a file for reading at any position: one range request per read."""

    def __init__(self, store: ObjectStore, path: str, size: int) -> None:
        self._store, self._path, self._size, self._position = store, path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def read(self, size: int = -1) -> bytes:
        stop = self._size if size < 0 else min(self._size, self._position + size)
        if stop <= self._position:
            return b""
        data = bytes(obstore.get_range(self._store, self._path, start=self._position, end=stop))
        self._position = stop
        return data
