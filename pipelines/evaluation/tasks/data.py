"""What a task's table gives: places, targets, and what was left out."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.evaluation.tasks.config import TaskConfig


@dataclass(frozen=True)
class TaskData:
    """A task's places and targets, rows in the order of the table.

    Attributes:
        config: The task.
        lonlat_deg: Places, shape (n, 2), longitude first.
        target: Of a regression the transformed numbers (float64), shape (n,); of a classification positions in
            ``classes`` (int64), shape (n,); of a multilabel task which classes a place has (bool), shape (n, classes).
        classes: Names of the classes in ascending order; empty for a regression.
        num_dropped: Rows of the table left out, by reason.
        table_sha256: SHA-256 of the table's file; empty for data that come from no file.
        rows: Rows of the table, left out or not.
    """

    config: TaskConfig
    lonlat_deg: NDArray[np.float64]
    target: NDArray[Any]
    classes: tuple[str, ...]
    num_dropped: dict[str, int]
    table_sha256: str = ""
    rows: int = 0

    @property
    def num_places(self) -> int:
        """Number of places with a target."""
        return len(self.target)

    @property
    def num_repeated(self) -> int:
        """Places whose coordinates an earlier place has too; they are kept, and folds keep them together."""
        return self.num_places - len(np.unique(self.lonlat_deg, axis=0))

    @property
    def single_classes(self) -> tuple[str, ...]:
        """Classes with one place; they are kept, but no fold can both learn and test them."""
        if not self.classes:
            return ()
        members = self.target.sum(axis=0) if self.target.ndim == 2 else np.bincount(self.target, minlength=1)
        return tuple(self.classes[index] for index in np.flatnonzero(members == 1))

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of a score should know of the table: rows left out, repeats, classes of one, other content."""
        lines = [
            f"{count} of {self.rows} rows left out: {reason}" for reason, count in self.num_dropped.items() if count
        ]
        if self.num_repeated:
            lines.append(f"{self.num_repeated} places repeat the coordinates of another, kept in the same fold")
        if self.single_classes:
            shown = ", ".join(map(repr, self.single_classes[:5]))
            more = f" and {len(self.single_classes) - 5} more" if len(self.single_classes) > 5 else ""
            lines.append(f"{len(self.single_classes)} classes have one member, kept: {shown}{more}")
        declared = self.config.download.sha256 if self.config.download else None
        if declared is not None and self.table_sha256 not in ("", declared):
            lines.append(f"the table is not the one declared: SHA-256 {self.table_sha256}, declared {declared}")
        return tuple(lines)
