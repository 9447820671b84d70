"""How retrieval went on while a model was trained."""

from typing import Final

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from pipelines.drawing import BLUE, GREEN, INK, ORANGE, QUIET, VERMILION, open_figure, quieten_frame, write_title

_RECALLS: Final = {"val_recall_at_1": BLUE, "val_recall_at_5": GREEN, "val_recall_at_10": ORANGE}
_FEW_POINTS: Final = 12


def retrieval_curves(history: pd.DataFrame) -> Figure:
    """Recall at 1, 5 and 10, and the median error of the best match, on validation places by epoch.

    Args:
        history: Columns of `history.HISTORY_COLUMNS`; gaps (NaN) are skipped.
    """
    figure = open_figure(8.4, 4.4)
    write_title(figure, "Retrieval on validation places", "from an image to its place, among at most 256 places")
    recall, error = figure.add_axes((0.085, 0.13, 0.4, 0.68)), figure.add_axes((0.585, 0.13, 0.4, 0.68))
    for column, color in _RECALLS.items():
        _draw(recall, history, column, color, f"first {column.rpartition('_')[2]}")
    recall.set_ylim(0, 1)
    recall.yaxis.set_major_formatter(PercentFormatter(1.0))
    recall.set_ylabel("right place among the", color=QUIET)
    recall.legend(frameon=False, loc="upper left", labelcolor=INK, fontsize=9.5)
    _draw(error, history, "val_median_error_km", VERMILION, "median")
    error.set_ylim(bottom=0)
    error.set_ylabel("median distance of the best match (km)", color=QUIET)
    return figure


def _draw(axes: Axes, history: pd.DataFrame, column: str, color: str, label: str) -> None:
    curve = history[["epoch", column]].dropna()
    marker = "o" if len(curve) < _FEW_POINTS else None
    axes.plot(curve["epoch"], curve[column], color=color, lw=2, label=label, marker=marker, ms=4)
    quieten_frame(axes)
    axes.margins(x=0.02, y=0.12)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch", color=QUIET)
