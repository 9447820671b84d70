"""Fewer rows of a table, drawn so that no region is lost."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.splits import block_cells

CAP_BLOCK_DEG: Final = 10.0


def draw_per_block(lonlat_deg: NDArray[np.float64], max_rows: int, seed: int) -> NDArray[np.intp]:
    """Numbers of ``max_rows`` rows in ascending order, drawn within blocks of 10 degrees.

    A block whose share would be less than a row keeps one; the others part the rest in proportion, to within one row.
    Where there are more blocks than ``max_rows`` each keeps one, and so more rows are kept. Of few rows all are taken.

    Args:
        lonlat_deg: Places, shape (n, 2), longitude first in degrees.
        max_rows: How many rows to keep.
        seed: Of the draw.

    Raises:
        ValueError: ``max_rows`` is below 1.
    """
    if max_rows < 1:
        raise ValueError(f"max_rows is {max_rows}; expected at least 1")
    if len(lonlat_deg) <= max_rows:
        return np.arange(len(lonlat_deg))
    _, block, counts = np.unique(
        block_cells(lonlat_deg, CAP_BLOCK_DEG), axis=0, return_inverse=True, return_counts=True
    )
    order = np.lexsort((np.random.default_rng(seed).random(len(block)), block))
    rank = np.empty(len(block), dtype=np.intp)
    rank[order] = np.arange(len(block)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.flatnonzero(rank < _quotas(counts, max_rows)[block])


def _quotas(counts: NDArray[np.intp], total: int) -> NDArray[np.intp]:
    if len(counts) >= total:
        return np.ones(len(counts), dtype=np.intp)
    small = np.zeros(len(counts), dtype=bool)
    while True:
        share = np.where(small, 1.0, counts * ((total - small.sum()) / counts[~small].sum()))
        if not (share < 1.0).any():
            break
        small |= share < 1.0
    quotas = np.floor(share).astype(np.intp)
    missing = total - int(quotas.sum())
    quotas[np.argsort(quotas - share, kind="stable")[:missing]] += 1
    return quotas
