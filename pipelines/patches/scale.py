"""What a build takes at any size: measured rates into requests, bytes, hours and cost."""

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any

MEASURED = "measured: `python benchmarks/patches.py`"
ASSUMED = "assumption"
GB = 1e9
SIZES = (100_000, 1_000_000)
WORKERS = (1, 50)
LATENCIES_S = (0.03, 0.2)
WINDOWS_IN_FLIGHT = 8


def _rate(value: float, unit: str, source: str) -> Any:  # noqa: ANN401
    return field(default=value, metadata={"unit": unit, "source": source})


@dataclass(frozen=True)
class BuildRates:
    """What one patch takes, and what one worker has; every field names its unit and where its value comes from.

    A build reports its own figures: pass them as ``BuildRates(scl_per_place=1.8, latency_s=0.05)`` to predict the next.

    Attributes:
        requests_per_patch: Range requests for the window of 12 bands.
        bytes_per_patch: Compressed bytes of them.
        requests_per_scl: Range requests for one window of the scene classification.
        bytes_per_scl: Compressed bytes of them.
        scl_per_place: Candidates whose scene classification is read until one is clear.
        round_trips_per_window: Requests of a window that wait for each other: header, then tiles.
        cpu_s_per_patch: Core seconds to read, decode, encode and store a patch.
        stored_bytes_per_patch: Bytes of a patch in the store.
        search_cells: Areas that share a search, over all land.
        requests_per_search: Pages of a search.
        searches_in_flight: Searches at the same time, on one machine whatever the number of workers.
        latency_s: From a request to its first byte.
        bandwidth_bytes_s: Per worker.
        cores_per_worker: Cores that decode.
    """

    requests_per_patch: float = _rate(27.1, "requests", MEASURED)
    bytes_per_patch: float = _rate(7.7e6, "bytes", MEASURED)
    requests_per_scl: float = _rate(2, "requests", MEASURED)
    bytes_per_scl: float = _rate(100e3, "bytes", MEASURED)
    scl_per_place: float = _rate(1.5, "windows", ASSUMED)
    round_trips_per_window: float = _rate(2, "requests", "the reader: header, then tiles")
    cpu_s_per_patch: float = _rate(0.06, "core seconds", MEASURED)
    stored_bytes_per_patch: float = _rate(0.48e6, "bytes", MEASURED)
    search_cells: float = _rate(3_600, "areas", "measured: `python benchmarks/sampling.py`")
    requests_per_search: float = _rate(1, "requests", ASSUMED)
    searches_in_flight: float = _rate(4, "searches", "`CONCURRENT_SEARCHES` of pipelines/sampling/search.py")
    latency_s: float = _rate(0.03, "seconds", ASSUMED)
    bandwidth_bytes_s: float = _rate(60e6, "bytes per second", ASSUMED)
    cores_per_worker: float = _rate(2, "cores", ASSUMED)


ALIGNED_RATES = BuildRates(
    requests_per_patch=24, bytes_per_patch=4.8e6, cpu_s_per_patch=0.042, stored_bytes_per_patch=0.46e6
)
"""Windows aligned to the 256-pixel grid, so that each lies in one tile of 512 pixels."""


@dataclass(frozen=True)
class Prices:
    """Round figures assumed on 2026-11-25, not quotations; replace them by those of your own contract.

    Attributes:
        worker_hour: One worker for an hour, in ``currency``.
        read_gb: A gigabyte read from the archive. Public archives charge their readers nothing.
        stored_gb_month: A gigabyte in the store for a month.
        currency: Of the figures.
    """

    worker_hour: float = 0.10
    read_gb: float = 0.0
    stored_gb_month: float = 0.02
    currency: str = "USD"


@dataclass(frozen=True)
class BuildPrediction:
    """What a build takes; see `predict_build` for the formula.

    Attributes:
        num_patches: Patches that are built.
        num_workers: Machines.
        num_search_requests: Requests to the catalog.
        num_file_requests: Range requests to the archive.
        read_bytes: From the archive.
        stored_bytes: Into the store.
        latency_s: Time that waiting for first bytes takes.
        bandwidth_s: Time that the bytes take.
        cpu_s: Time that the cores take.
        search_s: Time that searching takes, before all else.
        bound_by: ``latency``, ``bandwidth`` or ``cpu``: the largest of the three.
        hours: Search and the largest of the three.
        worker_hours: Hours times workers.
        cost: Workers and reading, in the currency of the prices.
        cost_per_month: Keeping the store.
    """

    num_patches: int
    num_workers: int
    num_search_requests: int
    num_file_requests: int
    read_bytes: float
    stored_bytes: float
    latency_s: float
    bandwidth_s: float
    cpu_s: float
    search_s: float
    bound_by: str
    hours: float
    worker_hours: float
    cost: float
    cost_per_month: float

    @property
    def requests_per_second(self) -> float:
        """What the archive is asked for while patches are read, by all workers together."""
        return self.num_file_requests / max(self.latency_s, self.bandwidth_s, self.cpu_s)


