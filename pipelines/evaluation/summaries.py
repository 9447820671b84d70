"""Scores for people: means over seeds, margins over other models, tables."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pipelines.evaluation.intervals import LEADING_METRICS
from pipelines.evaluation.probes import InverseDistance


def summarize(scores: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds of the value and of both bounds; one row per task, probe, split, continent, metric and model."""
    keys = ["dataset", "task", "task_type", "method", "split", "cell_deg", "fold_name", "metric_name", "model_name"]
    if "fold_name" not in scores:
        scores = scores.assign(fold_name="")
    columns = {
        "metric_value": ("metric_value", "mean"),
        "ci_lower": ("ci_lower", "mean"),
        "ci_upper": ("ci_upper", "mean"),
        "num_seeds": ("seed", "nunique"),
        "n_samples": ("n_samples", "first"),
        "feature_dim": ("feature_dim", "first"),
    }
    return scores.groupby(keys, sort=False, dropna=False).agg(**columns).reset_index()


def margins(scores: pd.DataFrame, model_name: str) -> pd.DataFrame:
    """By how much one model exceeds every other, means over seeds: a row per task, split, metric, probe and model.

    Columns ``task``, ``split``, ``cell_deg``, ``fold_name``, ``metric_name``, ``method``, ``other``, ``metric_value``,
    ``other_value``, ``margin``; the margin of ``mse`` is turned, so that positive is always better. Interpolation,
    which has no features, is compared with every probe. Rows without a value are left out.

    Raises:
        ValueError: The scores hold no rows of that model.
    """
    means = with_interpolation(summarize(scores).dropna(subset=["metric_value"]))
    if model_name not in set(means["model_name"]):
        raise ValueError(f"no scores of model {model_name!r}; found {sorted(set(means['model_name']))}")
    keys = ["dataset", "task", "split", "cell_deg", "fold_name", "metric_name", "method"]
    own = means.loc[means["model_name"] == model_name, [*keys, "metric_value"]]
    others = means.loc[means["model_name"] != model_name, [*keys, "model_name", "metric_value"]].rename(
        columns={"model_name": "other", "metric_value": "other_value"}
    )
    paired = own.merge(others, on=keys)
    sign = np.where(paired["metric_name"] == "mse", -1.0, 1.0)
    paired["margin"] = sign * (paired["metric_value"] - paired["other_value"])
    return paired[[*keys[1:], "other", "metric_value", "other_value", "margin"]]


def with_interpolation(means: pd.DataFrame) -> pd.DataFrame:
    """The same rows, those of interpolation repeated under the name of every probe."""
    name = InverseDistance().name
    alone = means[means["method"] == name]
    probed = means[means["method"] != name]
    if alone.empty or probed.empty:
        return means
    return pd.concat([probed, *(alone.assign(method=probe) for probe in probed["method"].unique())], ignore_index=True)


def score_table(scores: pd.DataFrame, metric_names: Sequence[str] = LEADING_METRICS) -> pd.DataFrame:
    """The table for people: a row per task, split and probe, a column per model, cells like ``0.71 [0.66, 0.75]``.

    A cell of what could not be scored is a dash.
    """
    means = with_interpolation(summarize(scores))
    means = means[means["metric_name"].isin(list(metric_names))]
    numbers = zip(means["metric_value"], means["ci_lower"], means["ci_upper"], strict=True)
    cells = [_cell(value, lower, upper) for value, lower, upper in numbers]
    models = list(dict.fromkeys(means["model_name"]))
    labels = [split_label(*row) for row in zip(means["split"], means["cell_deg"], means["fold_name"], strict=True)]
    keyed = means.assign(cell=cells, split=labels)
    keys = ["task", "split", "method", "metric_name"]
    wide = keyed.groupby([*keys, "model_name"], sort=False)["cell"].first().unstack("model_name")
    wide = wide.reindex(keyed[keys].drop_duplicates().apply(tuple, axis="columns"))[models].fillna("")
    wide.columns.name = None
    return wide.reset_index().rename(columns={"metric_name": "metric", "method": "probe"})


def _cell(value: float, lower: float, upper: float) -> str:
    if np.isnan(value):
        return "-"
    known = plain(value, 3)
    return known if np.isnan(lower) or np.isnan(upper) else f"{known} [{plain(lower, 2)}, {plain(upper, 2)}]"


def table_notes(scores: pd.DataFrame) -> list[tuple[str, str]]:
    """What a reader should know of the tables that were scored: task and what was left out or repeats."""
    told = scores[scores["metric_value"].notna() & (scores["note"].fillna("") != "")]
    return list(dict.fromkeys(zip(told["task"], told["note"], strict=True)))


def markdown_table(scores: pd.DataFrame) -> str:
    """The leading metrics as a Markdown table, means over seeds with 95 % intervals."""
    table = score_table(scores)
    header = "| " + " | ".join(map(str, table.columns)) + " |"
    rule = "|" + "|".join(["---"] * len(table.columns)) + "|"
    rows = ["| " + " | ".join(map(str, row)) + " |" for row in table.itertuples(index=False)]
    return "\n".join([header, rule, *rows]) + "\n"


def split_label(split: str, cell_deg: float, fold_name: str = "") -> str:
    """What a split is called in tables and figures: ``random``, ``blocks 10°`` or ``without Africa``."""
    if fold_name:
        return f"without {fold_name}"
    return split if np.isnan(cell_deg) else f"{split} {cell_deg:g}°"


def plain(number: float, num_digits: int) -> str:
    """The number with so many digits after the point, never as -0.00."""
    return f"{round(float(number), num_digits) + 0.0:.{num_digits}f}"
