"""Pictures of a dataset's quality. A million places cost no more room than a thousand: maps are dots or cells."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from pipelines.drawing import (
    BLUE,
    INK,
    LAND,
    ORANGE,
    QUIET,
    RULE,
    VERMILION,
    IsLand,
    draw_land,
    latitude_label,
    open_figure,
    open_world,
    quieten_frame,
    sample_map,
    write_legend_below,
    write_title,
)
from pipelines.patches.quality_summary import Distribution, LatitudeBand
from pipelines.patches.uniformity import LandReference

DOTS_UP_TO = 20_000
LARGEST_SHARE = 0.5
PLACES_PER_CELL = 40.0
FEWEST_EXPECTED = 8.0
NUM_ROWS = (5, 40)
COLUMNS_PER_ROW = 2.2
LAND_SHARE = 0.29
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
SCENE_SAMPLING_EDGES_DEG = (-56.0, -35.0, -15.0, 15.0, 35.0, 50.0, 60.0, 70.0, 84.0)
SCENE_SAMPLING_DENSITY = (0.92, 0.72, 0.68, 0.72, 0.94, 1.18, 1.90, 3.41)
"""Density over uniform where scenes are drawn instead of places, as the original did: modelled from Sentinel-2's tiling
grid and a number of scenes that grows as 1 / cos(latitude), without clouds, which thin the tropics further."""


def places_map(places: pd.DataFrame, reference: LandReference, is_land: IsLand) -> Figure:
    """Accepted and rejected places: dots up to 20,000, beyond that the share without a patch in cells of equal area.

    Args:
        places: Columns ``lon_deg``, ``lat_deg`` and ``valid``.
        reference: The land the places were drawn from.
        is_land: Takes places, shape (b, 2), longitude first; draws the coasts.
    """
    if len(places) <= DOTS_UP_TO:
        return sample_map(places, is_land)
    valid = places["valid"].to_numpy(dtype=bool)
    lonlat_deg = places[["lon_deg", "lat_deg"]].to_numpy(dtype=np.float64)
    edges = _cell_edges(len(places), reference)
    drawn, without = _count(lonlat_deg, edges), _count(lonlat_deg[~valid], edges)
    share = np.divide(without, drawn, out=np.full(drawn.shape, np.nan), where=drawn >= FEWEST_EXPECTED)
    told = f"{len(places):,} places, {int((~valid).sum()):,} without"
    subtitle = f"share of places without a patch in cells of equal area; {told}"
    figure, axes = open_world("Places without a patch", subtitle, footer=1.05)
    draw_land(axes, is_land, LAND)
    mesh = _draw_cells(axes, edges, np.minimum(share, LARGEST_SHARE), "YlOrRd", Normalize(0.0, LARGEST_SHARE))
    ticks = np.linspace(0.0, LARGEST_SHARE, 6)
    _write_scale(figure, mesh, ticks, [f"{tick:.0%}" for tick in ticks[:-1]] + [f"{LARGEST_SHARE:.0%} or more"])
    return figure


def density_map(lonlat_deg: NDArray[np.float64], reference: LandReference, is_land: IsLand) -> Figure:
    """Share of the patches over share of the land in cells of equal area; 1 is uniform.

    Args:
        lonlat_deg: Accepted patches, shape (n, 2), longitude first.
        reference: The land the places were drawn from.
        is_land: Draws the coasts.
    """
    edges = _cell_edges(len(lonlat_deg), reference)
    found, land = (_count(each, edges) / max(len(each), 1) for each in (lonlat_deg, reference.lonlat_deg))
    expected = land * len(lonlat_deg)
    shown = expected >= FEWEST_EXPECTED
    ratio = np.divide(found, land, out=np.full(land.shape, np.nan), where=shown)
    subtitle = "share of patches over share of land in cells of equal area"
    if shown.any():
        typical = float(np.median(expected[shown]))
        subtitle += (
            f"; about {typical:,.0f} patches expected per cell, so chance alone gives ±{1 / np.sqrt(typical):.0%}"
        )
    figure, axes = open_world("Density relative to uniform", subtitle, footer=1.05)
    draw_land(axes, is_land, LAND)
    mesh = _draw_cells(axes, edges, np.clip(ratio, 0.5, 2.0), "RdBu_r", LogNorm(0.5, 2.0))
    _write_scale(figure, mesh, [0.5, 0.7, 1.0, 1.4, 2.0], ["½ or less", "0.7", "1", "1.4", "2 or more"])
    return figure


def latitude_chart(bands: Sequence[LatitudeBand]) -> Figure:
    """Density over uniform per band of latitude, beside that of the original's procedure."""
    shown = [band for band in bands if band.density is not None]
    figure = open_figure(8.4, 4.6)
    write_title(figure, "Density by latitude", "share of patches over share of land; 1 is uniform")
    axes = figure.add_axes((0.085, 0.215, 0.885, 0.595))
    quieten_frame(axes)
    measured = any(band.original_density is not None for band in shown)
    other = [band.original_density if measured else _modelled(band) for band in shown]
    label = "original's procedure" + ("" if measured else " (modelled)")
    at = np.arange(len(shown))
    both = any(value is not None for value in other)
    width = 0.38 if both else 0.6
    series = [("accepted patches", BLUE, [band.density for band in shown], -width / 2 if both else 0.0)]
    if both:
        series.append((label, ORANGE, other, width / 2))
    for name, color, values, offset in series:
        heights = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
        axes.bar(at + offset, heights, width * 0.94, color=color, label=name, zorder=2)
        for x, height in zip(at + offset, heights, strict=True):
            if np.isfinite(height):
                axes.annotate(
                    f"{height:.2f}", (x, height), xytext=(0, 2), textcoords="offset points", ha="center", size=8,
                    color=INK, path_effects=[withStroke(linewidth=2.5, foreground="white")], zorder=4,
                )  # fmt: skip
    axes.axhline(1, color=QUIET, lw=1.2, ls=(0, (4, 3)), zorder=3)
    axes.set_xticks(at, [f"{latitude_label(band.south_deg)} to\n{latitude_label(band.north_deg)}" for band in shown])
    axes.margins(y=0.1)
    write_legend_below(figure, axes, 2)
    return figure


