"""A month of several tasks: what is wrong is told, the rest is published, from the command line too."""

import json
from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely

from pipelines.cli import main
from pipelines.errors import ArtefactError
from pipelines.satlas.predictions import TileGrid, TilePredictions, prediction_folder, write_predictions
from pipelines.satlas.product_config import ProductConfig
from pipelines.satlas.stage import publish_month, summary
from pipelines.satlas.tree_cover import TreeCoverConfig
from pipelines.satlas.versions import products_folder, read_version, version_folders

MONTH = "2022-10"
GRID = TileGrid(32633, 500_000.0, 5_000_000.0, 10.0, 100, 100)
SETTINGS = (ProductConfig(), TreeCoverConfig(tile_px=256, block_px=256))
TASKS = ("solar_farm", "wind_turbine", "marine_infrastructure", "tree_cover")


def box(x: float, y: float, side: float) -> shapely.Polygon:
    return shapely.box(500_000 + x, 4_999_000 + y, 500_000 + x + side, 4_999_000 + y + side)


def write_objects_tile(
    root: Path, task: str, category: list[str | None], score: list[float], geometry: list[object]
) -> None:
    objects = geopandas.GeoDataFrame({"category": category, "score": score}, geometry=geometry, crs="EPSG:32633")
    observed = np.ones((1, 1), dtype=np.uint8)
    parents = {"radiometry": "L1C scaling made of offset-free L2A"}
    write_predictions(root, TilePredictions(task, MONTH, "a", GRID, observed, objects, parents=parents))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    west, south, east, north = box(600, 600, 90).bounds
    bow = shapely.Polygon([(west, south), (east, north), (east, south), (west, north)])
    line = shapely.Polygon([(west, south), (east, north), (west, south)])
    geometry = [box(100, 100, 80), bow, line, box(400, 100, 80), box(400, 400, 80)]
    farm = "solar_farm"
    write_objects_tile(tmp_path, farm, [farm, farm, farm, farm, None], [0.9, 0.9, 0.9, np.nan, 0.9], geometry)
    points = [box(x, 500, 2).centroid for x in (100, 500, 900)]
    write_objects_tile(tmp_path, "marine_infrastructure", ["turbine", "platform", "vessel"], [0.9, 0.8, 0.9], points)
    write_objects_tile(tmp_path, "wind_turbine", ["wind_turbine"], [0.9], points[:1])
    (prediction_folder(tmp_path, "wind_turbine", MONTH, "a") / "objects.parquet").write_bytes(b"")
    return tmp_path


def test_what_is_wrong_is_told_and_the_others_go_on(root: Path) -> None:
    found = publish_month(root, MONTH, TASKS, *SETTINGS)
    told = summary(found)
    assert told["objects"] == {"solar_farm": 2, "marine_infrastructure": 2}
    assert told["rejected"] == {
        "solar_farm": {
            "missing or unknown category": 1,
            "score missing or outside 0 to 1": 1,
            "invalid geometry": 1,
        }
    }
    assert told["without_predictions"] == ["tree_cover"]
    assert list(told["tasks_not_published"]) == ["wind_turbine"]
    assert "missing or changed since it was recorded" in told["tasks_not_published"]["wind_turbine"]
    document = json.loads(
        (products_folder(root, "marine_infrastructure") / "latest/marine_infrastructure.geojson").read_text()
    )
    categories = sorted(each["properties"]["category"] for each in document["features"])
    assert categories == ["offshore_platform", "offshore_wind_turbine"]
    record = read_version(version_folders(root, "solar_farm", MONTH)[-1])
    assert record["radiometry"] == ["L1C scaling made of offset-free L2A"]


def test_nothing_to_publish_is_an_error_that_says_why(root: Path) -> None:
    with pytest.raises(ArtefactError, match=r"nothing published for 2022-10 \(wind_turbine: .*materialize"):
        publish_month(root, MONTH, ["wind_turbine"], *SETTINGS)
    with pytest.raises(ArtefactError, match=r"no predictions of tree_cover"):
        publish_month(root, MONTH, ["tree_cover"], *SETTINGS)


def test_the_commands_publish_index_and_validate(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--root", str(root)]
    assert main(["satlas", "products", "--task", "solar_farm", "--month", MONTH, *where]) == 0
    told = capsys.readouterr().out
    assert "solar_farm 2022-10: version 1, 2 objects" in told
    assert "left out 1 objects of 2022-10: invalid geometry" in told
    assert main(["satlas", "index", *where]) == 0
    assert "2 entries" in capsys.readouterr().out
    assert main(["satlas", "validate", "--task", "solar_farm", "--whole-world", *where]) == 0
    assert "0 of 2 samples judged" in capsys.readouterr().out
    assert main(["satlas", "products", "--task", "wind_turbine", "--month", MONTH, *where]) == 1
    assert "predict tile a again" in capsys.readouterr().err
