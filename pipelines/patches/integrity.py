"""Whether a dataset still holds the bytes that were published: SHA256SUMS, readable by ``sha256sum -c`` too."""

import logging
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from zarr.errors import BaseZarrError

from pipelines.atomic import replacing
from pipelines.errors import DatasetError, StoreError
from pipelines.patches.store import PatchStore, patch_sha256, read_store
from pipelines.provenance import file_sha256
from pipelines.sampling.tables import read_table

logger = logging.getLogger(__name__)

SUMS_NAME: Final = "SHA256SUMS"
IGNORED_SUFFIXES: Final = (".partial", ".damaged", ".lock")
DECODING_ERRORS: Final = (ValueError, OSError, RuntimeError, BaseZarrError)
"""What Zarr and its codecs raise on bytes that are not theirs."""


def has_sums(folder: Path) -> bool:
    """Whether a version's folder was published with checksums."""
    return (folder / SUMS_NAME).is_file()


def write_sums(folder: Path) -> None:
    """Writes the SHA-256 of every file of a version's folder, in the format of ``sha256sum``."""
    lines = [f"{file_sha256(folder / name)}  {name}\n" for name in _files(folder)]
    with replacing(folder / SUMS_NAME) as partial:
        partial.write_text("".join(lines))


def verify_files(folder: Path) -> list[str]:
    """Compares every file of a published version with its checksum; writes nothing.

    Returns:
        One line per file that is missing, additional or changed; of a shard's pixels, the rows that changed.

    Raises:
        DatasetError: the version was never published.
    """
    path = folder / SUMS_NAME
    if not path.is_file():
        raise DatasetError(f"{folder}: no {SUMS_NAME}, the dataset was never published; materialize patch_dataset")
    expected: dict[str, str] = {}
    problems = []
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
        digest, _, name = line.partition("  ")
        if len(digest) != 64 or not name:
            problems.append(f"{SUMS_NAME}: line {number} is damaged")
        else:
            expected[name] = digest
    found = set(_files(folder))
    problems += [f"{name}: missing" for name in sorted(expected.keys() - found)]
    problems += [f"{name}: not part of the published version" for name in sorted(found - expected.keys())]
    for name in sorted(found & expected.keys()):
        if file_sha256(folder / name) != expected[name]:
            problems.append(_describe_change(folder, name))
    return problems


def damaged_rows(store: PatchStore, shard: int, rows: pd.DataFrame) -> list[int]:
    """Rows within a shard whose pixels are unreadable or differ from their hash, ascending.

    Args:
        store: The store.
        shard: Which shard.
        rows: Its sidecar.
    """
    start = store.schema.rows(shard).start
    valid = np.flatnonzero(rows["valid"].to_numpy(dtype=bool))
    hashes = rows["sha256"].to_numpy()
    try:
        dn = store.read_shard(shard)
    except DECODING_ERRORS:
        return [int(row) for row in valid if _is_damaged(store, start + int(row), hashes[row])]
    return [int(row) for row in valid if patch_sha256(dn[row]) != hashes[row]]


def set_damaged_aside(folder: Path, problems: list[str]) -> list[int]:
    """Lets the shards that `verify_files` named count as unfinished; returns their numbers."""
    named = {name for problem in problems if (name := problem.partition(":")[0]).startswith("patches.zarr/image/c/")}
    shards = sorted({int(Path(name).parts[3]) for name in named})
    store = read_store(folder)
    for shard in shards:
        if store.is_done(shard):
            store.set_aside(shard)
    return shards


def _is_damaged(store: PatchStore, row: int, expected: str) -> bool:
    try:
        return patch_sha256(np.asarray(store.image[row])) != expected
    except DECODING_ERRORS:
        return True


def _describe_change(folder: Path, name: str) -> str:
    parts = Path(name).parts
    if parts[:3] != ("patches.zarr", "image", "c"):
        return f"{name}: content differs from its checksum"
    shard = int(parts[3])
    try:
        store = read_store(folder)
        sidecar = read_table(store.sidecar_path(shard), asset="patches")
        rows = damaged_rows(store, shard, sidecar)
    except (*DECODING_ERRORS, StoreError) as error:
        return f"{name}: content differs from its checksum, and its rows cannot be told ({type(error).__name__})"
    places = [f"row {row} (place {sidecar['place_id'].iloc[row]})" for row in rows]
    return f"{name}: content differs from its checksum; patches affected: {', '.join(places) or 'none'}"


def _files(folder: Path) -> list[str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    names = (path.relative_to(folder).as_posix() for path in files)
    return sorted(
        name
        for name in names
        if name != SUMS_NAME and not name.endswith(IGNORED_SUFFIXES) and not name.startswith("locks/")
    )