def predict_build(
    rates: BuildRates,
    num_patches: int,
    num_workers: int = 1,
    windows_in_flight: int = WINDOWS_IN_FLIGHT,
    prices: Prices | None = None,
    num_search_requests: int | None = None,
) -> BuildPrediction:
    """Multiplies the rates; the largest of waiting, transfer and computing decides, as they overlap.

    With N patches, W workers and F windows in flight per worker:

    - latency: N (1 + scl_per_place) round_trips_per_window latency_s / (W F)
    - bandwidth: N (bytes_per_patch + scl_per_place bytes_per_scl) / (W bandwidth_bytes_s)
    - cpu: N cpu_s_per_patch / (W cores_per_worker)
    - search: search_cells (1 - exp(-N / search_cells)) requests_per_search latency_s / searches_in_flight

    Args:
        rates: Per patch and per worker.
        num_patches: Patches to build.
        num_workers: Machines.
        windows_in_flight: Windows that each machine reads at the same time.
        prices: What hours and bytes cost; assumptions by default.
        num_search_requests: Pages of searches, where they are known; otherwise one search for each area that N uniform
            places fall into.

    Raises:
        ValueError: a number that must be at least 1 is not.
    """
    if min(num_patches, num_workers, windows_in_flight) < 1:
        raise ValueError(
            f"num_patches {num_patches}, num_workers {num_workers}, windows_in_flight {windows_in_flight}: "
            "each must be at least 1"
        )
    prices = prices or Prices()
    if num_search_requests is None:
        num_searches = round(rates.search_cells * -math.expm1(-num_patches / rates.search_cells))
        num_search_requests = round(num_searches * rates.requests_per_search)
    read_bytes = num_patches * (rates.bytes_per_patch + rates.scl_per_place * rates.bytes_per_scl)
    round_trips = num_patches * (1 + rates.scl_per_place) * rates.round_trips_per_window
    seconds = {
        "latency": round_trips * rates.latency_s / (num_workers * windows_in_flight),
        "bandwidth": read_bytes / (num_workers * rates.bandwidth_bytes_s),
        "cpu": num_patches * rates.cpu_s_per_patch / (num_workers * rates.cores_per_worker),
    }
    bound_by = max(seconds, key=lambda name: seconds[name])
    search_s = num_search_requests * rates.latency_s / rates.searches_in_flight
    hours = (search_s + seconds[bound_by]) / 3600
    stored_bytes = num_patches * rates.stored_bytes_per_patch
    return BuildPrediction(
        num_patches=num_patches,
        num_workers=num_workers,
        num_search_requests=num_search_requests,
        num_file_requests=round(
            num_patches * (rates.requests_per_patch + rates.scl_per_place * rates.requests_per_scl)
        ),
        read_bytes=read_bytes,
        stored_bytes=stored_bytes,
        latency_s=seconds["latency"],
        bandwidth_s=seconds["bandwidth"],
        cpu_s=seconds["cpu"],
        search_s=search_s,
        bound_by=bound_by,
        hours=hours,
        worker_hours=hours * num_workers,
        cost=hours * num_workers * prices.worker_hour + read_bytes / GB * prices.read_gb,
        cost_per_month=stored_bytes / GB * prices.stored_gb_month,
    )


def scale_tables() -> str:
    """The tables of docs/scale.md as Markdown: the rates, then what they predict."""
    return f"{_rates_table()}\n\n{_predictions_table(Prices())}"


def _rates_table() -> str:
    lines = ["| rate | value | aligned | unit | from |", "|---|---:|---:|---|---|"]
    free, aligned = BuildRates(), ALIGNED_RATES
    for each in fields(BuildRates):
        value, other = getattr(free, each.name), getattr(aligned, each.name)
        told = "" if other == value else _plain(other)
        lines.append(
            f"| `{each.name}` | {_plain(value)} | {told} | {each.metadata['unit']} | {each.metadata['source']} |"
        )
    return "\n".join(lines)


def _predictions_table(prices: Prices) -> str:
    columns = [
        "patches", "windows", "workers", "latency", "searches", "file requests", "per second", "read", "stored",
        "bound by", "hours", "worker hours", f"{prices.currency} once", f"{prices.currency} a month",
    ]  # fmt: skip
    lines = [f"| {' | '.join(columns)} |", f"|{'|'.join('---:' for _ in columns)}|"]
    for num_patches in SIZES:
        for name, rates in (("free", BuildRates()), ("aligned", ALIGNED_RATES)):
            for num_workers in WORKERS:
                for latency_s in LATENCIES_S:
                    found = predict_build(replace(rates, latency_s=latency_s), num_patches, num_workers, prices=prices)
                    lines.append(
                        f"| {num_patches:,} | {name} | {num_workers} | {latency_s * 1000:.0f} ms | "
                        f"{found.num_search_requests:,} | {found.num_file_requests / 1e6:.1f} M | "
                        f"{found.requests_per_second:,.0f} | "
                        f"{found.read_bytes / 1e12:.2f} TB | {found.stored_bytes / GB:,.0f} GB | {found.bound_by} | "
                        f"{found.hours:.2f} | {found.worker_hours:.1f} | {found.cost:.2f} | "
                        f"{found.cost_per_month:.2f} |"
                    )
    return "\n".join(lines)


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:g}"
