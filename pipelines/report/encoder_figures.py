"""Pictures of what an encoder tells apart, and of where it believes images were taken."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipelines.drawing import (
    BLUE,
    INK,
    LAND,
    ORANGE,
    QUIET,
    SKY,
    VERMILION,
    IsLand,
    draw_land,
    latitude_label,
    longitude_label,
    open_figure,
    open_world,
    quieten_frame,
    write_legend_below,
    write_title,
)
from pipelines.evaluation.effective_resolution import Resolution
from pipelines.evaluation.localization import Localization, LocationGallery, similarity_field
from pipelines.evaluation.sphere import unit_vectors

_NEAR_KM, _FAR_KM = 750.0, 2500.0
_LINE_POINTS = 64
_GAMMA = 1.8


def resolution_chart(resolution: Resolution) -> Figure:
    """Checkerboards told apart by the side of their cells, and similarity of embeddings by distance."""
    figure = open_figure(11.6, 4.3)
    write_title(figure, "Effective resolution", "of the location encoder over land; bands: 95 % interval, middle 80 %")
    left, right = figure.add_axes((0.06, 0.14, 0.42, 0.64)), figure.add_axes((0.56, 0.14, 0.42, 0.64))
    board, fall = resolution.checkerboard, resolution.similarity
    left.fill_between(board["side_km"], board["lower"], board["upper"], color=SKY, alpha=0.35, lw=0)
    left.plot(board["side_km"], board["accuracy"], color=BLUE, lw=2, marker="o", ms=5, label="colour told by a ridge")
    left.plot(board["side_km"], board["chance"], color=QUIET, lw=1.2, ls=(0, (4, 3)), label="chance: commoner colour")
    right.fill_between(fall["distance_km"], fall["lower_decile"], fall["upper_decile"], color=SKY, alpha=0.35, lw=0)
    right.plot(fall["distance_km"], fall["mean"], color=BLUE, lw=2, marker="o", ms=4, label="mean cosine")
    for axes, marked, named, what in (
        (left, resolution.finest_side_km, "side of a cell (km)", "finest side told apart"),
        (right, resolution.half_similarity_km, "distance between places (km)", "fallen half way"),
    ):
        quieten_frame(axes)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_xlabel(named, color=QUIET)
        if np.isfinite(marked):
            axes.axvline(marked, color=ORANGE, lw=1.5, zorder=1, label=f"{what}: {marked:,.0f} km")
    left.set_ylim(0.4, 1.03)
    left.set_title("Share of checkerboard colours told, out of fold", loc="left", size=10.5, color=INK)
    right.set_title("Similarity of two places", loc="left", size=10.5, color=INK)
    left.legend(frameon=False, loc="upper left", labelcolor=INK, fontsize=9)
    right.legend(frameon=False, loc="lower left", labelcolor=INK, fontsize=9)
    return figure


def localization_map(localization: Localization, is_land: IsLand) -> Figure:
    """From every image to the place found for it, along great circles.

    Args:
        localization: At least one image.
        is_land: Takes places, shape (b, 2), longitude first; draws the coasts.
    """
    subtitle = (
        f"{len(localization.error_km)} validation images among a gallery on land; median error "
        f"{localization.median_error_km:,.0f} km, of a drawn place {np.median(localization.chance_km):,.0f} km"
    )
    figure, axes = open_world("Where images are believed to be from", subtitle, footer=0.75)
    draw_land(axes, is_land, LAND)
    error = localization.error_km
    bands = (
        (error > _FAR_KM, VERMILION, 0.16, "farther"),
        ((error > _NEAR_KM) & (error <= _FAR_KM), ORANGE, 0.8, f"within {_FAR_KM:,.0f} km"),
        (error <= _NEAR_KM, BLUE, 0.9, f"within {_NEAR_KM:,.0f} km"),
    )
    for chosen, color, alpha, label in bands:
        for start, end in zip(localization.lonlat_deg[chosen], localization.found_lonlat_deg[chosen], strict=True):
            for piece in great_circle_pieces(start, end):
                axes.plot(piece[:, 0], piece[:, 1], color=color, lw=0.9, alpha=alpha, zorder=2.5)
        name = f"{label} ({int(chosen.sum())})"
        lon_deg, lat_deg = localization.lonlat_deg[chosen].T
        axes.scatter(lon_deg, lat_deg, s=12, color=color, label=name, zorder=3)
    write_legend_below(figure, axes, 3)
    return figure


def similarity_map(
    image_embedding: NDArray[Any],
    true_color: NDArray[np.float32],
    lonlat_deg: NDArray[np.float64],
    gallery: LocationGallery,
) -> Figure:
    """One image beside its similarity with all places of a gallery.

    Args:
        image_embedding: Shape (e,).
        true_color: Reflectance, shape (rows, columns, 3), red, green, blue.
        lonlat_deg: Where it was taken, shape (2,), longitude first.
        gallery: The places.
    """
    field = similarity_field(image_embedding, gallery)
    best = gallery.lonlat_deg[field.argmax()]
    taken = f"{latitude_label(lonlat_deg[1])}, {longitude_label(lonlat_deg[0])}"
    figure, axes = open_world(
        "One image and the world",
        f"cosine of the image taken at {taken} with the embedding of every place of the gallery",
        footer=0.75,
    )
    low, high = np.percentile(field, [2, 100])
    size = float(np.clip(60_000 / len(field), 0.6, 30))
    lon_deg, lat_deg = gallery.lonlat_deg.T
    drawn = axes.scatter(
        lon_deg, lat_deg, c=field, s=size, marker="s", lw=0, cmap="viridis", vmin=low, vmax=high, zorder=2
    )
    axes.scatter(
        [lonlat_deg[0]], [lonlat_deg[1]], s=90, facecolor="none", edgecolor=VERMILION, lw=2, zorder=4,
        label="taken here",
    )  # fmt: skip
    axes.scatter([best[0]], [best[1]], s=80, marker="x", color=VERMILION, lw=2, zorder=4, label="most similar place")
    _inset(axes, true_color)
    bar = figure.colorbar(drawn, cax=axes.inset_axes((0.66, -0.1, 0.32, 0.025)), orientation="horizontal")
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8.5, colors=QUIET)
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="lower left", ncols=2, frameon=False, fontsize=10.5, labelcolor=INK)
    return figure


def great_circle_pieces(
    start_lonlat_deg: Sequence[float] | NDArray[np.float64], end_lonlat_deg: Sequence[float] | NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    """The shorter great circle between two places as lines on a map, shape (n, 2) each, cut at the antimeridian."""
    ends = unit_vectors(np.array([start_lonlat_deg, end_lonlat_deg], dtype=np.float64))
    share = np.linspace(0.0, 1.0, _LINE_POINTS)[:, None]
    line = (1 - share) * ends[0] + share * ends[1]
    line /= np.maximum(np.linalg.norm(line, axis=1, keepdims=True), 1e-12)
    degrees = np.rad2deg(np.column_stack([np.arctan2(line[:, 1], line[:, 0]), np.arcsin(line[:, 2].clip(-1, 1))]))
    jumps = np.flatnonzero(np.abs(np.diff(degrees[:, 0])) > 180.0) + 1
    return np.split(degrees, jumps)


def _inset(axes: Axes, true_color: NDArray[np.float32]) -> None:
    white = float(np.clip(np.percentile(true_color, 99), 0.05, 1.0))
    inset = axes.inset_axes((0.008, 0.02, 0.13, 0.33))
    inset.imshow(np.clip(true_color / white, 0, 1) ** (1 / _GAMMA), interpolation="antialiased")
    inset.set(xticks=[], yticks=[])
    inset.spines[:].set(color="white", linewidth=2.5)
