"""Precision-recall curves as a table and as a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pandas as pd
from matplotlib.figure import Figure

from pipelines.atomic import replacing
from pipelines.drawing import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    QUIET,
    VERMILION,
    open_figure,
    quieten_frame,
    to_png_bytes,
    write_title,
)
from pipelines.satlas.training.metrics import PrecisionRecall

CURVES_NAME: Final = "precision_recall.parquet"
PICTURE_NAME: Final = "precision_recall.png"
_COLORS: Final = (BLUE, VERMILION, GREEN, ORANGE)


def write_curves(folder: Path, curves: Mapping[str, PrecisionRecall]) -> None:
    """Writes the curves of all categories; nothing where there are none."""
    if not curves:
        return
    table = pd.concat(
        [
            pd.DataFrame(
                {
                    "category": name,
                    "threshold": curve.threshold,
                    "precision": curve.precision,
                    "recall": curve.recall,
                    "f1": curve.f1,
                }
            )
            for name, curve in curves.items()
        ]
    )
    with replacing(folder / CURVES_NAME) as partial:
        table.to_parquet(partial, index=False)
    with replacing(folder / PICTURE_NAME) as partial:
        partial.write_bytes(to_png_bytes(precision_recall_figure(curves), 1200))


def precision_recall_figure(curves: Mapping[str, PrecisionRecall]) -> Figure:
    """Precision over recall, a line per category."""
    figure = open_figure(6.4, 5.2)
    write_title(figure, "Precision and recall", "on validation examples, from the highest threshold to the lowest")
    axes = figure.add_axes((0.12, 0.12, 0.84, 0.7))
    for number, (name, curve) in enumerate(curves.items()):
        label = f"{name.replace('_', ' ')} ({curve.num_positive:,}), average {curve.average_precision:.2f}"
        axes.plot(curve.recall, curve.precision, color=_COLORS[number % len(_COLORS)], lw=2, label=label)
    quieten_frame(axes)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("recall", color=QUIET)
    axes.set_ylabel("precision", color=QUIET)
    axes.legend(frameon=False, loc="lower left", labelcolor=INK, fontsize=9.5)
    return figure
