"""Pictures of ground-cover scores."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipelines.drawing import BLUE, INK, QUIET, VERMILION, open_figure, quieten_frame, write_title
from pipelines.ground_cover.scores import EVERYWHERE, LEARNED, PROBE, TEXT
from pipelines.report.figures import GAMMA, STRETCH_PERCENTILE

METHOD_LABELS: Mapping[str, str] = {
    "class_embeddings": "class embeddings",
    "text_prompts": "class texts",
    "linear_probe": "linear probe",
    "satclip_image": "SatCLIP image features + ridge",
    "backbone_features": "backbone features + ridge",
    "band_statistics": "band statistics + ridge",
    "coordinates": "coordinates + ridge",
    "majority": "majority",
}
_OWN = (LEARNED, TEXT, PROBE)


def methods_chart(table: pd.DataFrame) -> Figure:
    """Macro F1 of every method, a mark per seed and a bar for their mean."""
    rows = table[(table["metric_name"] == "macro_f1") & (table["region"] == EVERYWHERE)]
    means = rows.groupby("method")["metric_value"].mean().sort_values()
    figure = open_figure(9.0, 1.6 + 0.36 * len(means))
    write_title(figure, "Ground cover under spatial blocks", "macro F1: bars are means, marks are seeds")
    axes = figure.add_subplot()
    figure.subplots_adjust(left=0.34, right=0.96, top=0.8, bottom=0.1)
    at = np.arange(len(means))
    axes.barh(at, means.to_numpy(), color=[BLUE if name in _OWN else QUIET for name in means.index])
    for position, name in zip(at, means.index, strict=True):
        values = rows.loc[rows["method"] == name, "metric_value"]
        axes.scatter(values, [position] * len(values), marker="|", s=60, color=INK, zorder=3)
    axes.set_yticks(at, [METHOD_LABELS.get(name, name) for name in means.index])
    axes.set_xlim(0, 1)
    quieten_frame(axes)
    return figure


def confusion_chart(confusion: NDArray[np.int64], names: Sequence[str]) -> Figure:
    """Share of the patches of each true class by predicted class."""
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    side = 3.2 + 0.34 * len(names)
    figure = open_figure(side, side)
    write_title(figure, "True and predicted classes", "share of each true class, in percent")
    axes = figure.add_subplot()
    figure.subplots_adjust(left=0.26, right=0.98, top=0.88, bottom=0.24)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(shares >= 0.005):
        color = "white" if shares[row, column] > 0.5 else INK
        axes.text(column, row, f"{100 * shares[row, column]:.0f}", ha="center", va="center", color=color, fontsize=7)
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylabel("true")
    axes.set_xlabel("predicted")
    quieten_frame(axes)
    axes.grid(False)
    return figure


def unseen_chart(unseen: pd.DataFrame) -> Figure:
    """Lift of average precision over chance of classes that training never saw, with 95 % bounds."""
    rows = unseen.iloc[::-1]
    figure = open_figure(9.0, 1.6 + 0.32 * max(len(rows), 1))
    write_title(
        figure, "Classes left out of training, found by their texts", "average precision over chance, 95 % bounds"
    )
    axes = figure.add_subplot()
    figure.subplots_adjust(left=0.3, right=0.96, top=0.8, bottom=0.1)
    at = np.arange(len(rows))
    axes.hlines(at, rows["ci_lower"], rows["ci_upper"], color=INK, linewidth=1)
    axes.scatter(rows["lift"], at, color=[VERMILION if each == "mean" else BLUE for each in rows["class"]], zorder=3)
    axes.axvline(1.0, color=QUIET, linewidth=1)
    axes.set_yticks(at, rows["class"])
    axes.set_xscale("log")
    quieten_frame(axes)
    return figure


def retrieval_gallery(
    true_color: Mapping[str, NDArray[np.float32]], hits: Mapping[str, Sequence[bool]], num_columns: int
) -> Figure:
    """Per class the patches most alike its text, under a stretch of their own; those of the class are framed.

    Args:
        true_color: Per class reflectance, shape (n, rows, columns, 3).
        hits: Per class whether each patch holds the class.
        num_columns: Patches per class.
    """
    names = list(true_color)
    figure = open_figure(2.2 + 1.1 * num_columns, 0.9 + 1.05 * len(names))
    write_title(figure, "Patches by class text", "most alike first; a frame marks patches that hold the class")
    top = 1 - 0.8 / figure.get_figheight()
    grid = figure.add_gridspec(len(names), num_columns, left=0.22, right=0.99, top=top, bottom=0.01, wspace=0.06)
    for row, name in enumerate(names):
        white = float(np.clip(np.percentile(true_color[name], STRETCH_PERCENTILE), 0.05, 1.0))
        shown = np.clip(true_color[name] / white, 0, 1) ** (1 / GAMMA)
        for column, (image, hit) in enumerate(zip(shown, hits[name], strict=True)):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(image)
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set(visible=hit, color=VERMILION, linewidth=2)
            if column == 0:
                axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    return figure
