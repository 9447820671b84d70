import math
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.cli import main
from pipelines.patches.scale import ALIGNED_RATES, BuildRates, Prices, predict_build, scale_tables

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "scale.md"
RATES = BuildRates(
    requests_per_patch=30,
    bytes_per_patch=10e6,
    requests_per_scl=3,
    bytes_per_scl=50e3,
    scl_per_place=2,
    round_trips_per_window=2,
    cpu_s_per_patch=0.2,
    stored_bytes_per_patch=0.5e6,
    search_cells=1000,
    requests_per_search=3,
    searches_in_flight=2,
    latency_s=0.1,
    bandwidth_bytes_s=100e6,
    cores_per_worker=4,
)


def test_the_prediction_is_the_formula_by_hand() -> None:
    prices = Prices(worker_hour=0.5, read_gb=0.01, stored_gb_month=0.1)
    found = predict_build(RATES, 2000, num_workers=5, windows_in_flight=2, prices=prices)
    assert found.num_search_requests == round(round(1000 * (1 - math.exp(-2))) * 3)
    assert found.num_file_requests == 2000 * (30 + 2 * 3)
    assert found.read_bytes == 2000 * (10e6 + 2 * 50e3)
    assert found.stored_bytes == 1e9
    assert found.latency_s == pytest.approx(2000 * 3 * 2 * 0.1 / 10)
    assert found.bandwidth_s == pytest.approx(2000 * 10.1e6 / 5e8)
    assert found.cpu_s == pytest.approx(2000 * 0.2 / 20)
    assert found.search_s == pytest.approx(865 * 3 * 0.1 / 2)
    assert found.bound_by == "latency"
    assert found.hours == pytest.approx((found.search_s + 120) / 3600)
    assert found.worker_hours == pytest.approx(5 * found.hours)
    assert found.cost == pytest.approx(found.worker_hours * 0.5 + 20.2 * 0.01)
    assert found.cost_per_month == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("change", "bound_by"),
    [({"latency_s": 1.0}, "latency"), ({"bandwidth_bytes_s": 1e6}, "bandwidth"), ({"cpu_s_per_patch": 9.0}, "cpu")],
)
def test_the_slowest_of_the_three_decides(change: dict[str, float], bound_by: str) -> None:
    found = predict_build(replace(RATES, **change), 500)
    assert found.bound_by == bound_by
    assert found.hours * 3600 == pytest.approx(found.search_s + max(found.latency_s, found.bandwidth_s, found.cpu_s))


def test_workers_share_the_reading_and_not_the_searching() -> None:
    one, fifty = (predict_build(RATES, 100_000, num_workers=number) for number in (1, 50))
    assert fifty.search_s == one.search_s
    assert (fifty.num_file_requests, fifty.read_bytes) == (one.num_file_requests, one.read_bytes)
    assert fifty.hours * 3600 - fifty.search_s == pytest.approx((one.hours * 3600 - one.search_s) / 50)


def test_searches_level_off_at_the_areas_and_known_ones_are_taken() -> None:
    rates = BuildRates()
    assert predict_build(rates, 20_000).num_search_requests / 20_000 < 0.7
    assert predict_build(rates, 100_000).num_search_requests / 100_000 < 0.25
    assert predict_build(rates, 10_000_000).num_search_requests == 3_600
    assert predict_build(rates, 100_000, num_search_requests=123).num_search_requests == 123


def test_aligned_windows_need_less_of_everything() -> None:
    free, aligned = predict_build(BuildRates(), 1000), predict_build(ALIGNED_RATES, 1000)
    assert aligned.num_file_requests < free.num_file_requests
    assert aligned.read_bytes < free.read_bytes
    assert aligned.hours < free.hours


@pytest.mark.parametrize("change", [{"num_patches": 0}, {"num_workers": 0}, {"windows_in_flight": 0}])
def test_nothing_to_do_or_nobody_to_do_it_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="each must be at least 1"):
        predict_build(RATES, **{"num_patches": 1, **change})


def test_the_documents_tables_are_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dataset", "plan", "--table"]) == 0
    printed = capsys.readouterr().out.strip()
    assert printed == scale_tables()
    rates, predictions = printed.split("\n\n")
    document = DOCUMENT.read_text(encoding="utf-8")
    for table in (rates, predictions):
        assert f"\n\n{table}\n" in document, "run `satclip dataset plan --table` and put its tables into docs/scale.md"
