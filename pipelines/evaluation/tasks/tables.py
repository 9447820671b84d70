"""Tables of tasks, read as they are declared."""

import csv
import gzip
import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pandas as pd
import pyarrow
import pyarrow.parquet

from pipelines.embeddings.points import SUPPORTED, is_url, listed, missing_columns
from pipelines.errors import MissingTableError, TableError
from pipelines.evaluation.tasks.config import TableFormat, TaskConfig
from pipelines.evaluation.tasks.download import download_file
from pipelines.evaluation.tasks.sources import missing_table

GZIP, ZIP, PARQUET = b"\x1f\x8b", b"PK\x03\x04", b"PAR1"
UTF_16: Final = (b"\xff\xfe", b"\xfe\xff")
DELIMITERS: Final = ",;\t"
WHITESPACE: Final = "whitespace"


def read_task_table(config: TaskConfig, source: str) -> tuple[pd.DataFrame, str]:
    """The columns of a table that a task needs, and the SHA-256 of its file.

    Classes and labels are read as text, so that codes keep their leading zeros and a country code "NA" stays one.
    The table of a GeoParquet file is a GeoDataFrame in its own reference system.

    Args:
        config: The task.
        source: Path or address of its table.

    Raises:
        MissingTableError: There is no such file.
        TableError: The file cannot be read as the format says, lacks a column the task names, or has no rows.
    """
    content = _content(config, source)
    sha256 = hashlib.sha256(content).hexdigest()
    needed = {config.lon_column, config.lat_column, config.target, *config.dropped_values}
    try:
        content = _unpacked(content, config.format, source)
        table = (
            _read_parquet(content, config, needed, source)
            if content.startswith(PARQUET)
            else _read_text(_text(content, config.format, source), config, needed, source)
        )
    except (pyarrow.ArrowException, ValueError, OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        first_line = (str(error).splitlines() or [""])[0]
        remedy = "a lone double quote? set format: {quoting: false}" if "EOF inside" in first_line else ""
        expected = remedy or f"expected {SUPPORTED}, or zip"
        raise TableError(f"{source}: cannot be read as a table ({first_line}); {expected}") from error
    if len(table) == 0:
        raise TableError(
            f"{source}: the table has columns {listed(list(table.columns))} but no rows; expected at least one place"
        )
    return table, sha256


def _require_columns(found: Collection[Any], config: TaskConfig, source: str) -> None:
    """Raises TableError if a column of values that a task names is not among those found, which the message lists."""
    for column in (config.target, *config.dropped_values):
        if column not in found:
            verb = "predicts" if column == config.target else "drops values of"
            raise TableError(
                f"{source}: task {config.name} {verb} column {column!r}; found columns {listed(list(found))}"
                f"{_hint(found)}"
            )


def _require_coordinates(found: Collection[Any], config: TaskConfig, source: str) -> None:
    if config.lon_column not in found or config.lat_column not in found:
        told = missing_columns(list(found), source, config.lon_column, config.lat_column)
        raise TableError(f"{told}{_hint(found)}")


def _hint(found: Collection[Any]) -> str:
    if len(found) == 1:
        return "; a single column suggests another delimiter: set format: {delimiter: ...}"
    if any(_is_number(column) for column in found):
        return "; numbers as names suggest a table without a line of names: set format: {columns: [...]}"
    return ""


def _content(config: TaskConfig, source: str) -> bytes:
    if is_url(source):
        with TemporaryDirectory() as folder:
            path = Path(folder) / "table"
            download_file(source, path)
            return path.read_bytes()
    try:
        return Path(source).read_bytes()
    except FileNotFoundError as error:
        raise MissingTableError(missing_table(config, source)) from error
    except OSError as error:
        raise TableError(f"{source}: cannot be opened ({error.strerror}); expected a file: {SUPPORTED}") from error


def _unpacked(content: bytes, form: TableFormat, source: str) -> bytes:
    if content.startswith(ZIP):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [name for name in archive.namelist() if not name.endswith("/") and "__MACOSX" not in name]
            if "[Content_Types].xml" in members:
                raise TableError(f"{source}: is an office document, not a table; save it as CSV")
            member = form.member or (members[0] if len(members) == 1 else None)
            if member not in members:
                raise TableError(
                    f"{source}: the archive has no single file {form.member or ''!r}; found {listed(members)}; "
                    "name one: format: {member: ...}"
                )
            content = archive.read(member)
    elif form.member is not None:
        raise TableError(f"{source}: is no zip archive, yet format names its member {form.member!r}; leave that out")
    return gzip.decompress(content) if content.startswith(GZIP) else content


def _read_parquet(content: bytes, config: TaskConfig, needed: set[str], source: str) -> pd.DataFrame:
    import geopandas

    buffer = io.BytesIO(content)
    schema = pyarrow.parquet.read_schema(buffer)
    _require_columns(schema.names, config, source)
    wanted = [name for name in schema.names if name in needed]
    if b"geo" in (schema.metadata or {}):
        geometry = json.loads(schema.metadata[b"geo"])["primary_column"]
        return geopandas.read_parquet(buffer, columns=[*wanted, geometry])
    _require_coordinates(schema.names, config, source)
    return pd.read_parquet(buffer, columns=wanted)


def _text(content: bytes, form: TableFormat, source: str) -> str:
    if content.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        raise TableError(f"{source}: is a web page, not a table; download the file that the page is about")
    encoding = "utf-8-sig" if form.encoding.lower() in ("utf-8", "utf8") else form.encoding
    try:
        text = content.decode(encoding)
    except (UnicodeDecodeError, LookupError) as error:
        likely = "utf-16" if content.startswith(UTF_16) else "latin-1"
        raise TableError(
            f"{source}: is not written in {form.encoding} ({error}); name its encoding, such as "
            f"format: {{encoding: {likely}}}"
        ) from error
    if not text.strip():
        raise TableError(f"{source}: the file is empty; expected {SUPPORTED}")
    return text


def _read_text(text: str, config: TaskConfig, needed: set[str], source: str) -> pd.DataFrame:
    form = config.format
    delimiter = form.delimiter or _most_frequent_delimiter(text, form)
    quoting = csv.QUOTE_MINIMAL if form.quoting else csv.QUOTE_NONE
    options: dict[str, Any] = {
        "sep": r"\s+" if delimiter == WHITESPACE else delimiter,
        "quoting": quoting,
        "skipinitialspace": delimiter != WHITESPACE,
    }
    if form.columns is None:
        options |= {"header": 0, "skiprows": form.lines_above_data - 1}
    else:
        options |= {"header": None, "skiprows": form.lines_above_data}
    names = [str(name).strip() for name in (form.columns or _names_of(text, options))]
    _require_columns(names, config, source)
    _require_coordinates(names, config, source)
    num_fields = _num_fields(text, options)
    if num_fields == 0:
        return pd.DataFrame(columns=names)
    if num_fields != len(names):
        raise ValueError(f"rows have {num_fields} fields, but there are {len(names)} names of columns")
    as_text = {index for index, name in enumerate(names) if name not in needed}
    if config.kind != "regression" or form.thousands is not None:
        as_text.add(names.index(config.target))
    above = options.pop("skiprows") + (0 if options.pop("header") is None else 1)
    table = pd.read_csv(
        io.StringIO(text),
        names=range(len(names)),
        header=None,
        skiprows=above,
        dtype=dict.fromkeys(as_text, str),
        keep_default_na=False,
        na_values=["", *form.missing],
        low_memory=False,
        **options,
    ).rename(columns=dict(enumerate(names)))
    return table[[name for name in names if name in needed]]


def _names_of(text: str, options: dict[str, Any]) -> list[Any]:
    return list(pd.read_csv(io.StringIO(text), nrows=0, **options).columns)


def _num_fields(text: str, options: dict[str, Any]) -> int:
    above = options["skiprows"] + (0 if options["header"] is None else 1)
    try:
        first = pd.read_csv(io.StringIO(text), nrows=1, dtype=str, **(options | {"header": None, "skiprows": above}))
    except pd.errors.EmptyDataError:
        return 0
    return len(first.columns)


def _most_frequent_delimiter(text: str, form: TableFormat) -> str:
    first = form.lines_above_data - (1 if form.columns is None else 0)
    line = (text.split("\n", first + 1)[first:] or [""])[0]
    return max(DELIMITERS, key=line.count)


def _is_number(name: object) -> bool:
    try:
        float(str(name))
    except ValueError:
        return False
    return True
