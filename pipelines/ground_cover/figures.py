"""Pictures of labels."""

import numpy as np
from matplotlib.figure import Figure

from pipelines.drawing import INK, LAND, IsLand, draw_land, open_figure, open_world, quieten_frame, write_title
from pipelines.ground_cover.labels import GroundCoverLabels
from pipelines.sampling.land import is_land


def _rgb(color: tuple[int, int, int]) -> tuple[float, float, float]:
    return color[0] / 255, color[1] / 255, color[2] / 255


def label_map(labels: GroundCoverLabels, draws_land: IsLand = is_land) -> Figure:
    """The dominant class of every patch, in the colors of the map."""
    chosen = labels.valid
    subtitle = f"{int(chosen.sum()):,} of {len(labels):,} places have a label of {labels.classes.name}"
    figure, axes = open_world("Dominant ground cover of the patches", subtitle, footer=0.75)
    draw_land(axes, draws_land, LAND)
    size = float(np.clip(9000 / max(len(labels), 1), 1.5, 14))
    colors = [_rgb(labels.classes.classes[index].color) for index in labels.dominant_index[chosen]]
    lon_deg, lat_deg = labels.lonlat_deg[chosen].T
    axes.scatter(lon_deg, lat_deg, s=size, c=colors or "none", linewidths=0.25, edgecolors=INK, zorder=3)
    return figure


def class_shares(labels: GroundCoverLabels) -> Figure:
    """Share of the area of all labeled patches in each class, and of the patches in which it dominates."""
    valid = labels.valid
    area = labels.fractions[valid].mean(axis=0) if valid.any() else np.zeros(len(labels.classes))
    dominant = np.bincount(labels.dominant_index[valid], minlength=len(labels.classes)) / max(int(valid.sum()), 1)
    figure = open_figure(9.0, 1.6 + 0.32 * len(labels.classes))
    write_title(figure, "Ground cover of the patches", "bars: share of the area; marks: share of patches it dominates")
    axes = figure.add_subplot()
    figure.subplots_adjust(left=0.34, right=0.96, top=0.82, bottom=0.1)
    at = np.arange(len(labels.classes))
    axes.barh(at, area, color=[_rgb(each.color) for each in labels.classes.classes], edgecolor=INK, linewidth=0.4)
    axes.scatter(dominant, at, marker="D", s=18, color=INK, zorder=3)
    axes.set_yticks(at, [_short(each) for each in labels.classes.names])
    axes.invert_yaxis()
    quieten_frame(axes)
    return figure


def _short(name: str, longest: int = 40) -> str:
    return name if len(name) <= longest else f"{name[: longest - 1]}\u2026"
