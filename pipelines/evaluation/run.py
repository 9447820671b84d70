"""Many tasks by one protocol: each in a file of its own, so that what is there is not computed again."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipelines.atomic import replacing
from pipelines.errors import SatclipError
from pipelines.evaluation.intervals import NUM_RESAMPLES
from pipelines.evaluation.probes import PROBES, InverseDistance
from pipelines.evaluation.scores import COLUMNS, Method, evaluate
from pipelines.evaluation.splits import SplitConfig
from pipelines.evaluation.tasks import TaskConfig, TaskData, load_task
from pipelines.provenance import content_hash, git_commit, package_versions

logger = logging.getLogger(__name__)

KEY: Final = "evaluation_key"
PROVENANCE: Final = "provenance"
_FORMAT: Final = 1
QUICK_MAX_ROWS: Final = 20_000

ProbeName = Literal["ridge", "knn", "mlp"]


class EvaluationProtocol(BaseModel):
    """How tasks are evaluated.

    Attributes:
        probes: What predicts the target from features.
        interpolation: Whether inverse-distance interpolation is among the rows.
        splits: How places are divided.
        seeds: Of the folds.
        max_rows: At most so many rows of a table, drawn per block of 10 degrees; None takes all.
        num_resamples: Resamples of an interval.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    probes: tuple[ProbeName, ...] = Field(default=("ridge",), min_length=1)
    interpolation: bool = True
    splits: tuple[SplitConfig, ...] = Field(min_length=1)
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0,), min_length=1)
    max_rows: int | None = Field(default=None, ge=1)
    num_resamples: int = Field(default=NUM_RESAMPLES, ge=10, le=100_000)

    @model_validator(mode="after")
    def _nothing_twice(self) -> Self:
        for what, names in (("probes", self.probes), ("seeds", self.seeds), ("splits", self.splits)):
            if len(set(names)) < len(names):
                raise ValueError(f"{what} are {names}; expected each once")
        return self

    @classmethod
    def quick(cls) -> Self:
        """Ridge and nearest neighbours, random folds and blocks of 10 degrees, one seed, 20,000 rows at most."""
        splits = (SplitConfig(kind="random"), SplitConfig(kind="blocks", cell_deg=10.0))
        return cls(probes=("ridge", "knn"), splits=splits, max_rows=QUICK_MAX_ROWS)

    @classmethod
    def full(cls) -> Self:
        """All probes, random folds, blocks of 1, 5, 10 and 20 degrees, continents held out, three seeds, all rows."""
        blocks = (SplitConfig(kind="blocks", cell_deg=cell_deg) for cell_deg in (1.0, 5.0, 10.0, 20.0))
        splits = (SplitConfig(kind="random"), *blocks, SplitConfig(kind="continents"))
        return cls(probes=("ridge", "knn", "mlp"), splits=splits, seeds=(0, 1, 2))


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation gave.

    Attributes:
        scores: Rows of all tasks that could be loaded, in the order asked for.
        failures: Task and reason, of those that could not.
        notes: Task and what was left out of its table.
        num_reused: Tasks whose rows were there already.
        seconds: Wall-clock seconds.
    """

    scores: pd.DataFrame
    failures: dict[str, str]
    notes: dict[str, tuple[str, ...]]
    num_reused: int
    seconds: float


def evaluate_tasks(
    tasks: Sequence[TaskConfig],
    methods_of: Callable[[TaskData], Sequence[Method]],
    protocol: EvaluationProtocol,
    folder: Path,
    *,
    tables_root: str | Path | None = None,
    continents: Path | None = None,
    download: bool = False,
) -> Evaluation:
    """Evaluates tasks one after the other; one that cannot be loaded is noted, the others go on.

    Each task's rows are written to ``folder`` as soon as they are known, together with a hash of all that they follow
    from: task, content of its table, methods, protocol. The same call takes them from there. Neighbouring tasks at the
    same places are evaluated together; a run that was killed loses one such group at most.

    Args:
        tasks: The tasks; names must differ.
        methods_of: The methods for the places of a task.
        protocol: Probes, splits and seeds.
        folder: Where the tasks' files are.
        tables_root: Where relative names of tables are looked up.
        continents: Polygons of continents; None takes the default of `continent_of`.
        download: Whether tables that are not there are fetched, where the task says from where.
    """
    started = time.monotonic()
    failures: dict[str, str] = {}
    todo: list[_Todo] = []
    found: dict[str, pd.DataFrame] = {}
    for task in tasks:
        try:
            data = load_task(task, tables_root, max_rows=protocol.max_rows, download=download)
            methods = list(methods_of(data))
        except SatclipError as error:
            logger.warning("task %s: left out: %s", task.name, error)
            failures[task.name] = str(error)
            continue
        path, key = folder / f"{task.name}.parquet", _key(data, methods, protocol)
        todo.append(_Todo(data, methods, path, key))
        scores = _read(path, key)
        if scores is not None:
            found[task.name] = scores
    num_reused = len(found)
    for group in _groups([each for each in todo if each.name not in found]):
        scores = _evaluate([each.data for each in group], group[0].methods, protocol, continents)
        for each in group:
            found[each.name] = scores[scores["task"] == each.name].reset_index(drop=True)
            _write(each.path, found[each.name], each.key)
        done, elapsed = len(found) - num_reused, time.monotonic() - started
        left = elapsed / done * (len(todo) - len(found))
        names = ", ".join(each.name for each in group)
        logger.info("%s: %d rows; %d of %d tasks, %.0f s left", names, len(scores), len(found), len(todo), left)
    seconds = time.monotonic() - started
    logger.info("%d tasks evaluated in %.1f s, %d of them before", len(found), seconds, num_reused)
    frames = [found[each.name] for each in todo]
    together = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(COLUMNS))
    return Evaluation(together, failures, {each.name: each.data.notes for each in todo}, num_reused, seconds)


@dataclass(frozen=True)
class _Todo:
    """A task that could be loaded, and where its rows go."""

    data: TaskData
    methods: list[Method]
    path: Path
    key: str

    @property
    def name(self) -> str:
        return self.data.config.name


def _groups(todo: Sequence[_Todo]) -> list[list[_Todo]]:
    """Neighbouring tasks with the same places and methods."""
    groups: list[list[_Todo]] = []
    for each in todo:
        names = [(method.name, method.target) for method in each.methods]
        if (
            groups
            and [(method.name, method.target) for method in groups[-1][0].methods] == names
            and np.array_equal(groups[-1][0].data.lonlat_deg, each.data.lonlat_deg)
        ):
            groups[-1].append(each)
        else:
            groups.append([each])
    return groups


def _evaluate(
    tasks: Sequence[TaskData], methods: Sequence[Method], protocol: EvaluationProtocol, continents: Path | None
) -> pd.DataFrame:
    return evaluate(
        tasks,
        methods,
        protocol.splits,
        protocol.seeds,
        protocol.num_resamples,
        probes=[PROBES[name] for name in protocol.probes],
        interpolation=InverseDistance() if protocol.interpolation else None,
        continents=continents,
    )


def _key(data: TaskData, methods: Sequence[Method], protocol: EvaluationProtocol) -> str:
    return content_hash(
        {
            "format": _FORMAT,
            "task": data.config.model_dump(mode="json"),
            "table_sha256": data.table_sha256,
            "methods": [[each.name, each.target] for each in methods],
            "protocol": protocol.model_dump(mode="json"),
        }
    )


def _read(path: Path, key: str) -> pd.DataFrame | None:
    if not path.is_file():
        return None
    try:
        scores = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        logger.warning("%s: cannot be read (%s); the task is evaluated again", path, error)
        return None
    return scores if scores.attrs.get(KEY) == key else None


def _write(path: Path, scores: pd.DataFrame, key: str) -> None:
    provenance: dict[str, Any] = {"packages": package_versions(), "commit": git_commit()}
    scores.attrs.update({KEY: key, PROVENANCE: provenance})
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        scores.to_parquet(partial, index=False)
    scores.attrs.clear()