def month_chart(months: Sequence[int], seasons: Mapping[str, int]) -> Figure:
    """Patches per month of acquisition; the subtitle tells the seasons of each patch's own hemisphere."""
    total = max(sum(seasons.values()), 1)
    told = ", ".join(f"{name} {count / total:.0%}" for name, count in seasons.items())
    figure = open_figure(8.4, 3.6)
    write_title(figure, "Month of acquisition", f"by the season of the patch's hemisphere: {told}")
    axes = figure.add_axes((0.085, 0.1, 0.885, 0.66))
    quieten_frame(axes)
    axes.bar(range(12), months, 0.75, color=BLUE, zorder=2)
    axes.axhline(sum(months) / 12, color=QUIET, lw=1.2, ls=(0, (4, 3)), zorder=3)
    axes.set_xticks(range(12), MONTHS)
    axes.set_ylabel("patches", color=QUIET)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    return figure


def clear_chart(unclear: Distribution, limit: float | None) -> Figure:
    """Histogram of the clear share of the patches' pixels, the limit of acceptance marked."""
    unknown = f", {unclear.num_unknown:,} unknown" if unclear.num_unknown else ""
    mean = "" if unclear.mean is None else f", {1 - unclear.mean:.2%} clear on average"
    figure = open_figure(8.4, 3.6)
    write_title(figure, "Clear fraction", f"{unclear.num_known:,} patches{unknown}{mean}")
    axes = figure.add_axes((0.085, 0.14, 0.885, 0.62))
    quieten_frame(axes)
    if unclear.num_known:
        edges = 1 - np.array(unclear.bin_edges)
        axes.bar(edges[1:], unclear.bin_counts, np.diff(unclear.bin_edges), align="edge", color=BLUE, zorder=2)
        if limit is not None:
            axes.axvline(1 - limit, color=VERMILION, lw=1.4, ls=(0, (4, 3)), label=f"accepted from {1 - limit:.1%} on")
            axes.legend(frameon=False, loc="upper left", labelcolor=INK, fontsize=9.5)
        digits = max(0, int(np.ceil(-np.log10(max(unclear.bin_edges[-1], limit or 0.0) * 10))))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.{digits}%}")
    axes.set_xlabel("share of pixels without cloud, shadow or defect", color=QUIET)
    axes.set_ylabel("patches", color=QUIET)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    return figure


