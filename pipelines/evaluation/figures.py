"""Pictures of the chain: places, patches, losses, embeddings and scores. Nothing here touches pyplot or its state."""

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from pipelines.atomic import replacing
from pipelines.embeddings.grid import GlobalGrid
from pipelines.evaluation.scores import LEADING_METRICS, split_label, summarize
from pipelines.patches.radiometry import reflectance

IsLand = Callable[[NDArray[np.float64]], NDArray[np.bool_]]

BLUE, VERMILION, GREEN, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9"
"""Okabe and Ito (2008), Color universal design: told apart with any color vision."""

SEA, LAND, INK, QUIET, RULE = "#eef3f7", "#d5d8d2", "#1d2733", "#5b6775", "#d9dfe5"
SPLIT_COLORS = ("#a6cbe3", BLUE, GREEN, ORANGE)
MODEL_LABELS = {"sincos": "sin/cos", "harmonics": "harmonics alone", "untrained": "untrained encoder"}
METRIC_LABELS = {"r2": "R²", "mse": "MSE of the standardised target", "accuracy": "accuracy", "macro_f1": "macro F1"}
TRUE_COLOR_BANDS = ("B04", "B03", "B02")
STRETCH_PERCENTILE = 99.0
STRETCH_SHARE = 80.0
"""White is where four patches in five stay unsaturated; snow and cloud in the others do not darken them."""

GAMMA = 1.8
LAND_RESOLUTION_DEG = 0.5
FULL_WIDTH_PX = 1800
PREVIEW_WIDTH_PX = 900
PREVIEW_MAX_BYTES = 100_000
FLOOR_R2 = -0.25


