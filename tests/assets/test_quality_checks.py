"""Verdicts on the quality of a dataset, from the numbers in its summary."""

from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from assets import checks
from assets.checks import QUALITY_CHECKS, quality_of_patches
from assets.resources import WorkspaceResource
from pipelines.patches.quality_summary import (
    AcceptanceLimits,
    Overlaps,
    QualitySummary,
    summarize_quality,
    write_quality,
)
from pipelines.patches.uniformity import land_reference
from tests.pipelines.patches.quality_places import quality_places

LIMITS = AcceptanceLimits(max_unclear_fraction=0.01, max_nodata_fraction=0.1)


@pytest.fixture(scope="module")
def good() -> QualitySummary:
    return summarize_quality("v1", quality_places(700), 256, land_reference(lattice_size=1 << 17), LIMITS)


def verdict(name: str, summary: QualitySummary) -> dg.AssetCheckResult:
    return QUALITY_CHECKS[name](summary)


@pytest.mark.parametrize("name", QUALITY_CHECKS)
def test_a_good_dataset_passes_every_check_with_numbers(good: QualitySummary, name: str) -> None:
    found = verdict(name, good)
    assert found.passed
    assert any(isinstance(value, dg.FloatMetadataValue | dg.IntMetadataValue) for value in found.metadata.values())


@pytest.mark.parametrize(
    ("name", "change", "severity"),
    [
        ("enough_places_have_patches", {"num_accepted": 629}, "WARN"),
        ("patches_are_clear", {"num_beyond_limits": 1}, "ERROR"),
        ("seasons_are_covered", {"seasons": {"winter": 31, "spring": 300, "summer": 300, "autumn": 0}}, "WARN"),
        ("seasons_are_covered", {"seasons": {"winter": 31, "spring": 300, "summer": 200, "autumn": 100}}, "WARN"),
        ("offsets_are_known", {"offset_sources": {"assumed": 4, "processing_baseline": 623, "unknown": 3}}, "WARN"),
        ("no_patch_is_there_twice", {"num_duplicates": 1}, "ERROR"),
        ("patches_hardly_overlap", {"overlaps": Overlaps(106, 50.0)}, "WARN"),
        ("patches_are_uniform", {"uniformity": None}, "ERROR"),
    ],
)
def test_one_flaw_fails_its_check_and_no_other(
    good: QualitySummary, name: str, change: dict[str, object], severity: str
) -> None:
    flawed = replace(good, **change)
    found = verdict(name, flawed)
    assert not found.passed
    assert found.severity == dg.AssetCheckSeverity[severity]
    assert [other for other in QUALITY_CHECKS if not verdict(other, flawed).passed] == [name]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("enough_places_have_patches", {"num_accepted": 630}),
        ("seasons_are_covered", {"seasons": {"winter": 0, "spring": 100, "summer": 99, "autumn": 0}}),
        ("offsets_are_known", {"offset_sources": {"assumed": 6, "processing_baseline": 624}}),
        ("patches_hardly_overlap", {"overlaps": Overlaps(105, 50.0)}),
        ("patches_are_clear", {"limits": None, "num_beyond_limits": None}),
    ],
)
def test_what_lies_at_the_threshold_passes(good: QualitySummary, name: str, change: dict[str, object]) -> None:
    assert verdict(name, replace(good, **change)).passed


def test_few_patches_only_warn_of_being_not_uniform(good: QualitySummary) -> None:
    assert good.uniformity is not None
    crooked = replace(good.uniformity, uniform_quantile=good.uniformity.discrepancy * 0.9)
    many = verdict("patches_are_uniform", replace(good, uniformity=crooked))
    few = verdict("patches_are_uniform", replace(good, uniformity=replace(crooked, num_places=499)))
    assert (many.passed, many.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert (few.passed, few.severity) == (False, dg.AssetCheckSeverity.WARN)


def test_the_checks_read_the_summary_of_the_plans_dataset(
    good: QualitySummary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Plan:
        plan_id = "p1"

    monkeypatch.setattr("pipelines.sampling.manifest.read_sampling_manifest", lambda path: Plan())
    write_quality(tmp_path / "datasets" / "p1", good)
    workspace = WorkspaceResource(root=str(tmp_path))
    found = {each.check_name: each for each in quality_of_patches(workspace)}
    assert list(found) == list(QUALITY_CHECKS)
    assert all(each.passed and each.asset_key == dg.AssetKey("patch_dataset") for each in found.values())
    assert found["patches_are_uniform"].metadata["discrepancy"].value == good.uniformity.discrepancy


def test_a_dataset_that_was_never_summarized_warns_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Plan:
        plan_id = "p1"

    monkeypatch.setattr("pipelines.sampling.manifest.read_sampling_manifest", lambda path: Plan())
    for each in quality_of_patches(WorkspaceResource(root=str(tmp_path))):
        assert not each.passed
        assert each.severity == dg.AssetCheckSeverity.WARN
        assert "materialize patch_dataset" in each.metadata["problem"].value


def test_thresholds_are_shares() -> None:
    for name in ("MINIMUM_ACCEPTED_SHARE", "MINIMUM_SEASON_SHARE", "MAXIMUM_GUESSED_OFFSET_SHARE"):
        assert 0 < getattr(checks, name) < 1
