"""Scores from embedding files: what is evaluated is what was exported."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.embeddings.export import LocationEmbeddings, read_embeddings
from pipelines.errors import ArtefactError


@dataclass(frozen=True)
class ExportedEmbeddings:
    """The embeddings of one file as features of the places in it.

    Attributes:
        embeddings: As read from the file.
        path: For messages.
        name: Of the method, in tables.
        target: What the features are of, in tables.
    """

    embeddings: LocationEmbeddings
    path: Path
    name: str = "satclip"
    target: str = "location"

    def features(self, lonlat_deg: NDArray[np.float64]) -> NDArray[np.float32]:
        """Embeddings of places, shape (n, e), found by their exact coordinates.

        Raises:
            ArtefactError: a place is not in the file.
        """
        known = pd.MultiIndex.from_arrays(self.embeddings.lonlat_deg.T)
        rows = pd.Series(np.arange(len(known)), index=known)
        rows = rows[~rows.index.duplicated()].reindex(pd.MultiIndex.from_arrays(np.asarray(lonlat_deg).T))
        if rows.isna().any():
            place = lonlat_deg[int(np.flatnonzero(rows.isna())[0])].tolist()
            raise ArtefactError(
                f"{self.path}: no embedding at lon, lat {place}, expected one for each of {len(lonlat_deg)} places; "
                "materialize location_embeddings with the same table"
            )
        found: NDArray[np.float32] = self.embeddings.embeddings[rows.to_numpy(dtype=np.int64)]
        return found


def open_exported(path: Path, checkpoint_sha256: str) -> ExportedEmbeddings:
    """Opens a file of embeddings, refusing those of another checkpoint (ArtefactError)."""
    return ExportedEmbeddings(read_embeddings(path, checkpoint_sha256), path)
