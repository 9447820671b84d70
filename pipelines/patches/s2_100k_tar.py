"""Where each member of a tar lies, read once, header by header; nothing is ever extracted.

A foreign tar is material, not instruction: names are only compared, sizes are bounded before anything is read, and
links, devices and directories are passed over.
"""

import bz2
import gzip
import lzma
import re
import tarfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final, cast
from zlib import error as zlib_error

from pipelines.errors import DatasetError

SUFFIXES: Final = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2")
BLOCK_BYTES: Final = tarfile.BLOCKSIZE
MAX_EXTENDED_HEADER_BYTES: Final = 1 << 20
"""Bound of a long name or a pax header; real ones are under 1 kB."""
MAX_SKIPPED_BYTES: Final = 1 << 30
"""Bound of a member of a compressed tar, whose bytes must be decompressed to be passed over."""
_PIECE_BYTES: Final = 1 << 20
_SIZE: Final = re.compile(r"[0-9]{1,15}")
_LONG_HEADERS: Final = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, b"L", b"K")
_KINDS: Final = {
    tarfile.LNKTYPE: "link",
    tarfile.SYMTYPE: "link",
    tarfile.CHRTYPE: "device",
    tarfile.BLKTYPE: "device",
    tarfile.FIFOTYPE: "device",
    tarfile.GNUTYPE_SPARSE: "sparse",
}
DECODE_ERRORS: Final = (OSError, EOFError, lzma.LZMAError, zlib_error)


@dataclass(frozen=True)
class TarMember:
    """A regular file of a tar.

    Attributes:
        name: Last component of its path.
        path: The path as written in the tar.
        offset: Where its bytes begin in the (decompressed) tar.
        size_bytes: How many they are.
    """

    name: str
    path: str
    offset: int
    size_bytes: int


@dataclass
class TarScan:
    """What reading a tar's headers found.

    Attributes:
        members: Its regular files, in order.
        ignored: Entries that were passed over, by kind.
        damage: Why reading ended early; empty where the tar is whole.
        num_headers: Headers that were read.
    """

    members: list[TarMember] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    damage: str = ""
    num_headers: int = 0


def is_tar(path: Path) -> bool:
    """Whether the name is that of a tar, compressed or not."""
    return path.name.lower().endswith(SUFFIXES)


def is_compressed(path: Path) -> bool:
    """Whether bytes of the tar are reached only by decompressing all that lies before them."""
    return not path.name.lower().endswith(".tar")


