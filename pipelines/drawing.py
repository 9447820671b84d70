"""The common look of all pictures, and how they become files. Nothing here touches pyplot or its state."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator
from numpy.typing import NDArray
from PIL import Image

from pipelines.atomic import replacing
from pipelines.embeddings.grid import GlobalGrid

IsLand = Callable[[NDArray[np.float64]], NDArray[np.bool_]]

BLUE, VERMILION, GREEN, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9"
"""Okabe and Ito (2008), Color universal design: told apart with any color vision."""

SEA, LAND, INK, QUIET, RULE = "#eef3f7", "#d5d8d2", "#1d2733", "#5b6775", "#d9dfe5"
LAND_RESOLUTION_DEG = 0.5
FULL_WIDTH_PX = 1800
PREVIEW_WIDTH_PX = 900
PREVIEW_MAX_BYTES = 100_000


def sample_map(places: pd.DataFrame, is_land: IsLand) -> Figure:
    """Where the places are, and which of them have a valid patch.

    Args:
        places: Columns ``lon_deg``, ``lat_deg`` and ``valid``.
        is_land: Takes places, shape (b, 2), longitude first; draws the coasts.
    """
    valid = places["valid"].to_numpy(dtype=bool)
    subtitle = f"{len(places):,} places, {int(valid.sum()):,} of them with a valid patch"
    figure, axes = open_world("Places of the dataset", subtitle, footer=0.75)
    draw_land(axes, is_land, LAND)
    size = float(np.clip(9000 / max(len(places), 1), 1.5, 14))
    for chosen, color, marker, label in ((valid, BLUE, "o", "valid patch"), (~valid, VERMILION, "X", "no valid patch")):
        axes.scatter(
            places["lon_deg"][chosen],
            places["lat_deg"][chosen],
            s=size if marker == "o" else 2.2 * size,
            marker=marker,
            color=color,
            linewidths=0.25,
            edgecolors="white",
            label=f"{label} ({int(chosen.sum()):,})",
            zorder=3,
        )
    write_legend_below(figure, axes, 2)
    return figure


def to_png_bytes(figure: Figure, width_px: int = FULL_WIDTH_PX, max_bytes: int | None = None) -> bytes:
    """The figure as PNG, ``width_px`` wide; with ``max_bytes``, reduced to 256 colors and narrowed until it fits."""
    image = _rendered(figure, width_px)
    encoded = _png(image)
    if max_bytes is not None and len(encoded) > max_bytes:
        encoded = _png(image.quantize(256, method=Image.Quantize.MEDIANCUT))
        while len(encoded) > max_bytes and image.width > 200:
            width = round(image.width * 0.9)
            image = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
            encoded = _png(image.quantize(256, method=Image.Quantize.MEDIANCUT))
    return encoded


def to_preview_bytes(figure: Figure) -> bytes:
    """The figure as a small PNG of at most 100 kB, for metadata."""
    return to_png_bytes(figure, PREVIEW_WIDTH_PX, PREVIEW_MAX_BYTES)


def to_jpeg_bytes(figure: Figure, width_px: int = FULL_WIDTH_PX, quality: int = 88) -> bytes:
    """The figure as JPEG, ``width_px`` wide: for photographs."""
    encoded = io.BytesIO()
    _rendered(figure, width_px).save(encoded, format="jpeg", quality=quality, optimize=True)
    return encoded.getvalue()


def save_png(path: Path, figure: Figure, width_px: int = FULL_WIDTH_PX) -> None:
    """Writes the figure as PNG, whole or not at all."""
    encoded = to_png_bytes(figure, width_px)
    with replacing(path) as partial:
        partial.write_bytes(encoded)


def open_figure(width: float, height: float) -> Figure:
    """An empty figure of ``width`` by ``height`` inches."""
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def write_title(figure: Figure, title: str, subtitle: str) -> None:
    """Writes title and subtitle at the top left; they need the upper 0.65 inches."""
    width, height = figure.get_size_inches()
    left = 0.15 / width
    figure.text(left, 1 - 0.1 / height, title, size=14, weight="bold", color=INK, va="top")
    figure.text(left, 1 - 0.42 / height, subtitle, size=9.5, color=QUIET, va="top")


def open_world(title: str, subtitle: str, footer: float) -> tuple[Figure, Axes]:
    """A figure with an empty map of 58 S to 84 N in degrees, and ``footer`` inches of room below it."""
    width, map_height = 11.6, 11.0 * (84 + 58) / 360
    height = map_height + 0.75 + footer
    figure = open_figure(width, height)
    write_title(figure, title, subtitle)
    axes = figure.add_axes((0.45 / width, footer / height, 11.0 / width, map_height / height))
    axes.set_facecolor(SEA)
    axes.set(xlim=(-180, 180), ylim=(-58, 84))
    axes.xaxis.set_major_locator(FixedLocator(list(range(-120, 121, 60))))
    axes.yaxis.set_major_locator(FixedLocator([-30, 0, 30, 60]))
    axes.xaxis.set_major_formatter(lambda value, _: longitude_label(value))
    axes.yaxis.set_major_formatter(lambda value, _: latitude_label(value))
    axes.tick_params(length=0, labelsize=8.5, colors=QUIET)
    axes.grid(color="white", lw=0.7, zorder=1)
    for spine in axes.spines.values():
        spine.set(color=RULE, linewidth=0.8)
    return figure, axes


def draw_land(axes: Axes, is_land: IsLand, color: str) -> None:
    """Fills the land of a map; ``is_land`` takes places, shape (b, 2), longitude first."""
    grid = GlobalGrid(LAND_RESOLUTION_DEG)
    mask = np.asarray(is_land(grid.lonlat_deg()), dtype=bool).reshape(grid.shape)
    axes.imshow(
        np.where(mask, 0.0, np.nan),
        extent=grid.extent_deg,
        cmap=ListedColormap([color]),
        interpolation="nearest",
        aspect="auto",
        zorder=0.5,
    )
    axes.set(xlim=(-180, 180), ylim=(-58, 84))


def write_legend_below(figure: Figure, axes: Axes, num_columns: int) -> None:
    """Writes the legend of the axes at the bottom of the figure."""
    handles, names = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        names,
        loc="lower center",
        ncols=num_columns,
        frameon=False,
        fontsize=10.5,
        labelcolor=INK,
        markerscale=1.8,
    )


def quieten_frame(axes: Axes) -> None:
    """Leaves of a frame what reading needs: two thin sides and horizontal rules."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    axes.tick_params(length=0, colors=QUIET, labelsize=9)
    axes.grid(axis="y", color=RULE, lw=0.7)
    axes.set_axisbelow(True)


def _rendered(figure: Figure, width_px: int) -> Image.Image:
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=width_px / figure.get_size_inches()[0], pil_kwargs={"compress_level": 1})
    return Image.open(drawn).convert("RGB")


def _png(image: Image.Image) -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, format="png", optimize=True)
    return encoded.getvalue()


def _shortest(angle_deg: float) -> str:
    return f"{abs(angle_deg):.2f}".rstrip("0").rstrip(".")


def longitude_label(lon_deg: float) -> str:
    """A longitude as a reader writes it, such as 12.5°E."""
    return f"{_shortest(lon_deg)}°" + ("E" if lon_deg > 0 else "W" if lon_deg < 0 else "")


def latitude_label(lat_deg: float) -> str:
    """A latitude as a reader writes it, such as 12.5°S."""
    return f"{_shortest(lat_deg)}°" + ("N" if lat_deg > 0 else "S" if lat_deg < 0 else "")
