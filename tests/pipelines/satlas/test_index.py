"""The index names every published file; equal products leave it as it is, a revision shows."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipelines.errors import ArtefactError
from pipelines.provenance import file_sha256
from pipelines.satlas.index import build_index, damaged_files, index_path, missing_months, read_index
from pipelines.satlas.versions import products_folder, publish

FIRST, LATER = datetime(2022, 11, 6, 5, tzinfo=UTC), datetime(2022, 12, 6, 5, tzinfo=UTC)


def publish_text(root: Path, task: str, month: str, text: str) -> None:
    publish(root, task, month, text, lambda folder: (folder / f"{task}.geojson").write_text(text) and None, {})


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    publish_text(tmp_path, "solar_farm", "2022-09", "old")
    publish_text(tmp_path, "solar_farm", "2022-10", "same")
    publish_text(tmp_path, "wind_turbine", "2022-10", "other")
    build_index(tmp_path, FIRST)
    return tmp_path


def test_every_file_is_there_with_its_hash_and_time(workspace: Path) -> None:
    folder = index_path(workspace).parent
    lines = [line.split(" ") for line in (folder / "index.txt").read_text().splitlines()]
    assert [line[2] for line in lines] == [
        "solar_farm/2022-09/solar_farm.geojson",
        "solar_farm/2022-10/solar_farm.geojson",
        "wind_turbine/2022-10/wind_turbine.geojson",
    ]
    for sha256, time, path in lines:
        assert file_sha256(folder / path) == sha256
        assert time == "2022-11-06T05:00:00Z"
    assert missing_months(workspace) == {}


def test_equal_products_change_no_byte_and_keep_the_time(workspace: Path) -> None:
    before = {path.name: path.read_bytes() for path in index_path(workspace).parent.glob("index.*")}
    index = build_index(workspace, LATER)
    assert not index.changed
    assert {path.name: path.read_bytes() for path in index_path(workspace).parent.glob("index.*")} == before


def test_a_revised_month_says_so_and_changes_the_content_hash(workspace: Path) -> None:
    before = read_index(workspace)
    publish_text(workspace, "solar_farm", "2022-09", "new")
    index = build_index(workspace, LATER)
    assert index.changed
    assert index.content_sha256 != before["content_sha256"]
    assert index.revised == ["solar_farm/2022-09"]
    entries = {(each["task"], each["name"]): each for each in index.entries}
    revised = entries["solar_farm", "2022-09"]
    assert (revised["version"], revised["time"]) == (2, "2022-12-06T05:00:00Z")
    assert [(each["version"], each["time"]) for each in revised["superseded"]] == [(1, "2022-11-06T05:00:00Z")]
    assert entries["solar_farm", "2022-10"]["time"] == "2022-11-06T05:00:00Z"
    assert json.loads(index_path(workspace).read_text())["entries"] == index.entries


def test_a_damaged_file_is_told_and_the_others_stay(workspace: Path) -> None:
    path = products_folder(workspace, "solar_farm") / "2022-10" / "solar_farm.geojson"
    path.write_text("changed by hand")
    assert damaged_files(workspace) == {"solar_farm/2022-10/solar_farm.geojson": "changed"}
    index = build_index(workspace, LATER)
    assert list(index.faults) == ["solar_farm/2022-10/solar_farm.geojson"]
    assert len(index.entries) == 3
    assert "2022-10/solar_farm" not in (index_path(workspace).parent / "index.txt").read_text()


def test_months_between_that_are_missing_are_told(workspace: Path) -> None:
    publish_text(workspace, "solar_farm", "2022-12", "later")
    build_index(workspace, LATER)
    assert missing_months(workspace) == {"solar_farm": ["2022-11"]}


def test_nothing_published_is_told(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="no products to index; materialize satlas_products"):
        build_index(tmp_path)
    with pytest.raises(ArtefactError, match="no such file; materialize satlas_index"):
        read_index(tmp_path)