def counts_chart(title: str, subtitle: str, counts: Mapping[str, int], color: str = BLUE) -> Figure:
    """Horizontal bars, the longest first, with their counts and shares."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0])) or [("none", 0)]
    total = max(sum(counts.values()), 1)
    height = 1.0 + 0.34 * len(ordered)
    left = 0.35 + 0.085 * max(len(name) for name, _ in ordered)
    figure = open_figure(8.4, height)
    write_title(figure, title, subtitle)
    axes = figure.add_axes((left / 8.4, 0.15 / height, (8.4 - left - 0.3) / 8.4, (height - 0.95) / height))
    quieten_frame(axes)
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    axes.barh(range(len(ordered)), [count for _, count in ordered], 0.68, color=color, zorder=2)
    for row, (_, count) in enumerate(ordered):
        axes.annotate(
            f"{count:,}  ({count / total:.1%})", (count, row), xytext=(5, 0), textcoords="offset points", va="center",
            size=9, color=INK,
        )  # fmt: skip
    axes.set_yticks(range(len(ordered)), [name for name, _ in ordered], color=INK)
    axes.set(xticks=[], xlim=(0, max(1, ordered[0][1]) * 1.22), ylim=(len(ordered) - 0.5, -0.5))
    axes.axvline(0, color=RULE, lw=0.9)
    return figure


def _cell_edges(num_places: int, reference: LandReference) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Edges in latitude and longitude of cells of equal area, small enough for the number of places."""
    num_cells = num_places / PLACES_PER_CELL / LAND_SHARE
    num_rows = int(np.clip(np.sqrt(num_cells / COLUMNS_PER_ROW), *NUM_ROWS))
    low, high = np.sin(np.deg2rad([reference.bbox[1], reference.bbox[3]]))
    lat_edges = np.rad2deg(np.arcsin(np.linspace(low, high, num_rows + 1)))
    return lat_edges, np.linspace(-180.0, 180.0, 2 * round(COLUMNS_PER_ROW * num_rows / 2) + 1)


def _count(lonlat_deg: NDArray[np.float64], edges: tuple[NDArray[np.float64], NDArray[np.float64]]) -> NDArray[Any]:
    counts: NDArray[np.float64] = np.histogram2d(lonlat_deg[:, 1], lonlat_deg[:, 0], bins=edges)[0]
    return counts


def _draw_cells(
    axes: Axes,
    edges: tuple[NDArray[np.float64], NDArray[np.float64]],
    values: NDArray[np.float64],
    colors: str,
    scale: Normalize,
) -> QuadMesh:
    mesh = axes.pcolormesh(
        edges[1], edges[0], np.ma.masked_invalid(values), cmap=colors, norm=scale, zorder=2, alpha=0.92
    )
    axes.set(xlim=(-180, 180), ylim=(-58, 84))
    return mesh


def _write_scale(
    figure: Figure, mesh: QuadMesh, ticks: Sequence[float] | NDArray[np.float64], labels: Sequence[str]
) -> None:
    height = figure.get_size_inches()[1]
    below = figure.add_axes((0.3, 0.52 / height, 0.4, 0.16 / height))
    bar = figure.colorbar(mesh, cax=below, orientation="horizontal")
    bar.set_ticks(list(ticks), labels=list(labels))
    bar.ax.minorticks_off()
    bar.ax.tick_params(length=0, labelsize=9, colors=QUIET)
    bar.outline.set_visible(False)


def _modelled(band: LatitudeBand) -> float | None:
    edges = zip(SCENE_SAMPLING_EDGES_DEG, SCENE_SAMPLING_EDGES_DEG[1:], SCENE_SAMPLING_DENSITY, strict=False)
    return {(south, north): density for south, north, density in edges}.get((band.south_deg, band.north_deg))
