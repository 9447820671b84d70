import gzip
import io
import zipfile

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from pipelines.errors import MissingTableError, TableError
from pipelines.evaluation.tasks import TableFormat, TaskConfig, load_task

NUM_ROWS = 60


def rows_of(separator, target):
    return [separator.join([f"{row - 30}.0", f"{60 - row}.0", str(target(row))]) for row in range(NUM_ROWS)]


def text_of(separator=",", target=lambda row: row * 1.5, header="lon,lat,y"):
    header = [] if header is None else [header.replace(",", separator)]
    return "\n".join([*header, *rows_of(separator, target)]) + "\n"


def load(tmp_path, content, name="table.csv", **settings):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return load_task(TaskConfig(**({"name": "t", "table": name, "target": "y"} | settings)), tmp_path)


def zipped(**members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in members.items():
            archive.writestr(name.replace("__", "."), text)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "form"),
    [
        (text_of(), {}),
        (text_of(";"), {}),
        (text_of("\t"), {}),
        (text_of(":"), {"delimiter": ":"}),
        (text_of("   "), {"delimiter": "whitespace"}),
        (text_of(header=None), {"columns": ["lon", "lat", "y"]}),
        ("of; 2020\nin; degrees\n" + text_of(), {"header_rows": 3}),
        ("a;title\n" + text_of(header=None), {"header_rows": 1, "columns": ["lon", "lat", "y"]}),
        (gzip.compress(text_of().encode()), {}),
        (zipped(only__csv=text_of()), {}),
        (zipped(a__csv="x", b__csv=text_of()), {"member": "b.csv"}),
        (b"\xef\xbb\xbf" + text_of().encode(), {}),
        (text_of().encode("utf-16"), {"encoding": "utf-16"}),
        (text_of().replace("\n", "\r\n"), {}),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_one_table_written_in_many_ways_is_the_same_table(tmp_path, content, form):
    data = load(tmp_path, content, format=form)
    np.testing.assert_array_equal(data.target, np.arange(NUM_ROWS) * 1.5)
    np.testing.assert_array_equal(data.lonlat_deg[[0, 1]], [[-30.0, 60.0], [-29.0, 59.0]])
    assert (data.rows, data.num_dropped) == (NUM_ROWS, {"no coordinates": 0, "no target": 0})


def test_parquet_is_told_by_its_content(tmp_path):
    pd.read_csv(io.StringIO(text_of())).to_parquet(tmp_path / "table.csv")
    data = load_task(TaskConfig(name="t", table="table.csv", target="y"), tmp_path)
    np.testing.assert_array_equal(data.target, np.arange(NUM_ROWS) * 1.5)


def test_texts_for_absent_values_are_missing(tmp_path):
    content = text_of(target=lambda row: r"\N" if row in (3, 5) else row)
    data = load(tmp_path, content, format={"missing": r"\N"})
    assert data.num_dropped == {"no coordinates": 0, "no target": 2}
    with pytest.raises(TableError, match=r"must hold finite numbers, but row 4 has \\N"):
        load(tmp_path, content)


def test_thousands_are_read_where_their_separator_is_named(tmp_path):
    content = text_of("\t", target=lambda row: f"{row + 40_000:,}")
    data = load(tmp_path, content, format={"thousands": ","})
    np.testing.assert_array_equal(data.target, np.arange(NUM_ROWS) + 40_000.0)
    with pytest.raises(TableError, match=r'no thousands separators\); or set format: \{thousands: ","\}'):
        load(tmp_path, content)


def test_codes_of_classes_keep_leading_zeros(tmp_path):
    data = load(tmp_path, text_of(target=lambda row: f"{row % 3:03d}"), kind="classification")
    assert data.classes == ("000", "001", "002")


def test_a_lone_quote_is_text_where_nothing_is_quoted(tmp_path):
    content = text_of("\t", target=lambda row: '"a' if row == 4 else "b")
    data = load(tmp_path, content, kind="classification", format={"quoting": False})
    assert data.classes == ('"a', "b")
    with pytest.raises(TableError, match=r"set format: \{quoting: false\}"):
        load(tmp_path, content, kind="classification")


@pytest.mark.parametrize(
    ("content", "form", "message"),
    [
        ("", {}, "the file is empty"),
        ("\n \n", {}, "the file is empty"),
        ("lon,lat,y\n", {}, "has columns 'lon', 'lat', 'y' but no rows"),
        (text_of(":"), {}, r"found columns 'lon:lat:y'; a single column suggests another delimiter"),
        (text_of(), {"delimiter": ";"}, r"found columns 'lon,lat,y'; a single column suggests another delimiter"),
        (text_of(header=None), {}, r"found columns '-30.0', '60.0', '0.0'; numbers as names suggest"),
        (text_of(header=None), {"columns": ["lon", "lat", "y", "z"]}, "rows have 3 fields, but there are 4 names"),
        (text_of().replace("-28.0,58.0,", "-28.0,58.0,9,"), {}, "Expected 3 fields in line 4, saw 4"),
        (text_of(header="x,lat,y"), {}, "no column 'lon'; found columns 'x', 'lat', 'y'"),
        (
            text_of(target=lambda row: "é").encode("latin-1"),
            {},
            r"is not written in utf-8 .* format: \{encoding: latin-1",
        ),
        (text_of().encode("utf-16"), {}, r"format: \{encoding: utf-16"),
        (text_of(), {"encoding": "klingon"}, "is not written in klingon"),
        ("<!DOCTYPE html>\n<html>", {}, "is a web page, not a table"),
        (gzip.compress(text_of().encode())[:60], {}, "cannot be read as a table"),
        (zipped(a__csv="x", b__csv="y"), {}, r"no single file ''; found 'a.csv', 'b.csv'; name one: format: \{member"),
        (zipped(a__csv="x"), {"member": "b.csv"}, "no single file 'b.csv'; found 'a.csv'"),
        (zipped(**{"[Content_Types]__xml": "x"}), {}, "is an office document"),
        (text_of(), {"member": "b.csv"}, "is no zip archive"),
        (b"PAR1 and no more", {}, "cannot be read as a table"),
        (b"\x00\xff\x10\x80", {}, "is not written in utf-8"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) and "\n" not in value else "",
)
def test_a_file_that_is_not_as_declared_is_refused_with_a_remedy(tmp_path, content, form, message):
    with pytest.raises(TableError, match=message) as caught:
        load(tmp_path, content, format=form)
    assert str(tmp_path / "table.csv") in str(caught.value)


def test_a_table_that_is_not_there_is_told_apart(tmp_path):
    config = TaskConfig(name="t", table="t.csv", target="y", source="the moon", download={"url": "https://moon/t"})
    with pytest.raises(
        MissingTableError, match=r"t.csv: no such file; task t needs it: put the table \(the moon\) there, or"
    ):
        load_task(config, tmp_path)
    with pytest.raises(TableError, match="cannot be opened"):
        load_task(TaskConfig(name="t", table=".", target="y"), tmp_path)


@pytest.mark.parametrize(
    "form",
    [
        {"header_rows": 0},
        {"delimiter": "ab"},
        {"columns": ["lon"]},
        {"header_rows": -1},
        {"thousands": ""},
        {"sep": ","},
    ],
)
def test_an_impossible_format_is_refused(form):
    with pytest.raises(ValidationError):
        TableFormat(**form)
