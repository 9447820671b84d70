"""A task's places and targets from its table, with all that was left out counted."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.embeddings.points import is_url, lonlat_of, numeric_column
from pipelines.errors import TableError
from pipelines.evaluation.tasks.capping import CAP_BLOCK_DEG, draw_per_block
from pipelines.evaluation.tasks.config import TaskConfig
from pipelines.evaluation.tasks.data import TaskData
from pipelines.evaluation.tasks.sources import download_table, task_table_source
from pipelines.evaluation.tasks.tables import read_task_table

logger = logging.getLogger(__name__)

MIN_PLACES = 50
NO_LABELS = {"", "nan", "NaN"}


def load_task(
    config: TaskConfig,
    tables_root: str | Path | None = None,
    *,
    max_rows: int | None = None,
    seed: int = 0,
    download: bool = False,
) -> TaskData:
    """Places and targets of a task; rows without coordinates or target are left out and counted.

    Args:
        config: The task.
        tables_root: Folder, or http(s) address, below which relative tables are found; None allows no relative table.
        max_rows: At most so many rows, drawn per block of 10 degrees (see `draw_per_block`); None takes all.
        seed: Of the draw.
        download: Whether a table that is not there is fetched from the address that the task declares.

    Raises:
        MissingTableError: The table is not there.
        TableError: The table cannot be read, a column is missing, a coordinate or number is none, fewer than 50 rows
            remain, the target is constant, or it cannot be transformed.
        TableError: The table is relative and there is no root.
        ValueError: ``max_rows`` is below 1.
    """
    source = task_table_source(config, tables_root)
    if download and not is_url(source):
        download_table(config, tables_root)
    table, sha256 = read_task_table(config, source)
    dropped = _dropped(table, config)
    table = _emptied(table, config, dropped)
    lonlat_deg = lonlat_of(table, source, config.lon_column, config.lat_column, empty="nan")
    values = _values(table, config, source)
    num_dropped: dict[str, int] = {}
    kept = np.ones(len(table), dtype=bool)
    no_place, no_target = ~np.isfinite(lonlat_deg).all(axis=1), values.isna().to_numpy(dtype=bool)
    for reason, absent in (dropped | {"no coordinates": no_place, "no target": no_target}).items():
        num_dropped[reason] = int((kept & absent).sum())
        kept &= ~absent
    if kept.sum() < MIN_PLACES:
        raise TableError(
            f"{source}: task {config.name} has {kept.sum()} rows with coordinates and target (of {len(table)}); "
            f"expected at least {MIN_PLACES} (left out: {num_dropped})"
        )
    rows = np.flatnonzero(kept)
    if max_rows is not None:
        rows = rows[draw_per_block(lonlat_deg[rows], max_rows, seed)]
        num_dropped[f"beyond {max_rows}, drawn per block of {CAP_BLOCK_DEG:g} degrees"] = int(kept.sum()) - len(rows)
    target, classes = _target(values.iloc[rows], config, source)
    data = TaskData(config, lonlat_deg[rows], target, classes, num_dropped, sha256, len(table))
    logger.info(
        "task %s: %d places of %s%s", config.name, data.num_places, source, "".join(f"; {n}" for n in data.notes)
    )
    return data


def _values(table: pd.DataFrame, config: TaskConfig, source: str) -> "pd.Series[Any]":
    if config.kind != "regression":
        return _labels(table[config.target], config)
    column = table[config.target]
    if config.format.thousands is not None:
        column = column.astype(str).str.replace(config.format.thousands, "", regex=False)
    try:
        return pd.Series(numeric_column(column.to_frame(), config.target, source, empty="nan"))
    except TableError as error:
        if column.astype(str).str.fullmatch(r"\s*\d{1,3}(,\d{3})+(\.\d*)?\s*").any():
            raise TableError(f'{error}; or set format: {{thousands: ","}}') from error
        raise


def _labels(column: "pd.Series[Any]", config: TaskConfig) -> "pd.Series[Any]":
    column = column.reset_index(drop=True)
    if config.kind == "multilabel":
        column = column.map(
            lambda labels: labels if isinstance(labels, str) or not isinstance(labels, Iterable)
            else config.label_separator.join(map(str, labels))
        )  # fmt: skip
    present = column.notna() & ~column.astype(str).str.strip().isin(NO_LABELS)
    labels = column[present].astype(str).str.strip()
    if len(labels) and labels.str.fullmatch(r"[+-]?\d+\.0*").all():
        labels = labels.str.partition(".")[0]
    return labels.reindex(column.index)


def _dropped(table: pd.DataFrame, config: TaskConfig) -> dict[str, NDArray[np.bool_]]:
    return {
        f"{column} is {' or '.join(dropped)}": _is_one_of(table[column], dropped)
        for column, dropped in config.dropped_values.items()
    }


def _emptied(table: pd.DataFrame, config: TaskConfig, dropped: dict[str, NDArray[np.bool_]]) -> pd.DataFrame:
    """Rows that are left out are not checked, yet keep their place, so that messages count the table's own rows."""
    if not dropped:
        return table
    left_out = np.any(list(dropped.values()), axis=0)
    used = [name for name in (config.lon_column, config.lat_column, config.target) if name in table.columns]
    return table.assign(**{name: table[name].mask(left_out) for name in used})


def _is_one_of(column: "pd.Series[Any]", dropped: Iterable[str]) -> NDArray[np.bool_]:
    numbers = pd.to_numeric(pd.Series(list(dropped)), errors="coerce").dropna()
    same_text = column.astype(str).str.strip().isin(list(dropped))
    same_number = pd.to_numeric(column, errors="coerce").isin(numbers)
    return np.asarray(same_text | same_number, dtype=np.bool_)


def _target(values: "pd.Series[Any]", config: TaskConfig, source: str) -> tuple[NDArray[Any], tuple[str, ...]]:
    if config.kind == "regression":
        return _transformed(values.to_numpy(dtype=np.float64), config, source), ()
    if config.kind == "classification":
        names, codes = np.unique(values.to_numpy(dtype=str), return_inverse=True)
        _require_classes(names, len(values), config, source)
        return codes.astype(np.int64), tuple(names.tolist())
    parted = values.str.split(config.label_separator, regex=False).reset_index(drop=True).explode().str.strip()
    parted = parted[parted != ""]
    names, codes = np.unique(parted.to_numpy(dtype=str), return_inverse=True)
    _require_classes(names, len(values), config, source)
    has_class = np.zeros((len(values), len(names)), dtype=np.bool_)
    has_class[parted.index.to_numpy(), codes] = True
    return has_class, tuple(names.tolist())


def _require_classes(names: NDArray[np.str_], num_rows: int, config: TaskConfig, source: str) -> None:
    if len(names) < 2:
        raise TableError(f"{source}: column {config.target!r} holds only class {str(names[0])!r}; expected two or more")
    if config.kind == "classification" and len(names) == num_rows:
        raise TableError(
            f"{source}: column {config.target!r} holds another class in each of {num_rows} rows; nothing to learn: "
            "name a column of classes, or set kind: regression"
        )


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
