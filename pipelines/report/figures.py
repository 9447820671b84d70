"""Pictures of the chain: patches, losses, embeddings and scores. Nothing here touches pyplot or its state."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pipelines.drawing import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    QUIET,
    RULE,
    VERMILION,
    latitude_label,
    longitude_label,
    open_figure,
    open_world,
    quieten_frame,
    write_title,
)
from pipelines.embeddings.grid import GlobalGrid
from pipelines.evaluation.intervals import LEADING_METRICS
from pipelines.evaluation.summaries import split_label, summarize, with_interpolation
from pipelines.patches.radiometry import reflectance

SPLIT_COLORS = ("#a6cbe3", BLUE, GREEN, ORANGE)
MODEL_LABELS = {
    "sincos": "sin/cos", "harmonics": "harmonics alone", "untrained": "untrained encoder", "idw": "interpolation",
    "geoclip": "GeoCLIP", "sinr": "SINR", "csp": "CSP", "gps2vec": "GPS2Vec",
}  # fmt: skip
METRIC_LABELS = {
    "r2": "R²", "mse": "MSE of the standardised target", "accuracy": "accuracy", "macro_f1": "macro F1",
    "micro_f1": "micro F1",
}  # fmt: skip
TRUE_COLOR_BANDS = ("B04", "B03", "B02")
STRETCH_PERCENTILE = 99.0
STRETCH_SHARE = 80.0
"""White is where four patches in five stay unsaturated; snow and cloud in the others do not darken them."""

GAMMA = 1.8
FLOOR_R2 = -0.25


class PatchSource(Protocol):
    """What a gallery needs of a patch dataset: its bands, its table of places, and a patch by position."""

    @property
    def bands(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def places(self) -> pd.DataFrame: ...  # noqa: D102

    def read_dn(self, index: int) -> NDArray[np.uint16]: ...  # noqa: D102


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
    figure = open_figure(width, height)
    stretch = f"B04, B03, B02 under one stretch: reflectance 0 to {white:.2f}, gamma {GAMMA}"
    write_title(figure, "Patches in true color", stretch)
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
    figure = open_figure(8.4, 4.4)
    write_title(figure, "Contrastive loss", "mean over the batches of an epoch, in nats")
    axes = figure.add_axes((0.085, 0.13, 0.885, 0.68))
    quieten_frame(axes)
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
    figure, axes = open_world(
        "Location embeddings",
        f"first three principal components as colors ({explained} of variance), {grid.resolution_deg:g}° land grid",
        footer=0.4,
    )
    axes.imshow(np.nan_to_num(raster), extent=grid.extent_deg, interpolation="nearest", aspect="auto", zorder=2)
    return figure


def scores_chart(scores: pd.DataFrame, model_name: str | None = None) -> Figure:
    """Leading metric of every task: a group of bars per model, a bar per split, 95 % intervals.

    Of several probes on features the first is shown; interpolation, which has none, is shown beside it.

    Args:
        scores: Rows as of :func:`pipelines.evaluation.scores.evaluate`; several seeds are averaged.
        model_name: The model in question, set in bold.
    """
    means = with_interpolation(summarize(scores).dropna(subset=["metric_value"]))
    probe = str(means["method"].iloc[0])
    means = means[means["metric_name"].isin(LEADING_METRICS) & (means["method"] == probe)]
    named = zip(means["split"], means["cell_deg"], means["fold_name"], strict=True)
    means = means.assign(label=[split_label(*each) for each in named])
    tasks, models = list(dict.fromkeys(means["task"])), list(dict.fromkeys(means["model_name"]))
    labels = list(dict.fromkeys(means["label"]))
    num_columns = min(3, len(tasks))
    num_rows = -(-len(tasks) // num_columns)
    panel_height = 0.85 + 0.26 * len(models) * max(len(labels), 2)
    left_inches = 0.35 + 0.085 * max(len(MODEL_LABELS.get(model, model)) for model in models)
    width, height = left_inches + 3.5 * num_columns + (2.2 if num_columns == 1 else 0.0), num_rows * panel_height + 0.55
    figure = open_figure(width, height)
    write_title(
        figure,
        "Downstream scores",
        f"{probe} on frozen features, out of fold; bars: mean over seeds, lines: 95 % interval",
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


def place_captions(places: pd.DataFrame, indices: Sequence[int] | NDArray[np.intp]) -> list[str]:
    """Captions of patches: coordinates, and the day of the scene below them where ``datetime`` is known."""
    captions = []
    for record in places.iloc[list(map(int, indices))].to_dict("records"):
        position = f"{latitude_label(record['lat_deg'])}, {longitude_label(record['lon_deg'])}"
        day = record.get("datetime")
        unknown = day is None or day == "" or pd.isna(day)
        captions.append(position if unknown else f"{position}\n{pd.Timestamp(day):%Y-%m-%d}")
    return captions


def _draw_scores(axes: Axes, means: pd.DataFrame, models: list[str], labels: list[str]) -> None:
    quieten_frame(axes)
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
