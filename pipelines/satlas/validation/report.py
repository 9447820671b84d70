"""The report of a validation: tables in Markdown and a picture of the intervals."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipelines.satlas.validation.estimates import Estimate
from pipelines.satlas.validation.proportions import Proportion
from pipelines.satlas.validation.published import PublishedComparison, compare_published, recall_remark

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURE = "intervals.png"


def percent(estimate: Proportion | None) -> str:
    """A share with its interval in percent, such as ``94.0 (87.5 to 97.2)``."""
    if estimate is None:
        return "N/A"
    return f"{100 * estimate.value:.1f} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown, numbers to the right."""
    marks = ["---" if isinstance(cell, str) else "---:" for cell in (rows[0] if rows else header)]
    lines = [header, marks, *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def estimates_table(estimates: Sequence[Estimate], confidence: float) -> str:
    """All estimates, a line each."""
    header = (
        "measure",
        "of",
        "category",
        "continent",
        "found",
        "counted",
        "objects",
        f"% ({100 * confidence:g} % interval)",
    )
    rows = [
        (e.measure, e.unit, e.category, e.continent, e.found, e.counted, e.num_objects, percent(e.estimate))
        for e in estimates
    ]
    return markdown_table(header, rows)


def published_table(rows: Sequence[PublishedComparison] | None = None) -> str:
    """Published precision beside that computed from the counts, and why they differ."""
    header = (
        "category",
        "continent",
        "objects",
        "published %",
        "computed % (interval)",
        "published recall %",
        "remark",
    )
    told = compare_published() if rows is None else rows
    cells = [
        (
            row.category,
            row.continent,
            row.num_objects,
            "N/A" if row.published_percent is None else str(row.published_percent),
            percent(row.computed),
            "N/A" if row.published_recall_percent is None else str(row.published_recall_percent),
            row.remark,
        )
        for row in told
    ]
    return f"{markdown_table(header, cells)}\n\n{recall_remark()}\n"


def draw_intervals(estimates: Sequence[Estimate], title: str) -> "Figure":
    """Precision and recall per category and continent, with their intervals, as one picture."""
    from matplotlib.figure import Figure

    from pipelines.drawing import BLUE, INK, QUIET, RULE, VERMILION

    shown = [each for each in estimates if each.estimate is not None]
    figure = Figure(figsize=(7.5, 1.4 + 0.3 * max(len(shown), 1)), layout="constrained")
    axes = figure.add_subplot()
    for row, each in enumerate(shown):
        assert each.estimate is not None
        color = BLUE if each.measure == "precision" else VERMILION
        low, value, high = (100 * share for share in (each.estimate.low, each.estimate.value, each.estimate.high))
        axes.plot([low, high], [row, row], color=color, linewidth=2, solid_capstyle="round")
        axes.plot([value], [row], "o", color=color, markersize=6)
    labels = [f"{each.measure} of {each.category}, {each.continent} ({each.counted} {each.unit})" for each in shown]
    axes.set_yticks(range(len(shown)), labels, fontsize=8, color=INK)
    axes.set_ylim(max(len(shown), 1) - 0.5, -0.5)
    axes.set_xlim(0, 101)
    axes.set_xlabel("percent, with Wilson interval", fontsize=9, color=QUIET)
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.grid(axis="x", color=RULE)
    axes.spines[["top", "right", "left"]].set_visible(False)
    if not shown:
        axes.text(50, 0, "nothing is judged yet", ha="center", color=QUIET)
    return figure


DEFINITIONS = """## What is counted

- **Object**: a point (turbines, platforms) or a polygon (solar farms) of the product.
- **Precision**: share of sampled objects that a person judged correct. Unsure ones are left out of it and counted.
- **Recall of points**: share of known objects that have an object of the category of their own within {distance_m:g} m.
- **Recall of solar farms**: share of known pixels (10 m) that the product covers. Pixels of a farm are found or missed
  together; the interval is of the number of independent pixels that would vary as much.
- **Intervals**: Wilson's, {percent:g} %. All continents: each weighted by its objects, interval by Kish's effective
  number of samples.
"""
