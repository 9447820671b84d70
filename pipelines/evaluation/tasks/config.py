"""How a downstream task is declared: what to predict, from which table, and how that table is written."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Kind = Literal["regression", "classification", "multilabel"]
Transform = Literal["none", "log1p", "standardise"]


def _as_text(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    return str(int(value)) if float(value).is_integer() else str(value)


def _one_or_more(value: object) -> object:
    return value if isinstance(value, (list, tuple)) else (value,)


Texts = Annotated[tuple[Annotated[str, BeforeValidator(_as_text)], ...], BeforeValidator(_one_or_more)]


class TableFormat(BaseModel):
    """How a table of text is written, where that cannot be told from its content; Parquet needs none of it.

    Gzip, Parquet and CSV are told apart by content. In CSV only an empty field is missing.

    Attributes:
        delimiter: One character, or ``whitespace`` for any run of blanks; by default the most frequent of comma,
            semicolon and tab in the first line.
        columns: Names of the columns of a table without a line of names.
        header_rows: Lines above the data; without ``columns`` the last of them names the columns. By default 1, or 0
            where ``columns`` are given.
        member: File within a zip archive; may be left out where the archive holds one.
        encoding: Encoding of the text.
        quoting: Whether double quotes enclose fields.
        missing: Texts that mean an absent value, beside the empty field.
        thousands: Separator of thousands in a target that is a number.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    delimiter: str | None = Field(default=None, pattern=r"^(.|\t|whitespace)$")
    columns: tuple[str, ...] | None = Field(default=None, min_length=2)
    header_rows: int | None = Field(default=None, ge=0)
    member: str | None = None
    encoding: str = "utf-8"
    quoting: bool = True
    missing: Texts = ()
    thousands: str | None = Field(default=None, min_length=1, max_length=1)

    @model_validator(mode="after")
    def _columns_have_names(self) -> Self:
        if self.columns is None and self.header_rows == 0:
            raise ValueError(
                "format: header_rows is 0 and there are no columns; name the columns of a headerless table"
            )
        return self

    @property
    def lines_above_data(self) -> int:
        """How many lines stand above the first row of data."""
        if self.header_rows is not None:
            return self.header_rows
        return 0 if self.columns is not None else 1


class TableDownload(BaseModel):
    """Where a table is fetched from when the user asks for it.

    Attributes:
        url: Address of the file.
        sha256: Its SHA-256 where that is known; a file of another content is then refused.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(pattern=r"^https?://")
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")


class TaskConfig(BaseModel):
    """One downstream task.

    Attributes:
        name: Short name, unique among the tasks of a run: letters, digits, ``_ . -`` and blanks, as it names files.
        table: CSV, Parquet or GeoParquet: an address, an absolute path, or a path below the root of tables.
        lon_column: Column of longitudes in degrees.
        lat_column: Column of latitudes in degrees.
        target: Column to predict.
        kind: A number, one class, or any number of labels per place.
        transform: What is done to a number before anything is fitted; a standardised target has mean 0 and variance 1.
        label_separator: What stands between the labels of a multilabel target.
        dropped_values: Per column one or more values whose rows are left out, such as a code for the ocean; compared
            as numbers where both are.
        format: How the table is written.
        download: Where the table is fetched from on request.
        dataset: Name of the table in the rows of scores; by default the file's name without its ending.
        licence: Licence of the table.
        source: Where the table comes from.
        citation: How to cite it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^\w[\w .-]*$")
    table: str = Field(min_length=1)
    lon_column: str = "lon"
    lat_column: str = "lat"
    target: str = Field(min_length=1)
    kind: Kind = "regression"
    transform: Transform = "none"
    label_separator: str = Field(default="|", min_length=1)
    dropped_values: dict[str, Texts] = Field(default_factory=dict)
    format: TableFormat = TableFormat()
    download: TableDownload | None = None
    dataset: str | None = None
    licence: str | None = None
    source: str | None = None
    citation: str | None = None

    @model_validator(mode="after")
    def _coordinates_are_two_columns(self) -> Self:
        if self.lon_column == self.lat_column:
            raise ValueError(
                f"task {self.name}: lon_column and lat_column are both {self.lon_column!r}; name two columns"
            )
        return self

    @model_validator(mode="after")
    def _only_numbers_are_transformed(self) -> Self:
        if self.kind != "regression" and self.transform != "none":
            raise ValueError(
                f"task {self.name}: transform {self.transform!r} is for numbers, not for classes; use none"
            )
        return self

    @property
    def dataset_name(self) -> str:
        """Name of the table in the rows of scores."""
        return self.dataset or Path(self.table.rsplit("/", maxsplit=1)[-1]).name.split(".")[0]
