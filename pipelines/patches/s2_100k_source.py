"""A source in the layout of S2-100K: a folder of files, a folder of tars, or one tar; found once, read from memory."""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pipelines.errors import DatasetError
from pipelines.patches.s2_100k_image import MAX_FILE_BYTES
from pipelines.patches.s2_100k_tar import DECODE_ERRORS, TarMember, TarStream, is_compressed, is_tar, scan_tar

logger = logging.getLogger(__name__)

INDEX_NAME: Final = "index.csv"
IMAGES: Final = "images"
TAR_FOLDERS: Final = ("data", "images", ".")
MAX_INDEX_BYTES: Final = 1 << 28
MISSING, DUPLICATE = -1, -2
"""Sizes that stand for a file that is not there and for a name that occurs twice."""


@dataclass(frozen=True)
class PatchFile:
    """Where the bytes of one patch lie.

    Attributes:
        archive: The tar, or the file itself where ``offset`` is None.
        offset: Where they begin in the (decompressed) tar.
        size_bytes: How many they are; `DUPLICATE` where the name occurs twice.
    """

    archive: Path
    offset: int | None
    size_bytes: int


@dataclass
class PatchSource:
    """An opened source.

    Attributes:
        path: The folder or tar.
        index: Bytes of its index.csv.
        files: Its patches by name.
        ignored: Entries of its tars that were passed over, by kind.
        damage: What is wrong with its tars, one sentence each.
    """

    path: Path
    index: bytes
    files: dict[str, PatchFile]
    ignored: Counter[str] = field(default_factory=Counter)
    damage: tuple[str, ...] = ()

    def size_bytes(self, name: str) -> int:
        """Size of a patch's file; `MISSING` or `DUPLICATE` where there is none to read."""
        file = self.files.get(name)
        return MISSING if file is None else file.size_bytes

    def read(self, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Yields the bytes of patches that are there, in the order in which they lie in their tars.

        A file that ends early or vanished yields what could be read of it, a larger one `MAX_FILE_BYTES` and one more.
        """
        found = [(self.files[name], name) for name in names]
        found.sort(key=lambda each: (str(each[0].archive), each[0].offset or 0))
        with ExitStack() as stack:
            streams: dict[Path, TarStream] = {}
            for file, name in found:
                if file.offset is None:
                    yield name, _read_loose(file)
                    continue
                if file.archive not in streams:
                    streams[file.archive] = self._stream(file.archive, stack)
                yield name, _read_member(streams[file.archive], file, MAX_FILE_BYTES + 1)

    def _stream(self, archive: Path, stack: ExitStack) -> TarStream:
        stream = TarStream(archive)
        stack.callback(stream.close)
        return stream


def open_source(path: Path) -> PatchSource:
    """Finds the index and the patches of a source; nothing is written or extracted.

    Args:
        path: A folder with ``index.csv`` and either ``images/*.tif`` or tars (in ``data/``, ``images/`` or beside the
            index), or one tar that holds the patches, with index.csv inside or beside it. Where a tar was unpacked
            beside itself, the loose file is taken.

    Raises:
        DatasetError: no such file or folder, no index, or a file that is no tar.
    """
    if path.is_dir():
        index = path / INDEX_NAME
        if not index.is_file():
            raise DatasetError(
                f"{index}: no such file, expected the S2-100K layout (index.csv and images/, data/*.tar or one tar); "
                "check the folder"
            )
        loose = {each.name: PatchFile(each, None, each.stat().st_size) for each in _loose_files(path / IMAGES)}
        tars = [sorted(each for each in _files(path / name) if is_tar(each)) for name in TAR_FOLDERS]
        return _gather(path, _read_file(index, MAX_INDEX_BYTES), loose, tars)
    if not path.is_file():
        raise DatasetError(f"{path}: no such file or folder, expected a folder or a tar in the layout of S2-100K")
    if not is_tar(path):
        raise DatasetError(f"{path}: not a tar by its name, expected a folder or a .tar, .tar.gz, .tar.xz or .tar.bz2")
    return _gather(path, None, {}, [[path]])


def _files(folder: Path) -> list[Path]:
    return [each for each in folder.iterdir() if each.is_file()] if folder.is_dir() else []


def _loose_files(folder: Path) -> list[Path]:
    return [each for each in _files(folder) if not is_tar(each)]


def _gather(
    path: Path, index: bytes | None, loose: dict[str, PatchFile], tars: Sequence[Sequence[Path]]
) -> PatchSource:
    """Gathers the files of a source; ``tars`` by folder, of which the first that holds a name provides it."""
    source = PatchSource(path, b"", loose)
    indices: list[tuple[Path, TarMember]] = []
    for folder in tars:
        found: dict[str, PatchFile] = {}
        for archive in folder:
            scan = scan_tar(archive)
            source.ignored.update(scan.ignored)
            if scan.damage:
                source.damage += (f"{archive.name} {scan.damage}",)
                logger.warning("%s: the tar %s; what lies behind is missing", archive, scan.damage)
            for member in scan.members:
                if member.name == INDEX_NAME:
                    indices.append((archive, member))
                size = DUPLICATE if member.name in found else member.size_bytes
                found[member.name] = PatchFile(archive, member.offset, size)
        source.files = found | source.files
    source.files.pop(INDEX_NAME, None)
    if source.ignored:
        logger.warning("%s: entries passed over: %s", path, dict(source.ignored))
    source.index = index if index is not None else _read_index(path, indices)
    return source


def _read_index(path: Path, indices: list[tuple[Path, TarMember]]) -> bytes:
    """The index inside a tar, else the one beside it."""
    if len(indices) > 1:
        raise DatasetError(f"{path}: {len(indices)} files index.csv found, expected one; remove the others")
    if indices:
        archive, member = indices[0]
        if member.size_bytes > MAX_INDEX_BYTES:
            raise DatasetError(f"{path}: index.csv of {member.size_bytes} bytes, expected {MAX_INDEX_BYTES} at most")
        stream = TarStream(archive)
        try:
            return _read_member(stream, PatchFile(archive, member.offset, member.size_bytes), MAX_INDEX_BYTES)
        finally:
            stream.close()
    beside = path.parent / INDEX_NAME
    if not beside.is_file():
        raise DatasetError(f"{path}: no index.csv in it or beside it, expected one; put the index beside the tar")
    return _read_file(beside, MAX_INDEX_BYTES)


def _read_file(path: Path, limit_bytes: int) -> bytes:
    with path.open("rb") as handle:
        return handle.read(limit_bytes)


def _read_loose(file: PatchFile) -> bytes:
    try:
        return _read_file(file.archive, MAX_FILE_BYTES + 1)
    except OSError as error:
        logger.warning("%s: cannot be read (%s)", file.archive, error)
        return b""


def _read_member(stream: TarStream, file: PatchFile, limit_bytes: int) -> bytes:
    assert file.offset is not None
    try:
        return stream.read(min(file.size_bytes, limit_bytes)) if stream.seek(file.offset) else b""
    except DECODE_ERRORS as error:
        logger.warning("%s: cannot be read at byte %d (%s)", file.archive, file.offset, error)
        return b""


def needs_rewinds(source: PatchSource, names: Sequence[str]) -> bool:
    """Whether reading ``names`` shard by shard goes back in a compressed tar, which costs a pass over it each time."""
    last: dict[Path, int] = {}
    for name in names:
        file = source.files.get(name)
        if file is None or file.offset is None or not is_compressed(file.archive):
            continue
        if file.offset < last.get(file.archive, 0):
            return True
        last[file.archive] = file.offset
    return False
