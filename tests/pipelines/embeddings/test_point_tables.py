import functools
import gzip
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely

from pipelines.embeddings.points import read_points, read_table
from pipelines.errors import TableError

CSV = "name,lat,lon\nTromsø,69.65,18.96\nUshuaia,-54.8,-68.3\nSuva,-18.14,178.44\n"


@pytest.fixture
def csv_path(tmp_path):
    path = tmp_path / "places.csv"
    path.write_text(CSV, encoding="utf-8")
    return path


@pytest.fixture
def served(tmp_path):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def write(tmp_path, text, name="table.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_csv_gives_longitude_first_and_keeps_the_other_columns(csv_path):
    points = read_points(str(csv_path))
    assert list(points.columns) == ["lon", "lat", "name"]
    np.testing.assert_array_equal(points[["lon", "lat"]], [[18.96, 69.65], [-68.3, -54.8], [178.44, -18.14]])
    assert points["name"].tolist() == ["Tromsø", "Ushuaia", "Suva"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_the_separator_is_told_by_the_header(tmp_path, separator):
    points = read_points(write(tmp_path, "\ufeff" + CSV.replace(",", separator)))
    assert points["lat"].tolist() == [69.65, -54.8, -18.14]


def test_compressed_csv_is_read_whatever_its_name(tmp_path):
    path = tmp_path / "places.dat"
    path.write_bytes(gzip.compress(CSV.encode()))
    assert len(read_points(str(path))) == 3


def test_the_country_code_of_namibia_is_not_missing(tmp_path):
    assert read_table(write(tmp_path, "lon,lat,country\n17,-22,NA\n"))["country"].tolist() == ["NA"]


def test_named_columns_are_renamed(tmp_path):
    points = read_points(write(tmp_path, "X,Y,biome\n10,50,4\n"), lon_column="X", lat_column="Y")
    assert points.to_dict("records") == [{"lon": 10.0, "lat": 50.0, "biome": 4}]


def test_parquet_gives_what_csv_gives(tmp_path, csv_path):
    path = tmp_path / "places.parquet"
    pd.read_csv(csv_path).to_parquet(path)
    pd.testing.assert_frame_equal(read_points(str(path)), read_points(str(csv_path)), check_dtype=False)


def test_the_geometry_of_geoparquet_is_brought_to_longitude_and_latitude(tmp_path):
    lonlat_deg = np.array([[18.96, 69.65], [9.0, 0.0]])
    geometry = geopandas.GeoSeries(shapely.points(lonlat_deg), crs="EPSG:4326")
    path = tmp_path / "utm.parquet"
    geopandas.GeoDataFrame({"value": [1, 2]}, geometry=geometry).to_crs("EPSG:32632").to_parquet(path)
    points = read_points(str(path))
    assert list(points.columns) == ["lon", "lat", "value"]
    np.testing.assert_allclose(points[["lon", "lat"]], lonlat_deg, atol=1e-7)


def test_columns_are_preferred_to_the_geometry(tmp_path):
    path = tmp_path / "both.parquet"
    table = {"lon": [1.0], "lat": [2.0]}
    geopandas.GeoDataFrame(table, geometry=shapely.points([[5.0, 6.0]]), crs="EPSG:4326").to_parquet(path)
    assert read_points(str(path)).to_dict("records") == [{"lon": 1.0, "lat": 2.0}]


@pytest.mark.network
def test_an_address_gives_what_the_file_gives(csv_path, served):
    pd.testing.assert_frame_equal(read_points(f"{served}/places.csv"), read_points(str(csv_path)))


@pytest.mark.network
def test_an_address_that_is_not_there_says_so(served):
    with pytest.raises(TableError, match=r"absent.csv: the server answered HTTP 404 .*check the address"):
        read_points(f"{served}/absent.csv")


@pytest.mark.network
def test_a_server_that_is_down_says_so(served, monkeypatch):
    monkeypatch.setattr("pipelines.embeddings.points.NUM_RETRIES", 0)
    with pytest.raises(TableError, match=r"cannot be fetched \(ConnectionError\)"):
        read_points("http://127.0.0.1:9/places.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "Lon,Lat,meanT\n7,36,18\n",
            "found columns 'Lon', 'Lat', 'meanT'. Name the columns: lon_column='Lon', lat_column='Lat'",
        ),
        ("lon,value\n7,36\n", "no column 'lat'; found columns 'lon', 'value'"),
        ("a,b\n7,36\n", "lon_column='<longitude column>', lat_column='<latitude column>'"),
        ("lon,lat\n1,2\n5,95\n100,-91.5\n", "column 'lat' is out of range: row 2 has 95.0, row 3 has -91.5"),
        ("lon,lat\n1,2\n200,5\n", "column 'lon' is out of range: row 2 has 200.0 .*subtract 360"),
        ("lon,lat\n50,120\n", "if the columns are swapped, set lon_column='lat' and lat_column='lon'"),
        ("lon,lat\n1,2\n3,\n,4\n", "column 'lon' is empty in row 3 .*fill these in or delete the rows"),
        ("lon,lat\n1,2\n3,nan\n5,6\n", "column 'lat' is empty in row 2 "),
        ("lon,lat\n1,2\n3,north\n5,6 N\n", "must hold finite numbers, but row 2 has north, row 3 has 6 N"),
        ("lon,lat\n1,inf\n", "must hold finite numbers, but row 1 has inf"),
        ("lon,lat\n", "has columns 'lon', 'lat' but no rows"),
        ("", "cannot be read as a table"),
        ("lon,lat\n1,2,3,4\n", "cannot be read as a table"),
        ("x,y,lon\n1,2,3\n", "the table also has 'lon'; rename"),
    ],
)
def test_a_bad_table_is_refused_with_its_remedy(tmp_path, text, message):
    source = write(tmp_path, text)
    columns = {"lon_column": "x", "lat_column": "y"} if text.startswith("x,y") else {}
    with pytest.raises(TableError, match=message) as raised:
        read_points(source, **columns)
    assert str(raised.value).startswith(source)