class PatchSource(Protocol):
    """What a gallery needs of a patch dataset: its bands, its table of places, and a patch by position."""

    @property
    def bands(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def places(self) -> pd.DataFrame: ...  # noqa: D102

    def read_dn(self, index: int) -> NDArray[np.uint16]: ...  # noqa: D102


def sample_map(places: pd.DataFrame, is_land: IsLand) -> Figure:
    """Where the places are, and which of them have a valid patch.

    Args:
        places: Columns ``lon_deg``, ``lat_deg`` and ``valid``.
        is_land: Takes places, shape (b, 2), longitude first; draws the coasts.
    """
    valid = places["valid"].to_numpy(dtype=bool)
    subtitle = f"{len(places):,} places, {int(valid.sum()):,} of them with a valid patch"
    figure, axes = _world("Places of the dataset", subtitle, footer=0.75)
    _draw_land(axes, is_land, LAND)
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
    _legend_below(figure, axes, 2)
    return figure


def choose_gallery(places: pd.DataFrame, num_patches: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Positions of up to ``num_patches`` valid places, one from each band of latitudes, north to south."""
    valid = np.flatnonzero(places["valid"].to_numpy(dtype=bool))
    by_latitude = valid[np.argsort(-places["lat_deg"].to_numpy()[valid], kind="stable")]
    parts = np.array_split(by_latitude, min(num_patches, len(by_latitude)) or 1)
    return np.array([rng.choice(part) for part in parts if len(part)], dtype=np.intp)


def read_true_color(dataset: PatchSource, indices: Sequence[int] | NDArray[np.intp]) -> NDArray[np.float32]:
    """Reflectance in red, green and blue (B04, B03, B02), offset removed, shape (n, rows, columns, 3)."""
    positions = [dataset.bands.index(band) for band in TRUE_COLOR_BANDS]
    offsets = dataset.places["boa_add_offset"].to_numpy()
    patches = [reflectance(dataset.read_dn(int(index))[positions], offsets[int(index)]) for index in indices]
    return np.stack(patches).transpose(0, 2, 3, 1)


def patch_gallery(true_color: NDArray[np.float32], captions: Sequence[str], num_columns: int = 6) -> Figure:
    """Patches in true color under one common stretch, which the subtitle states.

    Args:
        true_color: Reflectance, shape (n, rows, columns, 3), red, green, blue; see :func:`read_true_color`.
        captions: One short line (or two) per patch.
        num_columns: Patches in a row.

    Raises:
        ValueError: There is no patch, or not one caption per patch.
    """
    if true_color.ndim != 4 or true_color.shape[-1] != 3 or not len(true_color) or len(captions) != len(true_color):
        raise ValueError(f"true_color has shape {true_color.shape} and there are {len(captions)} captions")
    brightness = np.percentile(true_color, STRETCH_PERCENTILE, axis=(1, 2, 3))
    white = float(np.clip(np.percentile(brightness, STRETCH_SHARE), 0.05, 1.0))
    shown = np.clip(true_color / white, 0, 1) ** (1 / GAMMA)
    num_columns = min(num_columns, len(shown))
    num_rows = -(-len(shown) // num_columns)
    caption_lines = max(caption.count("\n") + 1 for caption in captions)
    cell, caption_height, top = 2.0, 0.14 + 0.14 * caption_lines, 0.72
    width, height = max(num_columns * cell + 0.2, 6.4), num_rows * (cell + caption_height) + top
    figure = _figure(width, height)
    stretch = f"B04, B03, B02 under one stretch: reflectance 0 to {white:.2f}, gamma {GAMMA}"
    _title(figure, "Patches in true color", stretch)
    left = (width - num_columns * cell) / 2
    for index, (patch, caption) in enumerate(zip(shown, captions, strict=True)):
        row, col = divmod(index, num_columns)
        bottom = height - top - (row + 1) * cell - row * caption_height
        axes = figure.add_axes(
            ((left + col * cell + 0.05) / width, (bottom + 0.05) / height, (cell - 0.1) / width, (cell - 0.1) / height)
        )
        axes.imshow(patch, interpolation="antialiased")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(color=RULE, linewidth=0.8)
        axes.text(
            0.5,
            -0.03,
            caption,
            transform=axes.transAxes,
            ha="center",
            va="top",
            size=7.5,
            color=QUIET,
            linespacing=1.25,
        )
    return figure


def loss_curves(history: pd.DataFrame, chance_loss: float | None = None) -> Figure:
    """Training and validation loss by epoch, the best validation epoch marked.

    Args:
        history: Columns ``epoch``, ``train_loss`` and ``val_loss``; gaps (NaN) are skipped.
        chance_loss: Loss of an untrained model, log of the batch size, drawn as a line if given.
    """
    figure = _figure(8.4, 4.4)
    _title(figure, "Contrastive loss", "mean over the batches of an epoch, in nats")
    axes = figure.add_axes((0.085, 0.13, 0.885, 0.68))
    _quiet_frame(axes)
    curves = ((("train_loss"), BLUE, "training"), ("val_loss", VERMILION, "validation"))
    for column, color, label in curves:
        curve = history[["epoch", column]].dropna().groupby("epoch")[column].mean()
        if curve.empty:
            continue
        axes.plot(curve.index, curve, color=color, lw=2, label=label, marker="o" if len(curve) < 12 else None, ms=4)
        if column == "val_loss":
            best = curve.idxmin()
            axes.scatter([best], [curve.loc[best]], s=60, facecolor="white", edgecolor=color, lw=2, zorder=4)
            axes.annotate(
                f"best {curve.loc[best]:.3f}, epoch {best:g}",
                (float(best), float(curve.loc[best])),
                xytext=(0, 10),
                textcoords="offset points",
                ha="right" if best > curve.index[len(curve) // 2] else "left",
                size=9,
                color=color,
            )
    if chance_loss is not None:
        axes.axhline(chance_loss, color=QUIET, lw=1.2, ls=(0, (4, 3)), label=f"chance ({chance_loss:.2f})")
    axes.margins(x=0.02, y=0.12)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch", color=QUIET)
    axes.set_ylabel("loss (nats)", color=QUIET)
    axes.legend(frameon=False, loc="upper right", labelcolor=INK, fontsize=9.5)
    return figure


def principal_components(embeddings: NDArray[Any], num_components: int = 3) -> tuple[NDArray[Any], NDArray[Any]]:
    """First principal components of embeddings, and the shares of variance they explain.

    Args:
        embeddings: Shape (n, e), at least two rows.
        num_components: Number of components, at most e.

    Returns:
        Components, shape (n, num_components), each with its largest loading positive; shares, shape (num_components,).
    """
    centered = np.asarray(embeddings, dtype=np.float64) - np.mean(embeddings, axis=0, dtype=np.float64)
    eigenvalues, eigenvectors = np.linalg.eigh(centered.T @ centered)
    loadings = eigenvectors[:, ::-1][:, :num_components]
    loadings = loadings * np.sign(loadings[np.abs(loadings).argmax(axis=0), np.arange(loadings.shape[1])])
    total = max(float(eigenvalues.sum()), np.finfo(np.float64).tiny)
    return centered @ loadings, np.maximum(eigenvalues[::-1][:num_components], 0.0) / total


def embedding_map(lonlat_deg: NDArray[np.float64], embeddings: NDArray[Any], grid: GlobalGrid) -> Figure:
    """Three principal components of embeddings as red, green and blue, each stretched from its 2nd to 98th percentile.

    Args:
        lonlat_deg: Centres of the grid's cells that were embedded, shape (n, 2), longitude first.
        embeddings: Shape (n, e).
        grid: The grid the places come from.
    """
    components, shares = principal_components(embeddings)
    low, high = np.percentile(components, [2, 98], axis=0)
    color = np.clip((components - low) / np.maximum(high - low, 1e-12), 0, 1)
    raster = grid.raster(lonlat_deg, np.column_stack([color, np.ones(len(color))]))
    explained = ", ".join(f"{name} {share:.0%}" for name, share in zip(("red", "green", "blue"), shares, strict=False))
    figure, axes = _world(
        "Location embeddings",
        f"first three principal components as colors ({explained} of variance), {grid.resolution_deg:g}° land grid",
        footer=0.4,
    )
    axes.imshow(np.nan_to_num(raster), extent=grid.extent_deg, interpolation="nearest", aspect="auto", zorder=2)
    return figure


def scores_chart(scores: pd.DataFrame, model_name: str | None = None) -> Figure:
    """Leading metric of every task: a group of bars per model, a bar per split, 95 % intervals.

    Args:
        scores: Rows as of :func:`pipelines.evaluation.scores.evaluate`; several seeds are averaged.
        model_name: The model in question, set in bold.
    """
    means = summarize(scores)
    means = means[means["metric_name"].isin(LEADING_METRICS)]
    means = means.assign(label=[split_label(*pair) for pair in zip(means["split"], means["cell_deg"], strict=True)])
    tasks, models = list(dict.fromkeys(means["task"])), list(dict.fromkeys(means["model_name"]))
    labels = list(dict.fromkeys(means["label"]))
    num_columns = min(3, len(tasks))
    num_rows = -(-len(tasks) // num_columns)
    panel_height = 0.85 + 0.26 * len(models) * max(len(labels), 2)
    left_inches = 0.35 + 0.085 * max(len(MODEL_LABELS.get(model, model)) for model in models)
    width, height = left_inches + 3.5 * num_columns + (2.2 if num_columns == 1 else 0.0), num_rows * panel_height + 0.55
    figure = _figure(width, height)
    _title(
        figure,
        "Downstream scores",
        "ridge on frozen features, out of fold; bars: mean over seeds, lines: 95 % interval",
    )
    panel_width = (width - left_inches) / num_columns
    for index, task in enumerate(tasks):
        row, col = divmod(index, num_columns)
        bottom = height - 0.72 - (row + 1) * panel_height + 0.45
        axes = figure.add_axes(
            (
                (left_inches + col * panel_width) / width,
                bottom / height,
                (panel_width - 0.3) / width,
                (panel_height - 0.8) / height,
            )
        )
        _draw_scores(axes, means[means["task"] == task], models, labels)
        axes.set_yticks(range(len(models)), [MODEL_LABELS.get(model, model) if col == 0 else "" for model in models])
        for tick, model in zip(axes.get_yticklabels(), models, strict=True):
            tick.set(fontweight="bold" if model == model_name else "normal", color=INK, fontsize=10)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="upper right", bbox_to_anchor=(1 - 0.2 / width, 1 - 0.08 / height), ncols=len(labels),
        frameon=False, fontsize=9.5, labelcolor=INK, handlelength=1.2, columnspacing=1.2,
    )  # fmt: skip
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


def place_captions(places: pd.DataFrame, indices: Sequence[int] | NDArray[np.intp]) -> list[str]:
    """Captions of patches: coordinates, and the day of the scene below them where ``datetime`` is known."""
    captions = []
    for record in places.iloc[list(map(int, indices))].to_dict("records"):
        position = f"{_latitude(record['lat_deg'])}, {_longitude(record['lon_deg'])}"
        day = record.get("datetime")
        unknown = day is None or day == "" or pd.isna(day)
        captions.append(position if unknown else f"{position}\n{pd.Timestamp(day):%Y-%m-%d}")
    return captions


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _title(figure: Figure, title: str, subtitle: str) -> None:
    width, height = figure.get_size_inches()
    left = 0.15 / width
    figure.text(left, 1 - 0.1 / height, title, size=14, weight="bold", color=INK, va="top")
    figure.text(left, 1 - 0.42 / height, subtitle, size=9.5, color=QUIET, va="top")


def _world(title: str, subtitle: str, footer: float) -> tuple[Figure, Axes]:
    width, map_height = 11.6, 11.0 * (84 + 58) / 360
    height = map_height + 0.75 + footer
    figure = _figure(width, height)
    _title(figure, title, subtitle)
    axes = figure.add_axes((0.45 / width, footer / height, 11.0 / width, map_height / height))
    axes.set_facecolor(SEA)
    axes.set(xlim=(-180, 180), ylim=(-58, 84))
    axes.xaxis.set_major_locator(FixedLocator(list(range(-120, 121, 60))))
    axes.yaxis.set_major_locator(FixedLocator([-30, 0, 30, 60]))
    axes.xaxis.set_major_formatter(lambda value, _: _longitude(value))
    axes.yaxis.set_major_formatter(lambda value, _: _latitude(value))
    axes.tick_params(length=0, labelsize=8.5, colors=QUIET)
    axes.grid(color="white", lw=0.7, zorder=1)
    for spine in axes.spines.values():
        spine.set(color=RULE, linewidth=0.8)
    return figure, axes


def _draw_land(axes: Axes, is_land: IsLand, color: str) -> None:
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


def _legend_below(figure: Figure, axes: Axes, num_columns: int) -> None:
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


def _quiet_frame(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(RULE)
    axes.tick_params(length=0, colors=QUIET, labelsize=9)
    axes.grid(axis="y", color=RULE, lw=0.7)
    axes.set_axisbelow(True)


def _draw_scores(axes: Axes, means: pd.DataFrame, models: list[str], labels: list[str]) -> None:
    _quiet_frame(axes)
    axes.grid(visible=False)
    axes.grid(axis="x", color=RULE, lw=0.7)
    thickness = 0.8 / len(labels)
    floor = max(FLOOR_R2, min(0.0, float(means["ci_lower"].min())))
    cells: Mapping[tuple[str, str], Any] = {
        (record["model_name"], record["label"]): record for record in means.to_dict("records")
    }
    ceiling = max(0.1, float(means["ci_upper"].max()))
    for position, label in enumerate(labels):
        color = SPLIT_COLORS[position % len(SPLIT_COLORS)]
        rows = [(index, cells[model, label]) for index, model in enumerate(models) if (model, label) in cells]
        y = np.array([index for index, _ in rows]) + (position - (len(labels) - 1) / 2) * thickness
        value, lower, upper = (
            np.array([record[name] for _, record in rows]) for name in ("metric_value", "ci_lower", "ci_upper")
        )
        axes.barh(y, np.maximum(value, floor), height=thickness * 0.88, color=color, label=label, zorder=2)
        axes.hlines(y, np.maximum(lower, floor), np.maximum(upper, floor), color=INK, lw=1.3, zorder=3)
        for height, number, end in zip(y, value, np.maximum(np.maximum(upper, value), 0.0), strict=True):
            text = f"{round(number, 2) + 0.0:.2f}" + ("" if number >= floor else " (off the axis)")
            axes.annotate(
                text,
                (end, height),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                size=8.5,
                color=INK,
                zorder=4,
            )
    axes.axvline(0, color=QUIET, lw=0.9, zorder=2.5)
    axes.set_ylim(len(models) - 0.45, -0.55)
    axes.set_xlim(floor * 1.05, ceiling + 0.2 * (ceiling - floor))
    metric = METRIC_LABELS[str(means["metric_name"].iloc[0])]
    axes.set_title(f"{means['task'].iloc[0]}", loc="left", size=11, weight="bold", color=INK, pad=6)
    axes.set_title(metric, loc="right", size=9.5, color=QUIET, pad=6)


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


def _longitude(lon_deg: float) -> str:
    return f"{_shortest(lon_deg)}°" + ("E" if lon_deg > 0 else "W" if lon_deg < 0 else "")


def _latitude(lat_deg: float) -> str:
    return f"{_shortest(lat_deg)}°" + ("N" if lat_deg > 0 else "S" if lat_deg < 0 else "")
