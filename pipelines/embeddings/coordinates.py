"""Coordinates of points: taken from columns batch by batch, and refused with the rows that are wrong."""

from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.errors import TableError

MISSING_WORDS: Final = frozenset({"", "na", "n/a", "nan", "null", "none", "-"})
NUM_SHOWN: Final = 3

EmptyFields = Literal["refuse", "nan"]


class BadRows:
    """The first rows that break a rule, and how many do in all."""

    def __init__(self) -> None:
        self.count = 0
        self._shown: list[str] = []

    def add(self, selected: NDArray[np.bool_], values: "pd.Series[Any] | None" = None, first_row: int = 0) -> None:
        """Notes the selected rows of a batch that starts at ``first_row`` of the table."""
        rows = np.flatnonzero(selected)
        self.count += len(rows)
        for row in rows[: NUM_SHOWN - len(self._shown)].tolist():
            value = "" if values is None else f" has {values.iloc[row]!s:.40}"
            self._shown.append(f"row {first_row + row + 1}{value}")

    def __str__(self) -> str:
        total = f", {self.count} rows in all" if self.count > len(self._shown) else ""
        return ", ".join(self._shown) + f"{total} (counted from 1 after the header)"


class NumericColumn:
    """A column taken as float64 batch by batch; what is wrong with it is told by `require_valid`.

    Args:
        source: What to call the table in a message.
        column: What to call the column.
        empty: Whether an empty field (also NA, null, nan) is refused or becomes NaN.
    """

    def __init__(self, source: str, column: str, empty: EmptyFields = "refuse") -> None:
        self.source, self.column, self.empty = source, column, empty
        self._not_numbers, self._missing = BadRows(), BadRows()

    def add(self, values: "pd.Series[Any]", first_row: int = 0) -> NDArray[np.float64]:
        """The numbers of a batch, shape (n,); NaN where a field is empty or no finite number."""
        missing = values.isna().to_numpy(dtype=bool)
        if not pd.api.types.is_numeric_dtype(values):
            missing = missing | values.astype(str).str.strip().str.lower().isin(MISSING_WORDS).to_numpy(dtype=bool)
        numbers = pd.to_numeric(values.mask(missing), errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        not_numbers = (np.isnan(numbers) & ~missing) | np.isinf(numbers)
        self._not_numbers.add(not_numbers, values, first_row)
        self._missing.add(missing, None, first_row)
        return np.where(not_numbers, np.nan, numbers)

    def require_valid(self) -> None:
        """Raises TableError if a field was text or infinite, or was empty and that is refused."""
        if self._not_numbers.count:
            raise TableError(
                f"{self.source}: column {self.column!r} must hold finite numbers, but {self._not_numbers}; "
                "write plain decimal numbers (no units, no thousands separators)"
            )
        if self.empty == "refuse" and self._missing.count:
            raise TableError(
                f"{self.source}: column {self.column!r} is empty in {self._missing}; fill these in or delete the rows"
            )


class CoordinateColumns:
    """Longitudes and latitudes taken batch by batch; what is wrong with any of them is told by `require_valid`.

    Args:
        source: What to call the table in a message.
        names: What to call the column of longitudes and that of latitudes.
        empty: Whether a row without coordinates is refused or becomes NaN.
    """

    def __init__(self, source: str, names: tuple[str, str], empty: EmptyFields = "refuse") -> None:
        self.source, self.names = source, names
        self.num_rows = 0
        self._columns = [NumericColumn(source, name, empty) for name in names]
        self._beyond = [BadRows(), BadRows()]
        self._lowest, self._highest = np.full(2, np.inf), np.full(2, -np.inf)

    def add(self, lon_deg: "pd.Series[Any]", lat_deg: "pd.Series[Any]") -> NDArray[np.float64]:
        """Places of the next batch, shape (n, 2), longitude first in degrees; NaN where a coordinate is no number."""
        series = (lon_deg, lat_deg)
        pairs = zip(self._columns, series, strict=True)
        lonlat_deg = np.column_stack([column.add(values, self.num_rows) for column, values in pairs])
        for axis, bound in enumerate((180.0, 90.0)):
            numbers = lonlat_deg[:, axis]
            self._beyond[axis].add(np.abs(numbers) > bound, pd.Series(numbers), self.num_rows)
            self._lowest[axis] = np.fmin.reduce(numbers, initial=self._lowest[axis])
            self._highest[axis] = np.fmax.reduce(numbers, initial=self._highest[axis])
        self.num_rows += len(lonlat_deg)
        return lonlat_deg

    @property
    def bounds_deg(self) -> tuple[float, float, float, float]:
        """West, south, east and north end of all places so far."""
        return float(self._lowest[0]), float(self._lowest[1]), float(self._highest[0]), float(self._highest[1])

    def require_valid(self) -> None:
        """Raises TableError if a coordinate was absent, no number or out of range."""
        for column in self._columns:
            column.require_valid()
        self._require_range(0, "longitudes run from -180 to 180; subtract 360 above 180")
        extent = np.fmax(np.abs(self._lowest), np.abs(self._highest))
        lon_column, lat_column = self.names
        hint = (
            f"; if the columns are swapped, set lon_column={lat_column!r} and lat_column={lon_column!r} "
            f"(--lon-column {lat_column} --lat-column {lon_column})"
            if extent[0] <= 90.0 and extent[1] <= 180.0
            else ""
        )
        self._require_range(1, f"latitudes run from -90 to 90{hint}")

    def _require_range(self, axis: int, remedy: str) -> None:
        if self._beyond[axis].count:
            raise TableError(
                f"{self.source}: column {self.names[axis]!r} is out of range: {self._beyond[axis]}; {remedy}"
            )
