from pathlib import Path

import pytest

from pipelines.errors import DatasetError
from pipelines.patches.s2_100k_index import is_safe_name, kept_columns, read_index, restored_columns, strip_secrets

PATH = Path("index.csv")


def test_columns_are_taken_by_name_in_any_order_with_all_their_digits() -> None:
    for text in (
        "lat,lon,url,fn\n-54.18078401057424,0.1,u,a.tif\n",
        "\ufefffn, lon ,lat\r\na.tif,0.1,-54.18078401057424\r\n",
    ):
        index = read_index(text.encode(), PATH)
        assert index[["fn", "lon", "lat"]].to_numpy().tolist() == [["a.tif", 0.1, -54.18078401057424]]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("fn,lon\na,1\n", r"columns \['lat'\] missing"),
        ("fn,lon,lat\n", "0 rows"),
        ("", "cannot be read as CSV"),
        ("fn,lon,lat\na,,2\n", r"a lies at lon \?, lat 2"),
        ("fn,lon,lat\na,181,2\n", r"a lies at lon 181, lat 2, expected lon in \[-180, 180\]"),
        ("fn,lon,lat\na,1,2,3,4\nb,1\n", "cannot be read as CSV"),
        ("fn,lon,lat\na,inf,2\n", "lies at lon inf"),
    ],
)
def test_an_index_that_cannot_be_used_is_told(text: str, match: str) -> None:
    with pytest.raises(DatasetError, match=match):
        read_index(text.encode(), PATH)


def test_bytes_that_are_no_text_are_told() -> None:
    with pytest.raises(DatasetError, match="cannot be read as CSV"):
        read_index(b"fn,lon,lat\n\xff\xfe,1,2\n", PATH)


@pytest.mark.parametrize("name", ["", ".", "..", "../a.tif", "/a.tif", "b/a.tif", "b\\a.tif"])
def test_a_path_is_no_safe_name(name: str) -> None:
    assert not is_safe_name(name)
    assert is_safe_name("patch_1.tif")


def test_known_columns_are_typed_and_addresses_are_not_among_them() -> None:
    text = "fn,lon,lat,boa_add_offset,row_px,sun_zenith_deg,hrefs,platform\na,1,2,-1000,7.0,,x,\nb,1,2,0,,31.5,y,S2A\n"
    restored = restored_columns(read_index(text.encode(), PATH))
    assert sorted(restored) == ["boa_add_offset", "platform", "row_px", "sun_zenith_deg"]
    assert restored["boa_add_offset"] == [-1000, 0]
    assert restored["row_px"] == [7, -1]
    assert restored["sun_zenith_deg"][1] == 31.5
    assert restored["platform"] == ["", "S2A"]


@pytest.mark.parametrize(
    ("column", "value", "match"),
    [
        ("boa_add_offset", "-999", "expected one of"),
        ("boa_add_offset", "x", "expected an integer"),
        ("row_px", "1.5", "expected an integer"),
        ("sun_zenith_deg", "inf", "expected a number"),
        ("sun_zenith_deg", "high", "expected a number"),
        ("datetime", "yesterday", "expected ISO 8601"),
    ],
)
def test_a_value_that_is_none_is_told(column: str, value: str, match: str) -> None:
    index = read_index(f"fn,lon,lat,{column}\na,1,2,{value}\n".encode(), PATH)
    with pytest.raises(DatasetError, match=match):
        restored_columns(index)


def test_kept_addresses_lose_user_query_and_fragment() -> None:
    assert strip_secrets("https://u:p@host.test/a/b.tif?sig=x&y#z") == "https://host.test/a/b.tif"
    assert strip_secrets("see s3://bucket/key?token=1 and https://h/?k=2") == "see s3://bucket/key and https://h/"
    assert strip_secrets("plain?text@here") == "plain?text@here"
    index = read_index(b"fn,lon,lat,url,place_id\na,1,2,https://h/a?sig=1,9\n", PATH)
    assert kept_columns(index).to_dict("list") == {
        "place_id": [0], "lon_deg": [1.0], "lat_deg": [2.0], "url": ["https://h/a"], "fn": ["a"],
    }  # fmt: skip
