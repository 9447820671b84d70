"""Features that banks of other versions of a dataset hold of the same patches, so that nothing is encoded twice."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import zarr
import zarr.errors
from numpy.typing import NDArray

from pipelines.features.bank_file import RECORD, bank_array, read_record


def copy_known_features(
    group: zarr.Group, path: Path, fingerprint: str, wanted: NDArray[np.uint8], valid: NDArray[np.bool_]
) -> int:
    """Copies into a bank what others beside it, of the same encoder and views, hold of the same patches.

    A patch is the same where place, offset and pixels are: its digest says so. Features that are not finite are left.

    Args:
        group: The bank.
        path: Where it is.
        fingerprint: Of the encoder and the views.
        wanted: Digests that its rows are to have, shape (n, 32).
        valid: Which of its rows have a patch.

    Returns:
        The number of patches copied.
    """
    digests = bank_array(group, "patch_digest")
    missing = valid & (np.asarray(digests[:]) != wanted).any(axis=1)
    num_missing = int(missing.sum())
    for other in _banks_beside(path, fingerprint) if num_missing else ():
        sources = _match(np.asarray(bank_array(other, "patch_digest")[:]), wanted, missing)
        for rows in _chunks(len(wanted), bank_array(group, "features").chunks[0]):
            copied = _copy(group, other, rows, sources[rows], wanted)
            missing[copied] = False
        if not missing.any():
            break
    return num_missing - int(missing.sum())


def _banks_beside(path: Path, fingerprint: str) -> Iterator[zarr.Group]:
    """The newest first."""
    paths = [each for each in path.parent.glob(f"*-{fingerprint}.zarr") if each != path]
    for each in sorted(paths, key=lambda found: found.stat().st_mtime_ns, reverse=True):
        try:
            group = zarr.open_group(each, mode="r", zarr_format=3)
        except (FileNotFoundError, zarr.errors.GroupNotFoundError):
            continue
        if RECORD in group.attrs and read_record(group).get("fingerprint") == fingerprint and "patch_digest" in group:
            yield group


def _match(found: NDArray[np.uint8], wanted: NDArray[np.uint8], missing: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Row of another bank for each row that is missing, -1 where there is none."""
    known = {digest.tobytes(): row for row, digest in enumerate(found)}
    sources = np.full(len(wanted), -1, dtype=np.int64)
    for row in np.flatnonzero(missing):
        sources[row] = known.get(wanted[row].tobytes(), -1)
    return sources


def _copy(
    group: zarr.Group, other: zarr.Group, rows: slice, sources: NDArray[np.int64], wanted: NDArray[np.uint8]
) -> NDArray[np.int64]:
    """Copies rows of a chunk; which ones. As everywhere in a bank, features are written before their digests."""
    chosen = np.flatnonzero(sources >= 0)
    if not chosen.size:
        return chosen
    order = np.argsort(sources[chosen])
    chosen = chosen[order]
    copied = np.asarray(bank_array(other, "features").get_orthogonal_selection((sources[chosen],)))
    finite = np.isfinite(copied).all(axis=(1, 2))
    chosen, copied = chosen[finite], copied[finite]
    features, digests = bank_array(group, "features"), bank_array(group, "patch_digest")
    present = np.asarray(digests[rows])
    present[chosen] = 0
    digests[rows] = present
    values = np.asarray(features[rows])
    values[chosen] = copied
    features[rows] = values
    present[chosen] = wanted[rows][chosen]
    digests[rows] = present
    in_bank: NDArray[np.int64] = chosen + rows.start
    return in_bank


def _chunks(num_rows: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size))
