"""Labels from a table of places with the names of their classes."""

import numpy as np

from pipelines.errors import TableError
from pipelines.evaluation.tasks import TaskData
from pipelines.ground_cover.classes import LandCoverClasses
from pipelines.ground_cover.labels import NO_YEAR, UNKNOWN_CODES, VALID, GroundCoverLabels


def labels_of_task(task: TaskData, classes: LandCoverClasses) -> GroundCoverLabels:
    """Labels of a table's places: each class that is named has an equal share.

    Names that the classes do not have are left out; a place that has no other has the status ``unknown_codes``. Rows
    that the task left out are counted there.

    Args:
        task: A classification or multilabel task, as `pipelines.evaluation.tasks.load_task` reads it from any table.
        classes: Their names are those of the table.

    Raises:
        TableError: The task is a regression, or none of its classes is known.
    """
    if task.config.kind == "regression":
        raise TableError(f"task {task.config.name}: a regression has no classes; expected classification or multilabel")
    known = [(column, classes.index_of_name(name)) for column, name in enumerate(task.classes) if name in classes.names]
    if not known:
        raise TableError(
            f"task {task.config.name}: none of its classes {', '.join(task.classes[:5])} is in {classes.name}: "
            f"{', '.join(classes.names[:5])}; give the mapping whose names the table has"
        )
    has = task.target if task.target.ndim == 2 else np.eye(len(task.classes), dtype=bool)[task.target]
    members = np.zeros((task.num_places, len(classes)), dtype=bool)
    for column, position in known:
        members[:, position] |= has[:, column]
    num_labels = members.sum(axis=1)
    return GroundCoverLabels(
        rows=np.arange(task.num_places, dtype=np.int64),
        lonlat_deg=task.lonlat_deg,
        fractions=(members / np.maximum(num_labels, 1)[:, None]).astype(np.float32),
        num_valid_pixels=num_labels.astype(np.int64),
        label_year=np.full(task.num_places, NO_YEAR, dtype=np.int64),
        status=tuple(VALID if number else UNKNOWN_CODES for number in num_labels),
        classes=classes,
    )
