import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from pipelines.drawing import to_png_bytes
from pipelines.patches.quality_figures import counts_chart, density_map, places_map
from pipelines.patches.quality_page import QUALITY_PAGE, drawn_bbox, recorded_limits, write_quality_page
from pipelines.patches.quality_summary import QUALITY_FILE, AcceptanceLimits, read_quality
from pipelines.patches.uniformity import LandReference, land_reference
from pipelines.sampling.config import PlacesConfig
from pipelines.sampling.points import WHOLE_RANGE, write_sample_points
from pipelines.sampling.tables import write_table
from tests.pipelines.patches.quality_places import quality_places

SETTINGS = {"max_unclear_fraction": 0.01, "max_nodata_fraction": 0.1, "clear_test": "scl"}


@dataclass(frozen=True)
class Shards:
    records: tuple[Mapping[str, Any], ...]

    def finished_shards(self) -> list[int]:
        return list(range(len(self.records)))

    def read_sidecar_record(self, shard: int) -> Mapping[str, Any]:
        return self.records[shard]


@dataclass(frozen=True)
class Dataset:
    places: pd.DataFrame
    version: str = "version<7>"
    patch_size: int = 256
    store: Shards = field(default_factory=lambda: Shards(({"patch_config": SETTINGS},)))


@pytest.fixture(scope="module")
def reference() -> LandReference:
    return land_reference(lattice_size=1 << 17)


def test_the_page_and_the_numbers_lie_beside_each_other(tmp_path: Path) -> None:
    summary = write_quality_page(Dataset(quality_places(300)), tmp_path)
    assert read_quality(tmp_path) == summary
    page = (tmp_path / QUALITY_PAGE).read_text()
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    for said in (
        "version&lt;7&gt;",
        "300",
        "270",
        "90.0%",
        "exhausted 15, no_candidate 15",
        "processing_baseline: 270",
        "95th percentile",
    ):
        assert said in text or said in page
    assert page.count('<img src="data:image/png;base64,') == 7
    assert not re.findall(r"(?:src|href)=\"https?:", page)
    assert "<script" not in page
    again = tmp_path / "again"
    write_quality_page(Dataset(quality_places(300)), again)
    assert (again / QUALITY_PAGE).read_bytes() == (tmp_path / QUALITY_PAGE).read_bytes()
    assert (again / QUALITY_FILE).read_bytes() == (tmp_path / QUALITY_FILE).read_bytes()


def test_a_dataset_without_a_patch_has_a_page(tmp_path: Path) -> None:
    places = quality_places(10).iloc[[9]].reset_index(drop=True)
    summary = write_quality_page(Dataset(places), tmp_path)
    assert summary.num_accepted == 0
    page = (tmp_path / QUALITY_PAGE).read_text()
    assert "density_map" not in page
    assert page.count('<img src="data:image/png;base64,') == 6


def test_the_box_is_the_one_the_places_were_drawn_from(tmp_path: Path) -> None:
    path = tmp_path / "sample_points.parquet"
    assert drawn_bbox(path) == WHOLE_RANGE
    write_sample_points(path, PlacesConfig(num_places=3, bbox=[170.0, -25.0, -170.0, -10.0]))
    assert drawn_bbox(path) == [170.0, -25.0, -170.0, -10.0]
    write_table(path, quality_places(2)[["place_id", "lon_deg", "lat_deg"]])
    assert drawn_bbox(path) == WHOLE_RANGE


def test_limits_are_the_loosest_of_the_shards_and_none_for_an_import() -> None:
    looser = {**SETTINGS, "max_unclear_fraction": 0.05}
    both = Shards(({"patch_config": SETTINGS}, {"patch_config": looser}))
    assert recorded_limits(both) == AcceptanceLimits(0.05, 0.1)
    assert recorded_limits(Shards(({"layout": "S2-100K"},))) is None
    assert recorded_limits(Shards(())) is None


def test_a_map_of_many_places_shows_the_share_without_a_patch_in_cells(reference: LandReference) -> None:
    places = quality_places(20_001)
    places["valid"] = places["lon_deg"] > 0
    figure = places_map(places, reference, lambda lonlat: np.zeros(len(lonlat), dtype=bool))
    shares = figure.axes[0].collections[0].get_array()
    columns = shares.shape[1]
    assert columns % 2 == 0
    assert set(shares[:, : columns // 2].compressed()) == {0.5}
    assert set(shares[:, columns // 2 :].compressed()) == {0.0}


def test_the_density_of_the_lands_own_lattice_is_one_everywhere(reference: LandReference) -> None:
    figure = density_map(reference.lonlat_deg, reference, lambda lonlat: np.zeros(len(lonlat), dtype=bool))
    ratios = figure.axes[0].collections[0].get_array()
    assert ratios.count() > 500
    assert np.allclose(ratios.compressed(), 1.0)


def test_bars_are_ordered_by_count_and_none_is_said() -> None:
    bars = counts_chart("Refused", "by verdict", {"few": 2, "many": 30, "some": 5}).axes[0]
    assert [label.get_text() for label in bars.get_yticklabels()] == ["many", "some", "few"]
    assert [text.get_text() for text in bars.texts] == ["30  (81.1%)", "5  (13.5%)", "2  (5.4%)"]
    assert [label.get_text() for label in counts_chart("Refused", "", {}).axes[0].get_yticklabels()] == ["none"]


def test_drawing_leaves_no_state_behind(reference: LandReference) -> None:
    before = dict(mpl.rcParams)
    to_png_bytes(counts_chart("Refused", "by verdict", {"a": 1}), width_px=300)
    assert dict(mpl.rcParams) == before
