"""The command ``satclip evaluate``."""

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pipelines.errors import ArtefactError, ConfigurationError, MissingWeightsError

if TYPE_CHECKING:
    from pipelines.evaluation.run import Evaluation, EvaluationProtocol
    from pipelines.evaluation.scores import Method
    from pipelines.evaluation.tasks import TaskConfig
    from satclip_model.config import LocationEncoderConfig

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

MAX_CLASSES_OF_WHOLE_NUMBERS: Final = 20
"""A column of whole numbers with no more distinct values is taken for classes, unless said otherwise."""
_SUFFIXES: Final = (".csv", ".parquet")


def add_evaluate_command(commands: "Commands") -> None:
    """Adds ``evaluate`` to the parser of ``satclip``."""
    parser = commands.add_parser(
        "evaluate", help="downstream scores of models on tables of places, with baselines and intervals"
    )
    table = parser.add_argument_group("one table")
    table.add_argument("--table", default=None, help="CSV, Parquet or GeoParquet with places and a target")
    table.add_argument(
        "--lon", "--lon-column", default="lon", metavar="COLUMN", help="longitudes in degrees; default lon"
    )
    table.add_argument(
        "--lat", "--lat-column", default="lat", metavar="COLUMN", help="latitudes in degrees; default lat"
    )
    table.add_argument("--target", default=None, metavar="COLUMN", help="what to predict")
    table.add_argument("--kind", choices=("auto", "regression", "classification", "multilabel"), default="auto")
    table.add_argument("--transform", choices=("none", "log1p", "standardise"), default="none")
    several = parser.add_argument_group("declared tasks")
    several.add_argument(
        "--tasks", nargs="+", default=(), metavar="NAME", help="registered tasks or data sets, or YAML files of tasks"
    )
    several.add_argument("--tables-root", default=None, help="where their tables are; default $SATCLIP_TABLES_ROOT")
    several.add_argument("--list", action="store_true", help="list the registered tasks and end")
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="CHECKPOINT_OR_NAME",
        help="checkpoint (path, OWNER/NAME:FILE or a released model) or sincos, harmonics, untrained, geoclip, "
        "csp:PATH, gps2vec:FOLDER, sinr:PATH, torchgeo:PATH; may be given several times",
    )
    parser.add_argument(
        "--baselines", action=argparse.BooleanOptionalAction, default=True, help="whether to score the baselines, too"
    )
    parser.add_argument("--protocol", choices=("quick", "full"), default="quick", help="default quick; see the docs")
    parser.add_argument(
        "--continents", type=Path, default=None, help="Natural Earth's countries, for held-out continents"
    )
    parser.add_argument("--download", action="store_true", help="fetch tables and checkpoints that are not there")
    parser.add_argument(
        "--work", type=Path, default=None, help="folder that keeps finished tasks, so that the same call goes on there"
    )
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a task or a model could not be scored")
    parser.add_argument("--out", type=Path, default=None, help="file of the scores, .csv or .parquet")
    parser.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    if options.list:
        return _list_tasks(options)
    _require_options(options)
    from pipelines.evaluation.run import EvaluationProtocol, evaluate_tasks

    tables_root = _tables_root(options)
    tasks = _tasks(options)
    protocol = EvaluationProtocol.quick() if options.protocol == "quick" else EvaluationProtocol.full()
    methods = _open_methods(options)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.work or Path(scratch)
        evaluation = evaluate_tasks(
            tasks,
            lambda _: methods,
            protocol,
            folder,
            tables_root=tables_root,
            continents=options.continents,
            download=options.download,
        )
    _write(options.out, evaluation)
    _tell(evaluation, protocol, options.out)
    if evaluation.scores.empty:
        return 1
    return int(options.strict and bool(evaluation.failures or evaluation.scores["metric_value"].isna().any()))


def _require_options(options: argparse.Namespace) -> None:
    if (options.table is None) == (not options.tasks):
        given = "neither" if options.table is None else "both"
        raise ConfigurationError(f"evaluate: expected --table or --tasks, found {given}; give one of them")
    if options.table is not None and options.target is None:
        raise ConfigurationError("evaluate: --table needs --target; name the column to predict")
    if options.out is None or options.out.suffix not in _SUFFIXES:
        raise ConfigurationError(f"--out is {options.out}; expected a name that ends in .csv or .parquet")
    if options.out.is_dir():
        raise ConfigurationError(f"--out is {options.out}, which is a folder; name a file")
    if not options.model and not options.baselines:
        raise ConfigurationError("evaluate: no --model and no baselines; name a model or leave out --no-baselines")


def _tables_root(options: argparse.Namespace) -> str | None:
    root: str | None = options.tables_root or os.environ.get("SATCLIP_TABLES_ROOT")
    return root


def _tasks(options: argparse.Namespace) -> "list[TaskConfig]":
    from pipelines.evaluation.tasks import find_tasks, read_tasks

    if options.table is not None:
        return [_task_of_table(options)]
    tasks: list[TaskConfig] = []
    for name in options.tasks:
        tasks += read_tasks(Path(name)) if Path(name).suffix in {".yaml", ".yml"} else find_tasks([name])
    repeated = sorted({task.name for task in tasks if [each.name for each in tasks].count(task.name) > 1})
    if repeated:
        raise ConfigurationError(f"--tasks: {', '.join(repeated)} named twice, expected each task once; rename one")
    return tasks


