"""Labels of patches: the share of each land-cover class, and where it is known from."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.atomic import write_json
from pipelines.errors import ArtefactError, TableError
from pipelines.ground_cover.classes import LandCoverClass, LandCoverClasses
from pipelines.provenance import file_sha256
from pipelines.sampling.tables import read_table, write_table

VALID: Final = "valid"
NO_PATCH: Final = "no_patch"
NO_GRID: Final = "no_grid"
NO_LABEL_ITEM: Final = "no_label_item"
OTHER_YEAR: Final = "other_year"
NO_DATA: Final = "nodata"
UNKNOWN_CODES: Final = "unknown_codes"
UNREADABLE: Final = "unreadable"
STATUSES: Final = (VALID, NO_PATCH, NO_GRID, NO_LABEL_ITEM, OTHER_YEAR, NO_DATA, UNKNOWN_CODES, UNREADABLE)
"""A label that may be used; no patch at the place; a patch whose grid is not known; no map there; none near its date;
too few pixels with a class; too many pixels of codes that the classes do not name; a file of the map that is missing or
damaged."""
NO_YEAR: Final = -1
NO_CODE: Final = -1

LABELS_NAME: Final = "labels.parquet"
RECORD_NAME: Final = "record.json"


@dataclass(frozen=True)
class GroundCoverLabels:
    """Labels of N patches in C classes, one entry for each place of a dataset and in its order, valid or not.

    Attributes:
        rows: Rows of the store, or line numbers of a table, int64 (N,).
        lonlat_deg: Centres of the patches, longitude first, float64 (N, 2).
        fractions: Share of each class among the pixels with a class, float32 (N, C); zeros where there are none.
        num_valid_pixels: Pixels with a class, int64 (N,); of a table, the labels of the place.
        label_year: Year of the map, int64 (N,); ``NO_YEAR`` where there is none.
        status: One of ``STATUSES`` for each, (N,).
        classes: The columns of the fractions.
    """

    rows: NDArray[np.int64]
    lonlat_deg: NDArray[np.float64]
    fractions: NDArray[np.float32]
    num_valid_pixels: NDArray[np.int64]
    label_year: NDArray[np.int64]
    status: tuple[str, ...]
    classes: LandCoverClasses

    def __post_init__(self) -> None:
        num = len(self.rows)
        shapes = {
            "lonlat_deg": (self.lonlat_deg.shape, (num, 2)),
            "fractions": (self.fractions.shape, (num, len(self.classes))),
            "num_valid_pixels": (self.num_valid_pixels.shape, (num,)),
            "label_year": (self.label_year.shape, (num,)),
            "status": ((len(self.status),), (num,)),
        }
        wrong = [
            f"{name} {found}, expected {expected}" for name, (found, expected) in shapes.items() if found != expected
        ]
        if wrong:
            raise ValueError(f"labels of {num} places: {'; '.join(wrong)}")

    def __len__(self) -> int:
        """Number of places, valid or not."""
        return len(self.rows)

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Which labels may be used, (N,)."""
        return np.array([each == VALID for each in self.status], dtype=np.bool_)

    @property
    def dominant_index(self) -> NDArray[np.int64]:
        """Column of the class with the largest share, the first of equal ones, (N,); -1 where no label is valid."""
        return np.where(self.valid, self.fractions.argmax(axis=1), -1).astype(np.int64)

    @property
    def dominant_code(self) -> NDArray[np.int64]:
        """Code of that class, (N,); ``NO_CODE`` where no label is valid."""
        codes = np.array([*self.classes.codes, NO_CODE], dtype=np.int64)
        return codes[self.dominant_index]

    def multi_label(self, threshold: float = 0.1) -> NDArray[np.bool_]:
        """Which classes have at least a share, (N, C); none where no label is valid.

        Raises:
            ValueError: the threshold is not above 0 and at most 1.
        """
        if not 0.0 < threshold <= 1.0:
            raise ValueError(f"threshold {threshold}: expected a share above 0 and at most 1")
        return np.asarray((self.fractions >= np.float32(threshold)) & self.valid[:, None])

    def counts(self) -> dict[str, int]:
        """Number of places by status, the most frequent first."""
        return dict(Counter(self.status).most_common())

    def select(self, which: NDArray[Any]) -> Self:
        """The labels of some places, by a mask or by positions."""
        at = np.arange(len(self))[which]
        return type(self)(
            self.rows[at],
            self.lonlat_deg[at],
            self.fractions[at],
            self.num_valid_pixels[at],
            self.label_year[at],
            tuple(self.status[i] for i in at),
            self.classes,
        )


def concatenate_labels(parts: Sequence[GroundCoverLabels]) -> GroundCoverLabels:
    """Labels of the same classes, one after another.

    Raises:
        ValueError: no part, or parts of different classes.
    """
    if not parts or any(each.classes.sha256 != parts[0].classes.sha256 for each in parts):
        raise ValueError(f"{len(parts)} parts of labels: expected at least one, all of the same classes")
    return GroundCoverLabels(
        np.concatenate([each.rows for each in parts]),
        np.concatenate([each.lonlat_deg for each in parts]),
        np.concatenate([each.fractions for each in parts]),
        np.concatenate([each.num_valid_pixels for each in parts]),
        np.concatenate([each.label_year for each in parts]),
        tuple(status for each in parts for status in each.status),
        parts[0].classes,
    )


