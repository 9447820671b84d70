"""Which objects a person judges, the table to fill in, and reading it back."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from pipelines.atomic import replacing
from pipelines.errors import TableError
from pipelines.satlas.history import places_of

if TYPE_CHECKING:
    import geopandas
    import pandas as pd

CORRECT, WRONG, UNSURE = "correct", "wrong", "unsure"
VERDICTS: Final = (CORRECT, WRONG, UNSURE)
COLUMNS: Final = (
    "continent",
    "number",
    "object_id",
    "category",
    "lon",
    "lat",
    "score",
    "first_month",
    "last_month",
    "verdict",
    "confused_with",
)
"""Columns of the table; a person fills in the last two."""
WORLD: Final = "World"


def draw_samples(
    objects: "geopandas.GeoDataFrame", continents: NDArray[np.str_], number: int, seed: int
) -> "pd.DataFrame":
    """Up to ``number`` objects of each continent, uniformly, in the order in which they are to be judged.

    An object's place in the order depends on the seed and its id only: a longer list begins with the shorter one, and
    objects that come or go in a revision move no others.

    Args:
        objects: A product: columns object_id, category, score, first_month, last_month; WGS 84.
        continents: Of each object, shape (n,).
        number: Most objects per continent.
        seed: Of the order.

    Returns:
        Columns of `COLUMNS`, without verdicts.
    """
    import pandas as pd

    lonlat = places_of(objects).round(6)
    frame = pd.DataFrame(objects.drop(columns=objects.geometry.name))
    frame = frame.assign(continent=continents, lon=lonlat[:, 0], lat=lonlat[:, 1], verdict="", confused_with="")
    keys = [hashlib.sha256(f"{seed} {each}".encode()).hexdigest() for each in frame["object_id"]]
    frame = frame.assign(key=keys).sort_values(["continent", "key"], kind="stable")
    frame["number"] = frame.groupby("continent").cumcount() + 1
    return frame.loc[frame["number"] <= number, list(COLUMNS)].reset_index(drop=True)


def write_samples(path: Path, samples: "pd.DataFrame") -> None:
    """Writes the table as CSV; equal samples give equal bytes."""
    with replacing(path) as partial:
        samples.to_csv(partial, index=False, lineterminator="\n")


def read_labels(path: Path) -> "pd.DataFrame":
    """A table that was filled in: columns object_id, verdict and confused_with; rows without a verdict are left out.

    Raises:
        TableError: The file or a column is missing, a verdict is none of the three, or an object is there twice with
            different verdicts.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (FileNotFoundError, pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise TableError(f"{path}: cannot be read as CSV ({error}); expected the filled-in table of samples") from error
    missing = [name for name in ("object_id", "verdict") if name not in table.columns]
    if missing:
        raise TableError(f"{path}: columns {', '.join(missing)} missing; expected those of samples.csv")
    if "confused_with" not in table.columns:
        table["confused_with"] = ""
    table["verdict"] = table["verdict"].str.strip().str.lower()
    unknown = sorted(set(table["verdict"]) - {"", *VERDICTS})
    if unknown:
        row = int(np.flatnonzero(table["verdict"] == unknown[0])[0]) + 2
        raise TableError(
            f"{path}: verdict {unknown[0]!r} in line {row}; expected one of {', '.join(VERDICTS)}, or none"
        )
    table = table.loc[table["verdict"] != "", ["object_id", "verdict", "confused_with"]].drop_duplicates()
    twice = table.loc[table.duplicated("object_id"), "object_id"]
    if len(twice):
        raise TableError(f"{path}: object {twice.iloc[0]} is judged twice and differently; keep one line")
    return table.reset_index(drop=True)


def with_verdicts(samples: "pd.DataFrame", labels: "pd.DataFrame | None") -> "pd.DataFrame":
    """Samples with the verdicts that are known of them, by the object's id."""
    if labels is None:
        return samples
    known = labels.set_index("object_id")
    filled = samples.copy()
    for column in ("verdict", "confused_with"):
        filled[column] = samples["object_id"].map(known[column]).fillna("")
    return filled
