"""Pictures of a dataset's quality. A million places cost no more room than a thousand: maps are rasters."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap, LogNorm
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
    SKY,
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
RASTER_DEG = 0.5
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


def places_map(places: pd.DataFrame, is_land: IsLand) -> Figure:
    """Accepted and rejected places: dots up to 20,000, beyond that half-degree cells colored by what they hold.

    Args:
        places: Columns ``lon_deg``, ``lat_deg`` and ``valid``.
        is_land: Takes places, shape (b, 2), longitude first; draws the coasts.
    """
    if len(places) <= DOTS_UP_TO:
        return sample_map(places, is_land)
    valid = places["valid"].to_numpy(dtype=bool)
    accepted, rejected = (_raster(places[chosen]) for chosen in (valid, ~valid))
    subtitle = f"{len(places):,} places in cells of {RASTER_DEG:g}°, {int(valid.sum()):,} of them with a valid patch"
    figure, axes = open_world("Places of the dataset", subtitle, footer=0.75)
    draw_land(axes, is_land, LAND)
    kinds = np.where(accepted > 0, np.where(rejected > 0, 1.0, 0.0), np.where(rejected > 0, 2.0, np.nan))
    colors = (BLUE, SKY, VERMILION)
    labels = ("all places of the cell have a patch", "some have", "none has")
    axes.imshow(
        kinds, extent=(-180, 180, -90, 90), cmap=ListedColormap(colors), vmin=0, vmax=2, aspect="auto", zorder=2,
        interpolation="nearest",
    )  # fmt: skip
    axes.set(xlim=(-180, 180), ylim=(-58, 84))
    for color, label in zip(colors, labels, strict=True):
        axes.scatter([], [], marker="s", s=20, color=color, label=label)
    write_legend_below(figure, axes, 3)
    return figure


def density_map(lonlat_deg: NDArray[np.float64], reference: LandReference, is_land: IsLand) -> Figure:
    """Share of the patches over share of the land in cells of equal area; 1 is uniform.

    Args:
        lonlat_deg: Accepted patches, shape (n, 2), longitude first.
        reference: The land the places were drawn from.
        is_land: Draws the coasts.
    """
    num_cells = len(lonlat_deg) / PLACES_PER_CELL / LAND_SHARE
    num_rows = int(np.clip(np.sqrt(num_cells / COLUMNS_PER_ROW), *NUM_ROWS))
    low, high = np.sin(np.deg2rad([reference.bbox[1], reference.bbox[3]]))
    lat_edges = np.rad2deg(np.arcsin(np.linspace(low, high, num_rows + 1)))
    lon_edges = np.linspace(-180.0, 180.0, round(COLUMNS_PER_ROW * num_rows) + 1)
    found, land = (
        np.histogram2d(lonlat[:, 1], lonlat[:, 0], bins=(lat_edges, lon_edges))[0] / max(len(lonlat), 1)
        for lonlat in (lonlat_deg, reference.lonlat_deg)
    )
    expected = land * len(lonlat_deg)
    ratio = np.divide(found, land, out=np.full(land.shape, np.nan), where=expected >= FEWEST_EXPECTED)
    typical = float(np.median(expected[expected >= FEWEST_EXPECTED])) if np.isfinite(ratio).any() else 0.0
    chance = f"{1 / np.sqrt(typical):.0%}" if typical else "any amount"
    subtitle = (
        f"share of patches over share of land, cells of equal area; about {typical:,.0f} patches expected per cell, so "
        f"chance alone gives ±{chance}"
    )
    figure, axes = open_world("Density relative to uniform", subtitle, footer=1.05)
    draw_land(axes, is_land, LAND)
    height = figure.get_size_inches()[1]
    mesh = axes.pcolormesh(
        lon_edges, lat_edges, np.ma.masked_invalid(np.clip(ratio, 1 / 4, 4)), cmap="RdBu_r", norm=LogNorm(1 / 4, 4),
        zorder=2, alpha=0.92, rasterized=True,
    )  # fmt: skip
    bar = figure.add_axes((0.3, 0.52 / height, 0.4, 0.16 / height))
    colors = figure.colorbar(mesh, cax=bar, orientation="horizontal")
    colors.set_ticks([0.25, 0.5, 1.0, 2.0, 4.0], labels=["¼ or less", "½", "1", "2", "4 or more"])
    colors.ax.minorticks_off()
    colors.ax.tick_params(length=0, labelsize=9, colors=QUIET)
    colors.outline.set_visible(False)
    axes.set(xlim=(-180, 180), ylim=(-58, 84))
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


def _raster(places: pd.DataFrame) -> NDArray[np.float64]:
    """Counts in cells of half a degree, north up."""
    num = round(180 / RASTER_DEG)
    counts, _, _ = np.histogram2d(
        places["lat_deg"], places["lon_deg"], bins=(num, 2 * num), range=((-90, 90), (-180, 180))
    )
    return np.asarray(counts[::-1], dtype=np.float64)


def _modelled(band: LatitudeBand) -> float | None:
    edges = zip(SCENE_SAMPLING_EDGES_DEG, SCENE_SAMPLING_EDGES_DEG[1:], SCENE_SAMPLING_DENSITY, strict=False)
    return {(south, north): density for south, north, density in edges}.get((band.south_deg, band.north_deg))
