"""Downstream tasks: what to predict at which places, declared as configuration and loaded with care."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipelines.embeddings.points import is_url, lonlat_of, numeric_column, read_table
from pipelines.errors import TableError

logger = logging.getLogger(__name__)

MIN_PLACES = 50


class TaskConfig(BaseModel):
    """One downstream task.

    Attributes:
        name: Short name, unique among the tasks of a run.
        table: CSV, Parquet or GeoParquet: an address, an absolute path, or a path below the root of tables.
        lon_column: Column of longitudes in degrees.
        lat_column: Column of latitudes in degrees.
        target: Column to predict.
        kind: Whether the target is a number or a class.
        transform: What is done to a number before anything is fitted; a standardised target has mean 0 and variance 1.
        dataset: Name of the table in the rows of scores; by default the file's name without its ending.
        licence: Licence of the table.
        source: Where the table comes from.
        citation: How to cite it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    table: str = Field(min_length=1)
    lon_column: str = "lon"
    lat_column: str = "lat"
    target: str = Field(min_length=1)
    kind: Literal["regression", "classification"] = "regression"
    transform: Literal["none", "log1p", "standardise"] = "none"
    dataset: str | None = None
    licence: str | None = None
    source: str | None = None
    citation: str | None = None

    @model_validator(mode="after")
    def _classes_are_not_transformed(self) -> Self:
        if self.kind == "classification" and self.transform != "none":
            raise ValueError(
                f"task {self.name}: transform {self.transform!r} is for numbers, not for classes; use none"
            )
        return self

    @property
    def dataset_name(self) -> str:
        """Name of the table in the rows of scores."""
        return self.dataset or Path(self.table.rsplit("/", maxsplit=1)[-1]).name.split(".")[0]


@dataclass(frozen=True)
class TaskData:
    """A task's places and targets, rows in the order of the table.

    Attributes:
        config: The task.
        lonlat_deg: Places, shape (n, 2), longitude first.
        target: Shape (n,): transformed numbers (float64), or positions in ``classes`` (int64).
        classes: Names of the classes in ascending order; empty for a regression.
        num_dropped: Rows of the table left out, by reason.
    """

    config: TaskConfig
    lonlat_deg: NDArray[np.float64]
    target: NDArray[np.float64] | NDArray[np.int64]
    classes: tuple[str, ...]
    num_dropped: dict[str, int]

    @property
    def num_places(self) -> int:
        """Number of places with a target."""
        return len(self.target)


def load_task(config: TaskConfig, tables_root: str | Path | None = None) -> TaskData:
    """Places and targets of a task; rows without coordinates or target are left out and counted.

    Args:
        config: The task.
        tables_root: Folder, or http(s) address, below which relative tables are found; None allows no relative table.

    Raises:
        TableError: The table cannot be read, a column is missing, a coordinate or number is none, fewer than 50 rows
            remain, the target is constant, or it cannot be transformed.
        TableError: The table is relative and there is no root.
    """
    source = table_source(config.table, tables_root)
    table = read_table(source)
    if config.target not in table.columns:
        found = ", ".join(repr(str(column)) for column in table.columns)
        raise TableError(f"{source}: task {config.name} predicts column {config.target!r}; found columns {found}")
    lonlat_deg = lonlat_of(table, source, config.lon_column, config.lat_column, empty="nan")
    located = np.isfinite(lonlat_deg).all(axis=1)
    if config.kind == "regression":
        numbers = numeric_column(table, config.target, source, empty="nan")
        has_target = np.isfinite(numbers)
    else:
        labels = _labels(table[config.target])
        has_target = labels.notna().to_numpy(dtype=bool)
    kept = located & has_target
    num_dropped = {"no coordinates": int((~located).sum()), "no target": int((located & ~has_target).sum())}
    if kept.sum() < MIN_PLACES:
        raise TableError(
            f"{source}: task {config.name} has {kept.sum()} rows with coordinates and target (of {len(table)}); "
            f"expected at least {MIN_PLACES}"
        )
    classes: tuple[str, ...] = ()
    target: NDArray[np.float64] | NDArray[np.int64]
    if config.kind == "regression":
        target = _transformed(numbers[kept], config, source)
    else:
        names, codes = np.unique(labels[kept].to_numpy(dtype=str), return_inverse=True)
        classes, target = tuple(names.tolist()), codes.astype(np.int64)
        if len(classes) < 2:
            raise TableError(
                f"{source}: column {config.target!r} holds only class {classes[0]!r}; expected two or more"
            )
    logger.info("task %s: %d places of %s, dropped %s", config.name, kept.sum(), source, num_dropped)
    return TaskData(config, lonlat_deg[kept], target, classes, num_dropped)


def table_source(table: str, tables_root: str | Path | None) -> str:
    """Path or address of a task's table.

    Raises:
        ValueError: The table is relative and there is no root.
    """
    if is_url(table) or Path(table).is_absolute():
        return table
    if tables_root is None:
        raise TableError(
            f"table {table!r} is relative and there is no root of tables, expected one; set SATCLIP_TABLES_ROOT or the "
            "tables resource's root, or give a whole path or an address"
        )
    root = str(tables_root)
    return f"{root.rstrip('/')}/{table}" if is_url(root) else str(Path(root) / table)


def _labels(column: "pd.Series[Any]") -> "pd.Series[Any]":
    present = column.notna() & ~column.astype(str).str.strip().isin({"", "nan", "NaN"})
    whole = pd.api.types.is_float_dtype(column) and bool((column[present] % 1 == 0).all())
    labels = column[present].astype("int64") if whole else column[present]
    return labels.astype(str).str.strip().reindex(column.index)


def _transformed(numbers: NDArray[np.float64], config: TaskConfig, source: str) -> NDArray[np.float64]:
    if numbers.min() == numbers.max():
        raise TableError(f"{source}: column {config.target!r} is {numbers[0]} in every row; nothing to predict")
    if config.transform == "log1p":
        if numbers.min() <= -1:
            raise TableError(
                f"{source}: column {config.target!r} goes down to {numbers.min()}, but log1p needs numbers above -1; "
                "use transform none or standardise"
            )
        return np.log1p(numbers)
    if config.transform == "standardise":
        return np.asarray((numbers - numbers.mean()) / numbers.std(), dtype=np.float64)
    return numbers
