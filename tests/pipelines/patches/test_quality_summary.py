import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.errors import DatasetError
from pipelines.patches.quality_summary import (
    QUALITY_FILE,
    AcceptanceLimits,
    QualitySummary,
    read_quality,
    summarize_quality,
    write_quality,
)
from pipelines.patches.uniformity import LandReference, land_reference
from tests.pipelines.patches.quality_places import METERS_PER_DEGREE, quality_places

LIMITS = AcceptanceLimits(max_unclear_fraction=0.008, max_nodata_fraction=0.1)


@pytest.fixture(scope="module")
def reference() -> LandReference:
    return land_reference(lattice_size=1 << 17)


@pytest.fixture(scope="module")
def places() -> pd.DataFrame:
    return quality_places(600)


@pytest.fixture(scope="module")
def summary(places: pd.DataFrame, reference: LandReference) -> QualitySummary:
    return summarize_quality("v1", places, 256, reference, LIMITS)


def test_counts_are_those_of_the_table(summary: QualitySummary) -> None:
    assert (summary.num_places, summary.num_accepted) == (600, 540)
    assert summary.rejected_places == {"exhausted": 30, "no_candidate": 30}
    assert summary.rejected_scenes == {"nodata": 30, "unclear": 30}
    assert summary.baselines == {"03.01": 180, "05.09": 360}
    assert summary.offsets == {"-1000": 360, "0": 180}
    assert summary.offset_sources == {"processing_baseline": 540}
    assert sum(summary.months) == sum(summary.seasons.values()) == sum(summary.years.values()) == 540
    assert summary.num_beyond_limits == 0
    assert summary.num_duplicates == 0


def test_fractions_keep_their_distribution(summary: QualitySummary) -> None:
    unclear = summary.unclear_fraction
    assert (unclear.num_known, unclear.num_unknown) == (540, 0)
    assert unclear.mean == pytest.approx(np.mean([0.0, 0.002, 0.004, 0.006, 0.0, 0.002, 0.004, 0.006, 0.008]))
    assert unclear.maximum == pytest.approx(0.008)
    assert sum(unclear.bin_counts) == 540
    assert unclear.bin_edges[-1] == pytest.approx(LIMITS.max_unclear_fraction)
    assert summary.nodata_fraction.bin_counts[0] == 540
    assert summary.snow_fraction.percentiles == (0.25,) * 7


def test_bands_of_latitude_share_out_all_places_and_all_land(summary: QualitySummary, places: pd.DataFrame) -> None:
    bands = summary.latitude_bands
    assert sum(band.num_places for band in bands) == 600
    assert sum(band.num_without_patch for band in bands) == 60
    assert sum(band.share_of_land for band in bands) == pytest.approx(1)
    tropics = next(band for band in bands if band.south_deg == -15)
    inside = places["lat_deg"].between(-15, 15)
    assert tropics.num_places == inside.sum()
    assert tropics.density == pytest.approx((inside & places["valid"]).sum() / 540 / tropics.share_of_land)


def test_seasons_are_those_of_the_patchs_own_hemisphere(reference: LandReference) -> None:
    places = quality_places(4)
    places["datetime"] = ["2022-01-10T00:00:00Z", "2022-07-10T00:00:00.5Z", "2022-01-10T00:00:00Z", ""]
    places["lat_deg"] = [50.0, -20.0, -20.0, 3.0]
    summary = summarize_quality("v1", places, 256, reference)
    assert summary.seasons == {"winter": 2, "spring": 0, "summer": 1, "autumn": 0}
    assert summary.months == (2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0)
    assert summary.years == {"2022": 3}


def test_overlaps_duplicates_and_shifts_are_counted(reference: LandReference) -> None:
    places = quality_places(40)
    kept = places[places["valid"]].reset_index(drop=True)
    kept.loc[1:2, "lon_deg"] = kept.loc[0, "lon_deg"]
    kept.loc[1, "lat_deg"] = kept.loc[0, "lat_deg"] + 2500 / METERS_PER_DEGREE
    kept.loc[2, "lat_deg"] = kept.loc[0, "lat_deg"] - 2600 / METERS_PER_DEGREE
    kept.loc[5, "sha256"] = kept.loc[4, "sha256"]
    kept.loc[7, "lat_deg"] += 30 / METERS_PER_DEGREE
    summary = summarize_quality("v1", kept, 256, reference)
    assert summary.overlaps.num_pairs == 1
    assert summary.overlaps.expected_pairs == pytest.approx(36 * 35 / 2 * np.pi * 2.56**2 / 135.4e6, rel=0.01)
    assert summary.num_duplicates == 1
    assert summary.shifts.num_shifted == 3
    assert summary.shifts.largest_m is not None
    assert summary.shifts.largest_m > 1e5


def test_patches_across_the_antimeridian_overlap(reference: LandReference) -> None:
    places = quality_places(2)
    places["lon_deg"], places["lat_deg"] = [179.995, -179.995], [66.0, 66.0]
    assert summarize_quality("v1", places, 256, reference).overlaps.num_pairs == 1


def test_a_patch_beyond_the_limits_is_counted_and_an_unknown_fraction_is_not(reference: LandReference) -> None:
    places = quality_places(9)
    places.loc[0, "unclear_fraction"] = 0.0081
    places.loc[1, "nodata_fraction"] = 0.1
    places.loc[2, ["unclear_fraction", "nodata_fraction"]] = np.nan
    summary = summarize_quality("v1", places, 256, reference, LIMITS)
    assert summary.num_beyond_limits == 2
    assert summary.unclear_fraction.num_unknown == 1
    assert summarize_quality("v1", places, 256, reference).num_beyond_limits is None


def test_the_original_is_compared_where_it_is_given(places: pd.DataFrame, reference: LandReference) -> None:
    north = reference.lonlat_deg[reference.lonlat_deg[:, 1] > 35][:2000]
    summary = summarize_quality("v1", places, 256, reference, original_lonlat_deg=north)
    assert summary.original is not None
    assert not summary.original.is_uniform
    assert next(band for band in summary.latitude_bands if band.south_deg == -15).original_density == 0
    assert summary.uniformity is not None
    assert summary.uniformity.is_uniform


def test_a_dataset_without_a_patch_has_a_summary(reference: LandReference, tmp_path: Path) -> None:
    places = quality_places(10).iloc[[9]].reset_index(drop=True)
    summary = summarize_quality("v1", places, 256, reference, LIMITS)
    assert summary.uniformity is None
    assert summary.num_accepted == 0
    write_quality(tmp_path, summary)
    assert read_quality(tmp_path) == summary


def test_the_file_gives_the_summary_back_and_is_the_same_every_time(
    summary: QualitySummary, places: pd.DataFrame, reference: LandReference, tmp_path: Path
) -> None:
    write_quality(tmp_path, summary)
    first = (tmp_path / QUALITY_FILE).read_bytes()
    assert read_quality(tmp_path) == summary
    write_quality(tmp_path, summarize_quality("v1", places, 256, reference, LIMITS))
    assert (tmp_path / QUALITY_FILE).read_bytes() == first


def test_a_missing_or_foreign_file_says_what_to_do(summary: QualitySummary, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no quality summary; materialize patch_dataset"):
        read_quality(tmp_path)
    write_quality(tmp_path, summary)
    fields = json.loads((tmp_path / QUALITY_FILE).read_text())
    del fields["months"]
    (tmp_path / QUALITY_FILE).write_text(json.dumps(fields))
    with pytest.raises(DatasetError, match=r"not a quality summary of this version \(1 fields differ\)"):
        read_quality(tmp_path)
