"""The map is one file with all it needs, tells nothing to anyone, and MapLibre comes by consent only."""

import base64
import hashlib
import io
import json
import re
import tarfile
from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely

from pipelines.errors import ArtefactError, MissingTableError
from pipelines.satlas.index import build_index
from pipelines.satlas.map_library import FILES, default_library, find_library, install
from pipelines.satlas.map_page import land_uri, write_map
from pipelines.satlas.predictions import TileGrid, TilePredictions, write_predictions
from pipelines.satlas.product_config import ProductConfig
from pipelines.satlas.products import build_products

GRID = TileGrid(32631, 500_000.0, 5_000_000.0, 10.0, 100, 100)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Something in place of MapLibre that would break a careless page."""
    folder = tmp_path / "library"
    folder.mkdir()
    (folder / "maplibre-gl.js").write_text("const trap = '</script><!--';")
    (folder / "maplibre-gl.css").write_text(".map { color: red }")
    (folder / "LICENSE.txt").write_text("A licence */ of its own\n")
    return folder


def test_the_page_holds_products_library_and_licence_and_asks_nobody(tmp_path: Path, library: Path) -> None:
    root = tmp_path / "ws"
    for month in ("2022-01", "2022-03"):
        objects = geopandas.GeoDataFrame(
            {"category": ["wind_turbine"], "score": [0.9]},
            geometry=[shapely.Point(500_500, 4_999_500)],
            crs="EPSG:32631",
        )
        observed = np.ones((1, 1), dtype=np.uint8)
        write_predictions(root, TilePredictions("wind_turbine", month, "a", GRID, observed, objects))
    build_products(root, "wind_turbine", "2022-03", ProductConfig())
    build_index(root)
    page = write_map(root, "Turbines & <b>", library).read_text()
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    data = json.loads(text)
    assert data["months"] == ["2022-01", "2022-02", "2022-03"]
    assert [each["number"] for each in data["entries"]] == [1]
    (feature,) = data["collections"]["wind_turbine"]["features"]
    assert feature["properties"]["first_month"] == "2022-01"
    (west, south), (east, north) = data["bounds"]
    lon, lat = feature["geometry"]["coordinates"]
    assert west < lon < east
    assert south < lat < north
    assert page.count("</script>") == 3
    assert "<!--" not in page
    assert "A licence * / of its own" in page
    assert "Turbines &amp; &lt;b&gt;" in page
    assert "default-src 'none'" in page
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)
    assert write_map(root, "Turbines & <b>", library).read_text() == page


def test_a_map_needs_an_index_and_the_library(tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArtefactError, match="materialize satlas_index"):
        write_map(tmp_path, library=library)
    with pytest.raises(MissingTableError, match="allow the download"):
        find_library(tmp_path / "none")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_library().is_relative_to(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingTableError, match="npm was not found"):
        find_library(download=True)
    assert not default_library().exists()


def test_only_the_expected_package_is_installed(tmp_path: Path) -> None:
    package = tmp_path / "package.tgz"
    with tarfile.open(package, "w:gz") as archive:
        for member in FILES:
            content = member.encode()
            entry = tarfile.TarInfo(member)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    with pytest.raises(MissingTableError, match="nothing was installed"):
        install(package, tmp_path / "to")
    assert not (tmp_path / "to").exists()
    sha512 = base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode()
    install(package, tmp_path / "to", sha512)
    assert {path.name: path.read_text() for path in (tmp_path / "to").iterdir()} == {v: k for k, v in FILES.items()}
    assert find_library(tmp_path / "to") == tmp_path / "to"


def test_the_land_is_a_small_picture() -> None:
    uri = land_uri(64)
    assert uri.startswith("data:image/png;base64,")
    assert 200 < len(uri) < 5000