class TarStream:
    """The decompressed bytes of a tar, read forwards; going back in a compressed one begins anew.

    Attributes:
        num_rewinds: How often reading began anew.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle = _open(path)
        self._position = 0
        self.num_rewinds = 0
        self.length = None if is_compressed(path) else path.stat().st_size

    def read(self, count: int) -> bytes:
        """The next ``count`` bytes, fewer at the end."""
        data = self._handle.read(count)
        self._position += len(data)
        return data

    def seek(self, offset: int) -> bool:
        """Goes to ``offset``; False where the tar ends before it."""
        if self.length is not None:
            if offset > self.length:
                return False
            self._handle.seek(offset)
            self._position = offset
            return True
        if offset < self._position:
            self._handle.close()
            self._handle, self._position = _open(self._path), 0
            self.num_rewinds += 1
        while self._position < offset:
            if not self.read(min(offset - self._position, _PIECE_BYTES)):
                return False
        return True

    @property
    def reached(self) -> int:
        """How many bytes of the tar are known to be there."""
        return self._position if self.length is None else self.length

    def close(self) -> None:
        """Closes the file."""
        self._handle.close()


def scan_tar(path: Path) -> TarScan:
    """Reads the headers of a tar; memory does not grow with what members claim to hold.

    A tar that ends early or is damaged yields the members before the damage, and says so in ``damage``.

    Raises:
        DatasetError: the file cannot be opened or its first header is not a tar's.
    """
    scan = TarScan()
    try:
        stream = TarStream(path)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be opened ({error}); check the file") from error
    try:
        _walk(stream, scan)
    except (*DECODE_ERRORS, tarfile.HeaderError) as error:
        is_header = isinstance(error, tarfile.HeaderError)
        scan.damage = "holds no valid header where one should be" if is_header else "cannot be decompressed"
        scan.damage += f" ({error})"
        if not scan.num_headers and not isinstance(error, EOFError):
            raise DatasetError(f"{path}: {scan.damage}, expected a tar; check the file or fetch it again") from error
    finally:
        stream.close()
    if scan.damage and scan.members and stream.reached < scan.members[-1].offset + scan.members[-1].size_bytes:
        scan.members.pop()
    return scan


def _open(path: Path) -> BinaryIO:
    name = path.name.lower()
    if name.endswith((".gz", ".tgz")):
        return cast(BinaryIO, gzip.open(path, "rb"))
    if name.endswith((".xz", ".txz")):
        return cast(BinaryIO, lzma.open(path, "rb"))
    if name.endswith(".bz2"):
        return cast(BinaryIO, bz2.open(path, "rb"))
    return path.open("rb")


def _walk(stream: TarStream, scan: TarScan) -> None:
    """Reads header after header, until the end or the damage."""
    position = 0
    renamed: dict[str, str] = {}
    while True:
        header = stream.read(BLOCK_BYTES)
        if len(header) < BLOCK_BYTES:
            scan.damage = f"ends after {position} bytes without its end mark"
            return
        if header.count(0) == BLOCK_BYTES:
            return
        info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        scan.num_headers += 1
        offset = position + BLOCK_BYTES
        if info.size < 0:
            raise tarfile.HeaderError(f"negative size at {position}")
        if info.type in _LONG_HEADERS:
            if info.size > MAX_EXTENDED_HEADER_BYTES:
                scan.damage = (
                    f"has an extended header of {info.size} bytes, expected {MAX_EXTENDED_HEADER_BYTES} at most"
                )
                return
            payload = stream.read(info.size)
            if info.type not in (tarfile.XGLTYPE, b"K"):
                renamed |= {"path": _text(payload)} if info.type == b"L" else _pax(payload)
            size = info.size
        else:
            size = int(renamed["size"]) if _SIZE.fullmatch(renamed.get("size", "")) else info.size
            path = renamed.get("path", info.name)
            renamed = {}
            if not info.isreg() or info.type in _KINDS:
                scan.ignored[_KINDS.get(info.type, "directory" if info.isdir() else "other")] += 1
                size = size if info.type in (tarfile.GNUTYPE_SPARSE, tarfile.CONTTYPE) else 0
            else:
                _keep(TarMember(PurePosixPath(path).name, path, offset, size), scan)
        position = offset + -(-size // BLOCK_BYTES) * BLOCK_BYTES
        if stream.length is None and size > MAX_SKIPPED_BYTES:
            scan.damage = f"claims a compressed member of {size} bytes, expected {MAX_SKIPPED_BYTES} at most"
            return
        if not stream.seek(position):
            scan.damage = f"ends inside the entry that begins at byte {offset - BLOCK_BYTES}"
            return


def _keep(member: TarMember, scan: TarScan) -> None:
    parts = PurePosixPath(member.path).parts
    if member.path.startswith("/") or ".." in parts or "\0" in member.path:
        scan.ignored["unsafe_path"] += 1
    elif not member.name or member.name.startswith("."):
        scan.ignored["hidden"] += 1
    else:
        scan.members.append(member)


def _text(payload: bytes) -> str:
    return payload.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _pax(payload: bytes) -> dict[str, str]:
    """``path`` and ``size`` of a pax header: records of "LENGTH KEY=VALUE" and a line feed."""
    found = {}
    while payload:
        digits, _, _ = payload.partition(b" ")
        if not (digits.isdigit() and len(digits) < 8) or not len(digits) + 1 < int(digits) <= len(payload):
            break
        record, payload = payload[len(digits) + 1 : int(digits) - 1], payload[int(digits) :]
        key, _, value = record.partition(b"=")
        if key in (b"path", b"size"):
            found[key.decode()] = value.decode("utf-8", "surrogateescape")
    return found