def labels_table(labels: GroundCoverLabels) -> pd.DataFrame:
    """The labels as columns, the shares as ``fraction_CODE`` after row, position, status, year and dominant code."""
    columns: dict[str, Any] = {
        "row": labels.rows,
        "lon_deg": labels.lonlat_deg[:, 0],
        "lat_deg": labels.lonlat_deg[:, 1],
        "status": list(labels.status),
        "label_year": labels.label_year,
        "dominant_code": labels.dominant_code,
        "num_valid_pixels": labels.num_valid_pixels,
    }
    fractions = {_column(code): labels.fractions[:, i] for i, code in enumerate(labels.classes.codes)}
    return pd.DataFrame(columns | fractions)


def labels_of_table(table: pd.DataFrame, classes: LandCoverClasses, source: str) -> GroundCoverLabels:
    """The inverse of `labels_table`; further columns are ignored.

    Raises:
        TableError: a column is missing.
    """
    needed = ["row", "lon_deg", "lat_deg", "status", "label_year", "num_valid_pixels", *map(_column, classes.codes)]
    missing = [name for name in needed if name not in table]
    if missing:
        raise TableError(f"{source}: columns {', '.join(missing)} are missing, expected those of {classes.name}")
    return GroundCoverLabels(
        table["row"].to_numpy(dtype=np.int64),
        table[["lon_deg", "lat_deg"]].to_numpy(dtype=np.float64),
        np.ascontiguousarray(table[[_column(code) for code in classes.codes]].to_numpy(dtype=np.float32)),
        table["num_valid_pixels"].to_numpy(dtype=np.int64),
        table["label_year"].to_numpy(dtype=np.int64),
        tuple(table["status"]),
        classes,
    )


def write_labels(
    folder: Path,
    labels: GroundCoverLabels,
    record: Mapping[str, Any],
    extra_columns: Mapping[str, Iterable[Any]] | None = None,
) -> None:
    """Writes ``labels.parquet`` (GeoParquet) and, after it, ``record.json``, both whole or not at all.

    Args:
        folder: Created where it is absent.
        labels: What to write.
        record: What made them; must name ``dataset_version`` (empty for labels of a table). The classes and the hash
            of the table are added.
        extra_columns: Further facts of the places by column name.
    """
    path = folder / LABELS_NAME
    folder.mkdir(parents=True, exist_ok=True)
    if "dataset_version" not in record:
        raise ValueError(f"{folder}: the record names no dataset_version, expected the dataset that the labels are of")
    table = labels_table(labels).assign(**{name: list(values) for name, values in (extra_columns or {}).items()})
    write_table(path, table, {"dataset_version": record["dataset_version"], "classes": labels.classes.name})
    described = {**asdict(labels.classes), "sha256": labels.classes.sha256}
    write_json(
        folder / RECORD_NAME,
        {**record, "classes": described, "labels_sha256": file_sha256(path), "statuses": labels.counts()},
    )


def read_labels(
    folder: Path, dataset_version: str | None = None, classes: LandCoverClasses | None = None
) -> GroundCoverLabels:
    """Reads labels that `write_labels` wrote.

    Args:
        folder: Theirs.
        dataset_version: The dataset that they must be of; None takes any.
        classes: The classes that they must be in; None takes any.

    Raises:
        ArtefactError: there are none, they are of another dataset or in other classes, or table and record differ.
    """
    record = read_labels_record(folder)
    found = record["dataset_version"]
    if dataset_version is not None and found != dataset_version:
        raise ArtefactError(
            f"{folder}: labels of dataset {found or 'none (a table)'}, expected those of {dataset_version}; "
            "materialize ground_cover_labels again"
        )
    written = _classes_of(record["classes"])
    if classes is not None and classes.sha256 != written.sha256:
        raise ArtefactError(
            f"{folder}: labels in the classes {written.name} ({', '.join(written.names)}), expected {classes.name} "
            f"({', '.join(classes.names)}); materialize ground_cover_labels again"
        )
    path = folder / LABELS_NAME
    table = read_table(path, asset="ground_cover_labels")
    if file_sha256(path) != record["labels_sha256"]:
        raise ArtefactError(
            f"{path}: not the table that {RECORD_NAME} beside it describes; materialize ground_cover_labels again"
        )
    return labels_of_table(table, written, str(path))


def read_labels_record(folder: Path) -> dict[str, Any]:
    """What made the labels in a folder.

    Raises:
        ArtefactError: there are none, or the record cannot be read.
    """
    path = folder / RECORD_NAME
    if not path.is_file():
        raise ArtefactError(
            f"{path}: no such file, expected ground-cover labels; materialize ground_cover_labels first"
        )
    try:
        record: dict[str, Any] = json.loads(path.read_text())
        record["dataset_version"], record["labels_sha256"], _classes_of(record["classes"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArtefactError(
            f"{path}: cannot be read ({error}), expected the record of labels; materialize ground_cover_labels again"
        ) from error
    return record


def _classes_of(described: Mapping[str, Any]) -> LandCoverClasses:
    entries = (LandCoverClass(**{**each, "color": tuple(each["color"])}) for each in described["classes"])
    return LandCoverClasses(
        str(described["name"]),
        tuple(entries),
        tuple(described["nodata_codes"]),
        str(described["source"]),
        tuple(described["item_assets"]),
    )


def _column(code: int) -> str:
    return f"fraction_{code}"
