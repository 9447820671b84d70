"""A dataset: a finished store, verified, described and published under a version."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.errors import DatasetError
from pipelines.patches.radiometry import Radiometry, apply_radiometry
from pipelines.patches.store import PatchStore, dataset_folder, read_store
from pipelines.provenance import content_hash, file_sha256
from pipelines.sampling.tables import read_table

LATEST: Final = "latest"
RECORD_NAME: Final = "dataset.json"
PLACES_NAME: Final = "places.parquet"
REPLAY_NAME: Final = "replay_manifest.parquet"


@dataclass(frozen=True)
class BandStatistics:
    """Offset-free reflectance of one band over all pixels with data."""

    band: str
    mean: float
    std: float
    minimum: float
    maximum: float
    num_pixels: int


@dataclass(frozen=True)
class DatasetRecord:
    """What is known of a published dataset; ``problems`` is empty where every check passed.

    Attributes:
        version: Its id.
        base_version: The version that a refresh built upon, or what was compacted; empty where there is none.
        num_renewed: Places whose patch differs from the base's.
        num_rows: Rows of the store; more than ``num_places`` where a refresh left superseded ones.
    """

    version: str
    plan_id: str
    base_version: str
    content_sha256: str
    num_places: int
    num_valid: int
    num_renewed: int
    num_rows: int
    num_shards: int
    bands: tuple[str, ...]
    reasons: dict[str, int]
    rejections: dict[str, int]
    baselines: dict[str, int]
    statistics: tuple[BandStatistics, ...]
    packages: dict[str, str]
    commit: str | None
    source: str
    minimum_valid_fraction: float
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the dataset may be trained on."""
        return not self.problems


@dataclass(frozen=True)
class PatchDataset:
    """A published dataset, opened for reading; places are counted from 0 in the order of ``places``.

    Attributes:
        version: Its id.
        path: Its folder.
        record: What was verified.
        places: One row per place: ``row`` (the store's), the columns of `PatchRow` but for addresses, and sha256.
        store: The pixels.
    """

    version: str
    path: Path
    record: DatasetRecord
    places: pd.DataFrame
    store: PatchStore

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands in pixel order."""
        return self.store.schema.bands

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return self.store.schema.patch_size_px

    @property
    def shard_size(self) -> int:
        """Places read together by `read_shard_dn`."""
        return self.store.schema.shard_size

    @property
    def num_shards(self) -> int:
        """Number of such groups of places."""
        return -(-self.num_places // self.shard_size)

    @property
    def num_places(self) -> int:
        """Places, with a patch or without."""
        return len(self.places)

    def read_dn(self, index: int) -> NDArray[np.uint16]:
        """Digital numbers of one place, shape (12, size, size); zeros where the place has no patch."""
        pixels: NDArray[np.uint16] = np.asarray(self.store.image[int(self.places["row"].iloc[index])])
        return pixels

    def read(self, index: int, radiometry: Radiometry = "reflectance") -> NDArray[Any]:
        """One place's patch, shape (12, size, size); see `apply_radiometry` for the modes.

        Raises:
            ValueError: an unknown mode.
        """
        return apply_radiometry(self.read_dn(index), self.places["boa_add_offset"].iloc[index], radiometry)

    def read_shard_dn(self, shard: int) -> NDArray[np.uint16]:
        """Digital numbers of the shard_size places from ``shard * shard_size`` on, shape (n, 12, size, size)."""
        start = shard * self.shard_size
        return read_rows(self.store, self.places["row"].to_numpy()[start : start + self.shard_size])


def read_rows(store: PatchStore, rows: NDArray[np.int64]) -> NDArray[np.uint16]:
    """Digital numbers of some rows of a store, in their order; runs of consecutive rows are read at once."""
    out = np.empty((len(rows), *store.image.shape[1:]), dtype=np.uint16)
    breaks = np.flatnonzero(np.diff(rows) != 1) + 1
    for run in np.split(np.arange(len(rows)), breaks):
        if len(run):
            out[run[0] : run[-1] + 1] = store.image[int(rows[run[0]]) : int(rows[run[-1]]) + 1]
    return out


def latest_version(root: Path) -> str | None:
    """Id of the dataset that was published last in a workspace, None where none was."""
    pointer = root / "datasets" / "latest.json"
    return str(json.loads(pointer.read_text())["version"]) if pointer.is_file() else None


def published_versions(root: Path) -> list[str]:
    """Ids of all published datasets of a workspace, oldest first."""
    records = sorted((root / "datasets").glob(f"*/{RECORD_NAME}"), key=lambda path: (path.stat().st_mtime_ns, path))
    return [path.parent.name for path in records]


def resolve_version(root: Path, version: str = LATEST) -> str:
    """The id behind ``latest``, any other as it is.

    Raises:
        DatasetError: nothing was published yet.
    """
    found = latest_version(root) if version == LATEST else version
    if found is None:
        raise DatasetError(f"{root}: no dataset published yet; materialize patch_dataset or import one")
    return found


def open_patch_dataset(root: Path, version: str = LATEST) -> PatchDataset:
    """Opens a dataset for training or embedding.

    Args:
        root: The workspace.
        version: Its id, or ``latest``.

    Raises:
        DatasetError: it does not exist, was never verified, or did not pass.
    """
    folder = dataset_folder(root, resolve_version(root, version))
    record = read_dataset_record(folder)
    if not record.passed:
        raise DatasetError(
            f"{folder}: the dataset did not pass its checks: {'; '.join(record.problems)}; "
            "materialize patches and patch_dataset again"
        )
    places = read_places(folder)
    found = content_sha256(places["sha256"])
    if found != record.content_sha256:
        raise DatasetError(
            f"{folder}: {PLACES_NAME} has content {found[:12]}, {RECORD_NAME} says {record.content_sha256[:12]}; "
            "materialize patch_dataset again"
        )
    return PatchDataset(version=folder.name, path=folder, record=record, places=places, store=read_store(folder))


def read_places(folder: Path) -> pd.DataFrame:
    """The places of a version's folder."""
    return read_table(folder / PLACES_NAME, asset="patch_dataset")


def content_sha256(hashes: Sequence[str] | pd.Series) -> str:
    """What a dataset's pixels come down to: SHA-256 over the hashes of its patches in the order of its places."""
    return content_hash(list(hashes))


def read_dataset_record(folder: Path) -> DatasetRecord:
    """Reads what verification found.

    Raises:
        DatasetError: the dataset was never verified, or its record cannot be read.
    """
    path = folder / RECORD_NAME
    if not path.is_file():
        raise DatasetError(f"{folder}: no {RECORD_NAME}, the dataset was never verified; materialize patch_dataset")
    try:
        fields = json.loads(path.read_text())
        fields["statistics"] = tuple(BandStatistics(**each) for each in fields["statistics"])
        for name in ("bands", "problems"):
            fields[name] = tuple(fields[name])
        return DatasetRecord(**fields)
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{path}: cannot be read ({error}), expected the record of a dataset; materialize patch_dataset again"
        ) from error


def replay_manifest_sha256(folder: Path) -> str:
    """SHA-256 of the replay manifest's file."""
    return file_sha256(folder / REPLAY_NAME)