def _task_of_table(options: argparse.Namespace) -> "TaskConfig":
    from pydantic import ValidationError

    from pipelines.embeddings.points import is_url
    from pipelines.evaluation.tasks import TaskConfig
    from satclip_model.config import told

    table = options.table if is_url(options.table) else str(Path(options.table).resolve())
    name = re.sub(r"[^\w .-]+", "_", options.target).strip() or "target"
    try:
        draft = TaskConfig(
            name=name if re.match(r"\w", name) else f"_{name}",
            table=table,
            lon_column=options.lon,
            lat_column=options.lat,
            target=options.target,
            kind="classification" if options.kind == "auto" else options.kind,
            transform="none" if options.kind == "auto" else options.transform,
        )
        if options.kind != "auto":
            return draft
        kind = _guess_kind(draft)
        return TaskConfig(**{**draft.model_dump(), "kind": kind, "transform": options.transform})
    except ValidationError as error:
        raise ConfigurationError(f"evaluate: {told(error)}; correct the options") from error


def _guess_kind(task: "TaskConfig") -> str:
    import pandas as pd

    from pipelines.evaluation.tasks.tables import read_task_table

    table, _ = read_task_table(task, task.table)
    values = table[task.target]
    present = values[values.notna() & (values.astype(str).str.strip() != "")]
    numbers = pd.to_numeric(present, errors="coerce")
    if numbers.isna().mean() > 0.5:
        kind, why = "classification", "it holds text"
    elif (numbers.dropna() % 1 == 0).all() and numbers.nunique() <= MAX_CLASSES_OF_WHOLE_NUMBERS:
        kind, why = "classification", f"it holds {numbers.nunique()} distinct whole numbers"
    else:
        kind, why = "regression", f"it holds {numbers.nunique()} distinct numbers"
    print(f"{task.target}: {kind}, as {why}; --kind says otherwise")
    return kind


def _open_methods(options: argparse.Namespace) -> "list[Method]":
    """The methods asked for; those without weights say so in their rows.

    Raises:
        MissingWeightsError: There is only one model, and it has no weights.
    """
    from pipelines.evaluation.methods import BASELINES, open_method
    from pipelines.evaluation.scores import MissingMethod

    names = list(dict.fromkeys([*options.model, *(BASELINES if options.baselines else ())]))
    reference = _reference(options.model, download=options.download)
    methods: list[Method] = []
    for name in names:
        try:
            methods.append(open_method(name, reference=reference, download=options.download))
        except MissingWeightsError as error:
            if options.model == [name]:
                raise
            print(f"satclip: {error}", file=sys.stderr)
            methods.append(MissingMethod(name, str(error)))
    return _distinctly_named(methods, names)


def _reference(models: Sequence[str], *, download: bool) -> "LocationEncoderConfig | None":
    """Configuration of the first model that is a checkpoint, whose harmonics and untrained twin are the baselines."""
    from pipelines.evaluation.methods import method_names
    from satclip_model.checkpoint.loading import load_location_encoder
    from satclip_model.errors import CheckpointError

    for name in models:
        if name.partition(":")[0] not in method_names():
            try:
                return load_location_encoder(name, download=download).config
            except CheckpointError:
                return None
    return None


def _distinctly_named(methods: "list[Method]", names: Sequence[str]) -> "list[Method]":
    """Several checkpoints are called after their files, and numbered where those are called alike."""
    from dataclasses import replace

    from pipelines.evaluation.methods import EncoderFeatures

    own = [index for index, each in enumerate(methods) if isinstance(each, EncoderFeatures)]
    stems = [Path(names[index].rpartition(":")[2]).stem for index in own]
    distinct = list(methods)
    for number, (index, stem) in enumerate(zip(own, stems, strict=True), start=1):
        method = methods[index]
        if len(own) > 1 and isinstance(method, EncoderFeatures):
            suffix = f" {number}" if stems.count(stem) > 1 else ""
            distinct[index] = replace(method, name=f"{method.name} {stem}{suffix}")
    return distinct


def _write(path: Path, evaluation: "Evaluation") -> None:
    from pipelines.atomic import replacing

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            if path.suffix == ".csv":
                evaluation.scores.to_csv(partial, index=False)
            else:
                evaluation.scores.to_parquet(partial, index=False)
    except OSError as error:
        raise ArtefactError(f"{path}: cannot be written ({error.strerror or error}); name another file") from error


def _tell(evaluation: "Evaluation", protocol: "EvaluationProtocol", out: Path) -> None:
    from pipelines.evaluation.summaries import markdown_table

    for task, notes in evaluation.notes.items():
        for note in notes:
            print(f"{task}: {note}")
    if not evaluation.scores.empty:
        print(f"\n{markdown_table(evaluation.scores)}")
    for task, reason in evaluation.failures.items():
        print(f"not scored  {task}: {reason}", file=sys.stderr)
    rows, seconds = len(evaluation.scores), evaluation.seconds
    seeds = f"{len(protocol.seeds)} seed{'s' if len(protocol.seeds) > 1 else ''}"
    print(f"evaluated {len(evaluation.notes)} tasks, {rows} rows, {seeds}, in {seconds:.0f} s: {out}")


def _list_tasks(options: argparse.Namespace) -> int:
    from pipelines.evaluation.tasks import describe_tasks

    rows = describe_tasks(_tables_root(options))
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        there = {True: "there", False: "not there", None: ""}[row["available"]]
        print(f"{row['name']:<{width}}  {row['kind']:<14}  {row['table']:<44}  {there:<9}  {row['licence'] or ''}")
    return 0