def test_only_the_first_rows_are_shown_and_all_are_counted(tmp_path):
    source = write(tmp_path, "lon,lat\n" + "100,95\n" * 7)
    with pytest.raises(TableError, match=r"row 3 has 95.0, 7 rows in all \(counted from 1 after the header\)"):
        read_points(source)


@pytest.mark.parametrize(
    "content", [b"PAR1 but not really", b"\x1f\x8b\x08 broken", b"lon,lat\n\xff\xfe,1\n", b"\x00\x01\x02"]
)
def test_a_file_that_is_no_table_is_refused(tmp_path, content):
    path = tmp_path / "broken.bin"
    path.write_bytes(content)
    with pytest.raises(TableError, match=r"broken\.bin"):
        read_points(str(path))


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(TableError, match="no such file"):
        read_points(str(tmp_path / "absent.csv"))
    with pytest.raises(TableError, match="cannot be opened"):
        read_points(str(tmp_path))


def test_lines_and_unknown_reference_systems_are_refused(tmp_path):
    line, unknown = tmp_path / "line.parquet", tmp_path / "unknown.parquet"
    geopandas.GeoDataFrame(geometry=[shapely.LineString([(0, 0), (1, 1)])], crs="EPSG:4326").to_parquet(line)
    geopandas.GeoDataFrame(geometry=[shapely.Point(0, 0)]).to_parquet(unknown)
    with pytest.raises(TableError, match="holds LineString; expected points"):
        read_points(str(line))
    with pytest.raises(TableError, match="no reference system"):
        read_points(str(unknown))


@pytest.mark.real_data
def test_real_stations_are_read(shared_data):
    points = read_points(str(shared_data / "air_temperature" / "stationDataAll.csv"), "Lon", "Lat")
    assert len(points) == 3076
    assert list(points.columns[:4]) == ["lon", "lat", "nObs", "SG_rmsep"]
