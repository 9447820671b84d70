"""A dataset: a finished store, verified, described and published under a version."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.errors import DatasetError
from pipelines.patches.store import PatchStore, dataset_folder, read_store
from pipelines.provenance import content_hash, file_sha256
from pipelines.sampling.tables import read_table

LATEST = "latest"


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
    """What is known of a published dataset; ``problems`` is empty where every check passed."""

    version: str
    plan_id: str
    content_sha256: str
    num_places: int
    num_valid: int
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
    """A published dataset, opened for reading.

    Attributes:
        version: Its id.
        path: Its folder.
        record: What was verified.
        places: One row per place in store order; columns of `PatchRow` and sha256.
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
        """Rows of a shard."""
        return self.store.schema.shard_size

    @property
    def num_shards(self) -> int:
        """Shards of the store."""
        return self.store.schema.num_shards

    @property
    def num_places(self) -> int:
        """Rows of the store, valid or not."""
        return self.store.schema.num_places

    def read_dn(self, index: int) -> NDArray[np.uint16]:
        """Digital numbers of one row, shape (12, size, size); zeros where the row is not valid."""
        pixels: NDArray[np.uint16] = np.asarray(self.store.image[int(index)])
        return pixels

    def read_shard_dn(self, shard: int) -> NDArray[np.uint16]:
        """Digital numbers of a shard in store order, shape (n, 12, size, size)."""
        return self.store.read_shard(shard)


def open_patch_dataset(root: Path, version: str = LATEST) -> PatchDataset:
    """Opens a dataset for training or embedding.

    Args:
        root: The workspace.
        version: Its id, or ``latest``.

    Raises:
        DatasetError: it does not exist, was never verified, or did not pass.
    """
    if version == LATEST:
        pointer = root / "datasets" / "latest.json"
        if not pointer.is_file():
            raise DatasetError(f"{root}: no dataset published yet; materialize patch_dataset or import one")
        version = str(json.loads(pointer.read_text())["version"])
    folder = dataset_folder(root, version)
    record = read_dataset_record(folder)
    if not record.passed:
        raise DatasetError(
            f"{folder}: the dataset did not pass its checks: {'; '.join(record.problems)}; "
            "materialize patches and patch_dataset again"
        )
    places = read_table(folder / "places.parquet", asset="patch_dataset")
    found = content_hash(list(places["sha256"]))
    if found != record.content_sha256:
        raise DatasetError(
            f"{folder}: places.parquet has content {found[:12]}, dataset.json says {record.content_sha256[:12]}; "
            "materialize patch_dataset again"
        )
    return PatchDataset(version=version, path=folder, record=record, places=places, store=read_store(folder))


def read_dataset_record(folder: Path) -> DatasetRecord:
    """Reads what verification found.

    Raises:
        DatasetError: the dataset was never verified.
    """
    path = folder / "dataset.json"
    if not path.is_file():
        raise DatasetError(f"{folder}: no dataset.json, the dataset was never verified; materialize patch_dataset")
    fields = json.loads(path.read_text())
    fields["statistics"] = tuple(BandStatistics(**each) for each in fields["statistics"])
    for name in ("bands", "problems"):
        fields[name] = tuple(fields[name])
    return DatasetRecord(**fields)


def replay_manifest_sha256(folder: Path) -> str:
    """SHA-256 of the replay manifest's file."""
    return file_sha256(folder / "replay_manifest.parquet")
